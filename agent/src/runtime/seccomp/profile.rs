//! Profiles in the OCI's JSON (opencontainers/runtime-spec, Linux, Seccomp), compiled for the kernel.
//! Rules are kept in their order; one without arguments decides over its call whatever else is said
//! of it, as with libseccomp.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::Filter;
use super::numbers::number;

#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    #[error("not the JSON of a profile: {0}")]
    Json(String),
    #[error("unknown action \"{0}\"")]
    Action(String),
    #[error("action SCMP_ACT_NOTIFY needs a listener, which is not supported")]
    Notify,
    #[error("unknown flag \"{0}\"")]
    Flag(String),
    #[error("unknown operator \"{0}\"")]
    Operator(String),
    #[error("a system call has six arguments, none of number {0}")]
    Argument(u32),
    #[error("it is not for this machine's architecture")]
    Architecture,
    #[error("it makes a program of {0} instructions; the kernel takes 4096")]
    Length(usize),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Profile {
    default_action: String,
    default_errno_ret: Option<u32>,
    #[serde(default, deserialize_with = "proto::meta::or_default")]
    architectures: Vec<String>,
    #[serde(default, deserialize_with = "proto::meta::or_default")]
    flags: Vec<String>,
    #[serde(default)]
    listener_path: String,
    #[serde(default, deserialize_with = "proto::meta::or_default")]
    syscalls: Vec<Rule>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    names: Vec<String>,
    action: String,
    errno_ret: Option<u32>,
    #[serde(default, deserialize_with = "proto::meta::or_default")]
    args: Vec<Argument>,
}

#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Argument {
    index: u32,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: String,
}

const RET_ERRNO: u32 = 0x0005_0000;
const RET_ALLOW: u32 = 0x7fff_0000;
const RET_KILL_PROCESS: u32 = 0x8000_0000;
const LONGEST: usize = 4096;

/// Where struct seccomp_data has what.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

#[cfg(target_arch = "x86_64")]
const OWN: (&str, u32) = ("SCMP_ARCH_X86_64", 0xc000_003e);
#[cfg(not(target_arch = "x86_64"))]
const OWN: (&str, u32) = ("SCMP_ARCH_AARCH64", 0xc000_00b7);

/// Calls of the x32 ABI, which no profile here means.
const X32: u32 = 0x4000_0000;

/// Compiles a profile for this machine.
pub fn compile(json: &[u8]) -> Result<Filter, ProfileError> {
    let profile: Profile =
        serde_json::from_slice(json).map_err(|error| ProfileError::Json(error.to_string()))?;
    if !profile.listener_path.is_empty() {
        return Err(ProfileError::Notify);
    }
    let architectures = &profile.architectures;
    if !architectures.is_empty() && !architectures.iter().any(|name| name == OWN.0) {
        return Err(ProfileError::Architecture);
    }
    let default = action(&profile.default_action, profile.default_errno_ret)?;
    let flags = profile.flags.iter().try_fold(0, |flags, name| Ok(flags | flag(name)?))?;
    let calls = by_call(&profile.syscalls)?;
    let mut code = Code::default();
    code.load(ARCHITECTURE);
    code.jump(EQUAL, OWN.1, 1, 0);
    code.answer(RET_KILL_PROCESS);
    code.load(NUMBER);
    let missing = RET_ERRNO | libc::ENOSYS as u32;
    if cfg!(target_arch = "x86_64") {
        code.jump(AT_LEAST, X32, 0, 1);
        code.answer(missing);
    }
    // A call that is younger than the profile looks as if it were not there: programs then do without,
    // while they take a refusal to heart.
    let newest = calls.keys().max().copied();
    if let Some(newest) = newest.filter(|_| default & 0xffff_0000 == RET_ERRNO) {
        code.jump(GREATER, newest, 0, 1);
        code.answer(missing);
    }
    for (number, rules) in calls {
        code.call(number, &rules, default);
    }
    code.answer(default);
    match code.0.len() / 8 {
        length if length > LONGEST => Err(ProfileError::Length(length)),
        _ => Ok(Filter { code: code.0, flags }),
    }
}

/// One way to an action: all of these must hold.
struct Way {
    action: u32,
    tests: Vec<Test>,
}

#[derive(Clone, Copy)]
struct Test {
    argument: u32,
    op: Op,
    value: u64,
    /// Of the comparison with a mask.
    masked: u64,
}

