//! Which device nodes a group's processes may use: lists of v1's `devices` controller, a filter
//! program on v2. Both are made from the same rules.

use std::fmt;

/// Devices of one kind, and what may be done with them. No number means every number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    pub block: bool,
    pub major: Option<u32>,
    pub minor: Option<u32>,
    pub access: Access,
}

/// Reading, writing, making a node: bits as the kernel's filters have them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access(u8);

const MAKE: u8 = 1;
const READ: u8 = 2;
const WRITE: u8 = 4;

const ANY: Access = Access(READ | WRITE | MAKE);

/// What every container may use (as the OCI runtimes': opencontainers/runtime-spec, Default Devices),
/// and that it may make nodes of whatever kind.
pub const DEFAULT: [Rule; 10] = [
    rule(false, None, None, Access(MAKE)),
    rule(true, None, None, Access(MAKE)),
    rule(false, Some(1), Some(3), ANY),
    rule(false, Some(1), Some(5), ANY),
    rule(false, Some(1), Some(7), ANY),
    rule(false, Some(1), Some(8), ANY),
    rule(false, Some(1), Some(9), ANY),
    rule(false, Some(5), Some(0), ANY),
    rule(false, Some(5), Some(2), ANY),
    // Terminals.
    rule(false, Some(136), None, ANY),
];

const fn rule(block: bool, major: Option<u32>, minor: Option<u32>, access: Access) -> Rule {
    Rule { block, major, minor, access }
}

impl Rule {
    /// One device, by its number as stat(2) tells it.
    pub fn device(block: bool, number: u64, access: Access) -> Rule {
        let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
        Rule { block, major: Some(major), minor: Some(minor), access }
    }
}

impl Access {
    /// From the letters r, w and m of CRI; none at all is everything.
    pub fn parse(letters: &str) -> Option<Access> {
        let bits = letters.chars().try_fold(0, |bits, letter| match letter {
            'r' => Some(bits | READ),
            'w' => Some(bits | WRITE),
            'm' => Some(bits | MAKE),
            _ => None,
        })?;
        Some(if bits == 0 { ANY } else { Access(bits) })
    }
}

/// A line of `devices.allow`.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |number: Option<u32>| number.map_or("*".to_owned(), |n| n.to_string());
        let kind = if self.block { 'b' } else { 'c' };
        write!(f, "{kind} {}:{} ", number(self.major), number(self.minor))?;
        for (bit, letter) in [(READ, "r"), (WRITE, "w"), (MAKE, "m")] {
            if self.access.0 & bit != 0 {
                f.write_str(letter)?;
            }
        }
        Ok(())
    }
}

const BLOCK: i32 = 1;
const CHARACTER: i32 = 2;

/// Registers of the filter: what it answers, and the request's parts.
const ANSWER: u8 = 0;
const CONTEXT: u8 = 1;
const TYPE: u8 = 2;
const WANTED: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;
const SCRATCH: u8 = 6;

const LOAD_32: u8 = 0x61;
const MOVE: u8 = 0xb7;
const COPY: u8 = 0xbf;
const AND_32: u8 = 0x54;
const SHIFT_RIGHT_32: u8 = 0x74;
const JUMP_NOT_EQUAL: u8 = 0x55;
const EXIT: u8 = 0x95;

/// The eBPF program that allows what one of the rules does, and nothing else. It reads a `struct
/// bpf_cgroup_dev_ctx`: access (upper half) and type (lower half), major, minor.
pub fn filter(rules: &[Rule]) -> Vec<u8> {
    let mut code = Vec::new();
    instruction(&mut code, LOAD_32, TYPE, CONTEXT, 0, 0);
    instruction(&mut code, COPY, WANTED, TYPE, 0, 0);
    instruction(&mut code, AND_32, TYPE, 0, 0, 0xffff);
    instruction(&mut code, SHIFT_RIGHT_32, WANTED, 0, 0, 16);
    instruction(&mut code, LOAD_32, MAJOR, CONTEXT, 4, 0);
    instruction(&mut code, LOAD_32, MINOR, CONTEXT, 8, 0);
    for rule in rules {
        let mut checks: Vec<(u8, i32)> = vec![(TYPE, if rule.block { BLOCK } else { CHARACTER })];
        checks.extend(rule.major.map(|major| (MAJOR, major as i32)));
        checks.extend(rule.minor.map(|minor| (MINOR, minor as i32)));
        let limited = rule.access != ANY;
        // What is left of the rule behind a check: the other checks, three for the access, two to
        // answer.
        let mut left = checks.len() as i16 + if limited { 3 } else { 0 } + 2;
        for (register, value) in checks {
            left -= 1;
            instruction(&mut code, JUMP_NOT_EQUAL, register, 0, left, value);
        }
        if limited {
            // More than the rule grants.
            instruction(&mut code, COPY, SCRATCH, WANTED, 0, 0);
            instruction(&mut code, AND_32, SCRATCH, 0, 0, !i32::from(rule.access.0));
            instruction(&mut code, JUMP_NOT_EQUAL, SCRATCH, 0, 2, 0);
        }
        instruction(&mut code, MOVE, ANSWER, 0, 0, 1);
        instruction(&mut code, EXIT, 0, 0, 0, 0);
    }
    instruction(&mut code, MOVE, ANSWER, 0, 0, 0);
    instruction(&mut code, EXIT, 0, 0, 0, 0);
    code
}

