//! The default system call filter: what containers without special capabilities may not call. The
//! table follows the default profile that container runtimes have in common (moby's).

use std::collections::BTreeMap;

use super::super::capabilities::mask;
use caps::Capability;
use parking_lot::Mutex;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

/// Refused with EPERM, unless the container has the capability.
const DENIED: &[(&[i64], Option<Capability>)] = &[
    (
        &[
            libc::SYS_add_key,
            libc::SYS_io_uring_enter,
            libc::SYS_io_uring_register,
            libc::SYS_io_uring_setup,
            libc::SYS_kexec_file_load,
            libc::SYS_kexec_load,
            libc::SYS_keyctl,
            libc::SYS_move_pages,
            libc::SYS_nfsservctl,
            libc::SYS_pivot_root,
            libc::SYS_request_key,
            libc::SYS_swapoff,
            libc::SYS_swapon,
            libc::SYS_userfaultfd,
        ],
        None,
    ),
    (
        &[
            libc::SYS_fanotify_init,
            libc::SYS_fsconfig,
            libc::SYS_fsmount,
            libc::SYS_fsopen,
            libc::SYS_fspick,
            libc::SYS_mount,
            libc::SYS_mount_setattr,
            libc::SYS_move_mount,
            libc::SYS_open_tree,
            libc::SYS_quotactl,
            libc::SYS_quotactl_fd,
            libc::SYS_setdomainname,
            libc::SYS_sethostname,
            libc::SYS_setns,
            libc::SYS_umount2,
            libc::SYS_unshare,
        ],
        Some(Capability::CAP_SYS_ADMIN),
    ),
    (&[libc::SYS_bpf], Some(Capability::CAP_BPF)),
    (&[libc::SYS_perf_event_open], Some(Capability::CAP_PERFMON)),
    (&[libc::SYS_open_by_handle_at], Some(Capability::CAP_DAC_READ_SEARCH)),
    (&[libc::SYS_reboot], Some(Capability::CAP_SYS_BOOT)),
    (&[libc::SYS_chroot], Some(Capability::CAP_SYS_CHROOT)),
    (
        &[libc::SYS_delete_module, libc::SYS_finit_module, libc::SYS_init_module],
        Some(Capability::CAP_SYS_MODULE),
    ),
    (&[libc::SYS_acct], Some(Capability::CAP_SYS_PACCT)),
    (
        &[
            libc::SYS_get_mempolicy,
            libc::SYS_mbind,
            libc::SYS_set_mempolicy,
            libc::SYS_set_mempolicy_home_node,
        ],
        Some(Capability::CAP_SYS_NICE),
    ),
    (&[libc::SYS_clock_settime, libc::SYS_settimeofday], Some(Capability::CAP_SYS_TIME)),
    (&[libc::SYS_vhangup], Some(Capability::CAP_SYS_TTY_CONFIG)),
    (&[libc::SYS_syslog], Some(Capability::CAP_SYSLOG)),
    #[cfg(target_arch = "x86_64")]
    (&[libc::SYS_ioperm, libc::SYS_iopl], Some(Capability::CAP_SYS_RAWIO)),
    #[cfg(target_arch = "x86_64")]
    (
        &[
            libc::SYS__sysctl,
            libc::SYS_afs_syscall,
            libc::SYS_getpmsg,
            libc::SYS_lookup_dcookie,
            libc::SYS_putpmsg,
            libc::SYS_security,
            libc::SYS_sysfs,
            libc::SYS_tuxcall,
            libc::SYS_uselib,
            libc::SYS_ustat,
            libc::SYS_vserver,
        ],
        None,
    ),
];

/// Flags of clone that make namespaces.
const NAMESPACES: u64 = 0x7e02_0000;
const AF_VSOCK: u64 = 40;
const AF_ALG: u64 = 38;
/// The last system call that the table was made for; newer ones look as if they were not there.
const LAST_KNOWN: u32 = 470;

const ARCH: TargetArch =
    if cfg!(target_arch = "aarch64") { TargetArch::aarch64 } else { TargetArch::x86_64 };

