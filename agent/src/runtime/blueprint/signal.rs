//! Signals by the names that requests and images give them.

use proto::cri;

/// The number of the signal that stops a container: the request's, the image's, or TERM.
pub fn stop_signal(asked: cri::Signal, image: &str) -> i32 {
    let named = match asked {
        cri::Signal::RuntimeDefault => image.to_owned(),
        signal => signal.as_str_name().trim_start_matches("SIGNAL_").to_owned(),
    };
    if let Ok(number) = named.parse() {
        return number;
    }
    let name = named.to_ascii_uppercase().replace("MINUS", "-").replace("PLUS", "+");
    let name = name.trim_start_matches("SIG");
    let table = [
        ("ABRT", libc::SIGABRT),
        ("ALRM", libc::SIGALRM),
        ("BUS", libc::SIGBUS),
        ("CHLD", libc::SIGCHLD),
        ("CLD", libc::SIGCHLD),
        ("CONT", libc::SIGCONT),
        ("FPE", libc::SIGFPE),
        ("HUP", libc::SIGHUP),
        ("ILL", libc::SIGILL),
        ("INT", libc::SIGINT),
        ("IO", libc::SIGIO),
        ("IOT", libc::SIGIOT),
        ("KILL", libc::SIGKILL),
        ("PIPE", libc::SIGPIPE),
        ("POLL", libc::SIGPOLL),
        ("PROF", libc::SIGPROF),
        ("PWR", libc::SIGPWR),
        ("QUIT", libc::SIGQUIT),
        ("SEGV", libc::SIGSEGV),
        ("STKFLT", libc::SIGSTKFLT),
        ("STOP", libc::SIGSTOP),
        ("SYS", libc::SIGSYS),
        ("TERM", libc::SIGTERM),
        ("TRAP", libc::SIGTRAP),
        ("TSTP", libc::SIGTSTP),
        ("TTIN", libc::SIGTTIN),
        ("TTOU", libc::SIGTTOU),
        ("URG", libc::SIGURG),
        ("USR1", libc::SIGUSR1),
        ("USR2", libc::SIGUSR2),
        ("VTALRM", libc::SIGVTALRM),
        ("WINCH", libc::SIGWINCH),
        ("XCPU", libc::SIGXCPU),
        ("XFSZ", libc::SIGXFSZ),
    ];
    if let Some((_, number)) = table.iter().find(|(known, _)| *known == name) {
        return *number;
    }
    let offset = |rest: &str| if rest.is_empty() { Some(0) } else { rest[1..].parse::<i32>().ok() };
    let realtime = |prefix: &str, base: i32, sign: i32| {
        Some(base + sign * offset(name.strip_prefix(prefix)?)?)
    };
    realtime("RTMIN", 34, 1).or_else(|| realtime("RTMAX", 64, -1)).unwrap_or(libc::SIGTERM)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_known_by_name_and_number() {
        let none = cri::Signal::RuntimeDefault;
        let table =
            [("", 15), ("SIGQUIT", 3), ("quit", 3), ("9", 9), ("SIGRTMIN+3", 37), ("RTMAX-1", 63)];
        for (name, number) in table {
            assert_eq!(stop_signal(none, name), number, "{name}");
        }
        assert_eq!(stop_signal(cri::Signal::Sigusr1, "SIGQUIT"), 10);
        assert_eq!(stop_signal(cri::Signal::Sigrtminplus3, ""), 37);
        assert_eq!(stop_signal(cri::Signal::Sigrtmaxminus14, ""), 50);
    }
}