fn instruction(code: &mut Vec<u8>, op: u8, to: u8, from: u8, offset: i16, value: i32) {
    // Two registers share a byte, the target in its lower half, or its upper on big endian.
    let registers = if cfg!(target_endian = "little") { from << 4 | to } else { to << 4 | from };
    code.extend([op, registers]);
    code.extend(offset.to_ne_bytes());
    code.extend(value.to_ne_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn rules_are_lines() {
        let lines: Vec<String> = DEFAULT.iter().map(Rule::to_string).collect();
        assert_eq!(lines[..3], ["c *:* m", "b *:* m", "c 1:3 rwm"]);
        assert_eq!(lines.last().unwrap(), "c 136:* rwm");
        let disk = rustix::fs::makedev(254, 3);
        let rule = Rule::device(true, disk, Access::parse("r").unwrap());
        assert_eq!(rule.to_string(), "b 254:3 r");
        assert_eq!(Access::parse(""), Access::parse("mwr"));
        assert_eq!(Access::parse("x"), None);
    }

    /// Runs a filter as the kernel would.
    fn decide(code: &[u8], block: bool, major: u32, minor: u32, access: u8) -> bool {
        let context = [(u32::from(access) << 16) | if block { 1 } else { 2 }, major, minor];
        let mut registers = [0u64; 10];
        let mut at = 0;
        loop {
            let word = &code[at * 8..at * 8 + 8];
            let (to, from) = ((word[1] & 15) as usize, (word[1] >> 4) as usize);
            let offset = i16::from_ne_bytes([word[2], word[3]]);
            let value = i32::from_ne_bytes(word[4..8].try_into().unwrap());
            at += 1;
            match word[0] {
                LOAD_32 => registers[to] = u64::from(context[offset as usize / 4]),
                COPY => registers[to] = registers[from],
                MOVE => registers[to] = value as u64,
                AND_32 => registers[to] &= u64::from(value as u32),
                SHIFT_RIGHT_32 => registers[to] >>= value,
                JUMP_NOT_EQUAL if registers[to] != value as u64 => at += offset as usize,
                JUMP_NOT_EQUAL => {}
                EXIT => return registers[0] != 0,
                other => panic!("no instruction {other:x}"),
            }
        }
    }

    #[test]
    fn filters_allow_what_rules_do() {
        let mut rules = DEFAULT.to_vec();
        rules.push(Rule::device(true, rustix::fs::makedev(254, 0), Access(READ)));
        let code = filter(&rules);
        let table = [
            (false, 1, 3, READ | WRITE, true),
            (false, 1, 11, READ, false),
            (false, 1, 1, MAKE, true),
            (true, 8, 0, MAKE, true),
            (true, 8, 0, MAKE | READ, false),
            (true, 254, 0, READ, true),
            (true, 254, 0, WRITE, false),
            (true, 254, 1, READ, false),
            (false, 136, 77, READ | WRITE, true),
            (false, 10, 229, READ, false),
        ];
        for (block, major, minor, access, expected) in table {
            let found = decide(&code, block, major, minor, access);
            assert_eq!(found, expected, "{block} {major}:{minor} {access}");
        }
        assert!(!decide(&filter(&[]), false, 1, 3, READ));
    }

    #[test]
    fn the_kernel_takes_the_filter() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED: this test needs root");
            return;
        }
        let program = crate::runtime::sys::load_device_filter(&filter(&DEFAULT)).unwrap();
        let root = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let root = root.lines().find(|line| line.contains(" - cgroup2 "));
        let Some(root) = root.and_then(|line| line.split(' ').nth(4)) else {
            eprintln!("SKIPPED: this test needs cgroup v2");
            return;
        };
        let group = std::path::Path::new(root).join(format!("coracle-dev-{}", std::process::id()));
        std::fs::create_dir(&group).unwrap();
        let folder = std::fs::File::open(&group).unwrap();
        let attached = crate::runtime::sys::attach_device_filter(program.as_fd(), folder.as_fd());
        // Whoever is in the group can read what is allowed, and nothing else.
        let script = format!(
            "echo 0 > {}/cgroup.procs; head -c 1 /dev/zero >/dev/null || exit 1; head -c 0 /dev/kmsg && exit 2; exit 0",
            group.display()
        );
        let status = std::process::Command::new("sh").args(["-c", &script]).status();
        std::fs::remove_dir(&group).unwrap();
        attached.unwrap();
        assert_eq!(status.unwrap().code(), Some(0));
    }
}