#[derive(Clone, Copy, PartialEq)]
enum Op {
    Ne,
    Lt,
    Le,
    Eq,
    Ge,
    Gt,
    MaskedEq,
}

/// The rules of each call. Names that this machine does not know are left out.
fn by_call(rules: &[Rule]) -> Result<BTreeMap<u32, Vec<Way>>, ProfileError> {
    let mut calls: BTreeMap<u32, Vec<Way>> = BTreeMap::new();
    for rule in rules {
        let action = action(&rule.action, rule.errno_ret)?;
        let tests = rule.args.iter().map(test).collect::<Result<Vec<Test>, _>>()?;
        // One argument tested twice means either of the tests.
        let twice = tests
            .iter()
            .enumerate()
            .any(|(at, test)| tests[..at].iter().any(|other| other.argument == test.argument));
        for number in rule.names.iter().filter_map(|name| number(name)) {
            let ways = calls.entry(number).or_default();
            let settled = ways.iter().any(|way| way.tests.is_empty());
            match twice {
                _ if settled => {}
                true => ways.extend(tests.iter().map(|test| Way { action, tests: vec![*test] })),
                false if tests.is_empty() => *ways = vec![Way { action, tests: Vec::new() }],
                false => ways.push(Way { action, tests: tests.clone() }),
            }
        }
    }
    Ok(calls)
}

fn action(name: &str, errno: Option<u32>) -> Result<u32, ProfileError> {
    let errno = errno.unwrap_or(libc::EPERM as u32) & 0xffff;
    Ok(match name {
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => 0,
        "SCMP_ACT_KILL_PROCESS" => RET_KILL_PROCESS,
        "SCMP_ACT_TRAP" => 0x0003_0000,
        "SCMP_ACT_ERRNO" => RET_ERRNO | errno,
        "SCMP_ACT_TRACE" => 0x7ff0_0000 | errno,
        "SCMP_ACT_ALLOW" => RET_ALLOW,
        "SCMP_ACT_LOG" => 0x7ffc_0000,
        "SCMP_ACT_NOTIFY" => return Err(ProfileError::Notify),
        other => return Err(ProfileError::Action(other.to_owned())),
    })
}

fn flag(name: &str) -> Result<u64, ProfileError> {
    match name {
        // It matters to threads, of which there is one when the filter is loaded.
        "SECCOMP_FILTER_FLAG_TSYNC" => Ok(1),
        "SECCOMP_FILTER_FLAG_LOG" => Ok(2),
        "SECCOMP_FILTER_FLAG_SPEC_ALLOW" => Ok(4),
        other => Err(ProfileError::Flag(other.to_owned())),
    }
}

fn test(argument: &Argument) -> Result<Test, ProfileError> {
    let op = match argument.op.as_str() {
        "SCMP_CMP_NE" => Op::Ne,
        "SCMP_CMP_LT" => Op::Lt,
        "SCMP_CMP_LE" => Op::Le,
        "SCMP_CMP_EQ" => Op::Eq,
        "SCMP_CMP_GE" => Op::Ge,
        "SCMP_CMP_GT" => Op::Gt,
        "SCMP_CMP_MASKED_EQ" => Op::MaskedEq,
        other => return Err(ProfileError::Operator(other.to_owned())),
    };
    if argument.index > 5 {
        return Err(ProfileError::Argument(argument.index));
    }
    let (value, masked) = (argument.value, argument.value_two);
    Ok(Test { argument: argument.index, op, value, masked })
}

const LOAD: u16 = 0x20;
const EQUAL: u16 = 0x15;
const GREATER: u16 = 0x25;
const AT_LEAST: u16 = 0x35;
const AND: u16 = 0x54;
const ANSWER: u16 = 0x06;
const GO: u16 = 0x05;

/// Instructions of classic BPF: the code, two short jumps, a value.
#[derive(Default)]
struct Code(Vec<u8>);

impl Code {
    fn push(&mut self, code: u16, if_true: u8, if_false: u8, k: u32) {
        self.0.extend(code.to_ne_bytes());
        self.0.extend([if_true, if_false]);
        self.0.extend(k.to_ne_bytes());
    }

    fn load(&mut self, offset: u32) {
        self.push(LOAD, 0, 0, offset);
    }

    fn jump(&mut self, comparison: u16, value: u32, if_true: u8, if_false: u8) {
        self.push(comparison, if_true, if_false, value);
    }