/// Compiled profiles by capabilities: nearly all containers have the same.
static COMPILED: Mutex<BTreeMap<u64, Vec<u8>>> = Mutex::new(BTreeMap::new());

/// The default profile for a container with these capabilities, as the kernel reads it.
pub fn default_profile(capabilities: &[Capability]) -> Vec<u8> {
    let mut compiled = COMPILED.lock();
    compiled.entry(mask(capabilities)).or_insert_with(|| compile(capabilities)).clone()
}

fn compile(capabilities: &[Capability]) -> Vec<u8> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for (calls, unless) in DENIED {
        if !unless.is_some_and(|capability| capabilities.contains(&capability)) {
            rules.extend(calls.iter().map(|call| (*call, Vec::new())));
        }
    }
    let privileged = capabilities.contains(&Capability::CAP_SYS_ADMIN);
    if privileged {
        rules.remove(&libc::SYS_bpf);
        rules.remove(&libc::SYS_perf_event_open);
    } else {
        let flags = (0..64).map(|bit| 1 << bit).filter(|flag| NAMESPACES & flag != 0);
        rules.insert(
            libc::SYS_clone,
            flags.map(|flag| rule(0, SeccompCmpOp::MaskedEq(flag), flag)).collect(),
        );
    }
    let families = [AF_VSOCK, AF_ALG].map(|family| rule(0, SeccompCmpOp::Eq, family));
    rules.insert(libc::SYS_socket, families.into());
    // Linux, BSD and their 32-bit kin are personalities a program may take.
    let known = [0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];
    let conditions = known.map(|value| condition(0, SeccompCmpOp::Ne, value));
    let strange = SeccompRule::new(conditions.into()).expect("a rule with conditions");
    rules.insert(libc::SYS_personality, vec![strange]);

    let denied = SeccompAction::Errno(libc::EPERM as u32);
    let filter =
        SeccompFilter::new(rules, SeccompAction::Allow, denied, ARCH).expect("the table is valid");
    let program: BpfProgram = filter.try_into().expect("the table is short");
    // clone3 hides its flags from filters: programs fall back to clone when it is not there.
    let mut bytes = not_there((!privileged).then_some(libc::SYS_clone3 as u32));
    for line in program {
        instruction(&mut bytes, line.code, line.jt, line.jf, line.k);
    }
    bytes
}

/// The head of the program: unknown calls, those of x32 among them, and `missing` give ENOSYS.
fn not_there(missing: Option<u32>) -> Vec<u8> {
    let (load, above, equal, answer) = (0x20, 0x25, 0x15, 0x06);
    let nothing = 0x0005_0000 | libc::ENOSYS as u32;
    let mut out = Vec::new();
    instruction(&mut out, load, 0, 0, 0);
    match missing {
        Some(call) => {
            instruction(&mut out, above, 1, 0, LAST_KNOWN);
            instruction(&mut out, equal, 0, 1, call);
        }
        None => instruction(&mut out, above, 0, 1, LAST_KNOWN),
    }
    instruction(&mut out, answer, 0, 0, nothing);
    out
}

fn instruction(out: &mut Vec<u8>, code: u16, if_true: u8, if_false: u8, k: u32) {
    out.extend(code.to_ne_bytes());
    out.extend([if_true, if_false]);
    out.extend(k.to_ne_bytes());
}

fn rule(argument: u8, op: SeccompCmpOp, value: u64) -> SeccompRule {
    SeccompRule::new(vec![condition(argument, op, value)]).expect("a rule with a condition")
}

fn condition(argument: u8, op: SeccompCmpOp, value: u64) -> SeccompCondition {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, op, value)
        .expect("an argument there is")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_shorten_the_filter() {
        let without = default_profile(&[]);
        let with = default_profile(&[Capability::CAP_SYS_ADMIN]);
        assert!(with.len() < without.len());
        assert!(without.len().is_multiple_of(8) && without.len() / 8 < 4096);
    }
}