    fn answer(&mut self, action: u32) {
        self.push(ANSWER, 0, 0, action);
    }

    /// What becomes of one call. Where it is not that call, the next one's turn comes.
    fn call(&mut self, number: u32, ways: &[Way], default: u32) {
        let mut own = Code::default();
        for way in ways {
            own.way(way);
        }
        if ways.iter().all(|way| !way.tests.is_empty()) {
            own.answer(default);
        }
        self.jump(EQUAL, number, 1, 0);
        self.push(GO, 0, 0, (own.0.len() / 8) as u32);
        self.0.extend(own.0);
    }

    /// The tests of a way and its action; a test that fails goes on behind it.
    fn way(&mut self, way: &Way) {
        let tests: Vec<Code> = way.tests.iter().map(Code::test).collect();
        let mut left: usize = tests.iter().map(|test| test.0.len() / 8 + 2).sum::<usize>() + 1;
        for test in tests {
            left -= test.0.len() / 8 + 2;
            // The test goes on behind itself when it holds, or one instruction earlier.
            self.0.extend(test.0);
            self.push(GO, 0, 0, 1);
            self.push(GO, 0, 0, left as u32);
        }
        self.answer(way.action);
    }

    /// One test of 64 bits, in halves: it ends at the next instruction when it holds, and at the one
    /// after that when it does not.
    fn test(test: &Test) -> Code {
        let mut code = Code::default();
        let halves = |value: u64| ((value >> 32) as u32, value as u32);
        let (low, high) = match cfg!(target_endian = "little") {
            true => (ARGUMENTS + test.argument * 8, ARGUMENTS + test.argument * 8 + 4),
            false => (ARGUMENTS + test.argument * 8 + 4, ARGUMENTS + test.argument * 8),
        };
        let (value_high, value_low) = halves(test.value);
        match test.op {
            Op::Eq | Op::Ne => {
                let (holds, fails) = if test.op == Op::Eq { (0, 1) } else { (1, 0) };
                code.load(high);
                code.jump(EQUAL, value_high, 0, 2 + fails);
                code.load(low);
                code.jump(EQUAL, value_low, holds, fails);
            }
            Op::MaskedEq => {
                let (wanted_high, wanted_low) = halves(test.masked);
                code.load(high);
                code.push(AND, 0, 0, value_high);
                code.jump(EQUAL, wanted_high, 0, 4);
                code.load(low);
                code.push(AND, 0, 0, value_low);
                code.jump(EQUAL, wanted_low, 0, 1);
            }
            Op::Gt | Op::Ge | Op::Lt | Op::Le => {
                // Less is not at least, at most is not greater.
                let comparison =
                    if matches!(test.op, Op::Gt | Op::Le) { GREATER } else { AT_LEAST };
                let negated = matches!(test.op, Op::Lt | Op::Le);
                let (holds, fails) = if negated { (1, 0) } else { (0, 1) };
                code.load(high);
                code.jump(GREATER, value_high, 3 + holds, 0);
                code.jump(EQUAL, value_high, 0, 2 + fails);
                code.load(low);
                code.jump(comparison, value_low, holds, fails);
            }
        }
        code
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a filter as the kernel would.
    fn decide(code: &[u8], number: u32, arguments: [u64; 6]) -> u32 {
        let mut data = Vec::new();
        data.extend(number.to_ne_bytes());
        data.extend(OWN.1.to_ne_bytes());
        data.extend(0u64.to_ne_bytes());
        arguments.iter().for_each(|argument| data.extend(argument.to_ne_bytes()));
        let (mut at, mut accumulator) = (0, 0u32);
        loop {
            let word = &code[at * 8..at * 8 + 8];
            let k = u32::from_ne_bytes(word[4..8].try_into().unwrap());
            at += 1;
            let mut branch = |holds: bool| at += usize::from(if holds { word[2] } else { word[3] });
            match u16::from_ne_bytes(word[..2].try_into().unwrap()) {
                LOAD => {
                    let offset = k as usize;
                    accumulator = u32::from_ne_bytes(data[offset..offset + 4].try_into().unwrap());
                }
                AND => accumulator &= k,
                EQUAL => branch(accumulator == k),
                GREATER => branch(accumulator > k),
                AT_LEAST => branch(accumulator >= k),
                GO => at += k as usize,
                ANSWER => return k,
                other => panic!("no instruction {other:x}"),
            }
        }
    }

    fn call(name: &str) -> u32 {
        number(name).unwrap()
    }

    #[test]
    fn calls_are_allowed_and_refused() {
        let json = br#"{
            "defaultAction": "SCMP_ACT_ERRNO",
            "defaultErrnoRet": 38,
            "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64", "SCMP_ARCH_X86"],
            "flags": ["SECCOMP_FILTER_FLAG_LOG"],
            "syscalls": [
                {"names": ["read", "write", "from_the_future", "openat2"], "action": "SCMP_ACT_ALLOW"},
                {"names": ["mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13},
                {"names": ["getpid"], "action": "SCMP_ACT_KILL_PROCESS", "args": []}
            ]
        }"#;
        let filter = compile(json).unwrap();
        assert_eq!(filter.flags, 2);
        let table = [
            (call("read"), RET_ALLOW),
            (call("mkdirat"), RET_ERRNO | 13),
            (call("getpid"), RET_KILL_PROCESS),
            (call("kill"), RET_ERRNO | 38),
            (call("openat2") + 1, RET_ERRNO | libc::ENOSYS as u32),
        ];
        for (number, expected) in table {
            assert_eq!(decide(&filter.code, number, [0; 6]), expected, "{number}");
        }
    }

    #[test]
    fn arguments_are_compared_whole() {
        let large = 0x1_0000_0005u64;
        let table: [(&str, u64, &[(u64, bool)]); 7] = [
            ("SCMP_CMP_EQ", 0, &[(large, true), (5, false), (large + 1, false)]),
            ("SCMP_CMP_NE", 0, &[(large, false), (5, true), (large + 1, true)]),
            ("SCMP_CMP_LT", 0, &[(large, false), (5, true), (6, true), (large + 1, false)]),
            ("SCMP_CMP_LE", 0, &[(large, true), (6, true), (2 << 32, false), (large + 1, false)]),
            ("SCMP_CMP_GT", 0, &[(large, false), (6, false), (2 << 32, true), (large + 1, true)]),
            ("SCMP_CMP_GE", 0, &[(large, true), (6, false), (2 << 32, true), (large - 1, false)]),
            ("SCMP_CMP_MASKED_EQ", 4, &[(4, true), (large - 1, false), (5, false), (12, true)]),
        ];
        for (op, second, cases) in table {
            let json = serde_json::json!({
                "defaultAction": "SCMP_ACT_ERRNO",
                "syscalls": [{
                    "names": ["kill"], "action": "SCMP_ACT_ALLOW",
                    "args": [
                        {"index": 0, "value": 7, "op": "SCMP_CMP_EQ"},
                        {"index": 1, "value": large, "valueTwo": second, "op": op},
                    ],
                }],
            });
            let filter = compile(json.to_string().as_bytes()).unwrap();
            for (value, expected) in cases {
                let allowed = |first| {
                    decide(&filter.code, call("kill"), [first, *value, 0, 0, 0, 0]) == RET_ALLOW
                };
                assert_eq!(allowed(7), *expected, "{op} {value:x}");
                assert!(!allowed(8), "{op} {value:x}");
            }
        }
    }

    #[test]
    fn one_argument_twice_means_either() {
        let json = br#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{
            "names": ["personality"], "action": "SCMP_ACT_ERRNO", "args": [
                {"index": 0, "value": 1, "op": "SCMP_CMP_EQ"},
                {"index": 0, "value": 2, "op": "SCMP_CMP_EQ"}
            ]
        }]}"#;
        let filter = compile(json).unwrap();
        let refused =
            |value| decide(&filter.code, call("personality"), [value, 0, 0, 0, 0, 0]) != RET_ALLOW;
        assert_eq!([refused(1), refused(2), refused(3)], [true, true, false]);
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        let table = [
            ("{", "not the JSON"),
            (r#"{"defaultAction": "SCMP_ACT_FLY"}"#, "SCMP_ACT_FLY"),
            (r#"{"defaultAction": "SCMP_ACT_NOTIFY"}"#, "listener"),
            (r#"{"defaultAction": "SCMP_ACT_ALLOW", "flags": ["X"]}"#, "unknown flag"),
            (
                r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_S390X"]}"#,
                "architecture",
            ),
            (
                r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"],
                    "action": "SCMP_ACT_LOG", "args": [{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}]}]}"#,
                "none of number 6",
            ),
        ];
        for (json, expected) in table {
            let error = compile(json.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
