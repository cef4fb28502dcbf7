//! What `/healthz`, `/livez` and `/readyz` answer, in Kubernetes' words. Pure.

/// Status code and text, of checks by name: 200 `ok`, or 500 with the list of checks; `verbose`
/// always lists, `excluded` are left out. With `single` that one alone counts.
pub fn answer(
    endpoint: &str,
    checks: &[(&str, bool)],
    single: Option<&str>,
    mut excluded: Vec<&str>,
    verbose: bool,
) -> (u16, String) {
    if let Some(name) = single {
        return match checks.iter().find(|(check, _)| *check == name) {
            Some((_, true)) => (200, "ok".into()),
            Some((_, false)) => (500, format!("internal server error: {name} check failed\n")),
            None => (404, "404 page not found\n".into()),
        };
    }
    let (mut passed, mut text) = (true, String::new());
    for (name, holds) in checks {
        let count = excluded.len();
        excluded.retain(|other| other != name);
        text += &match (excluded.len() < count, holds) {
            (true, _) => format!("[+]{name} excluded: ok\n"),
            (false, true) => format!("[+]{name} ok\n"),
            (false, false) => {
                passed = false;
                format!("[-]{name} failed: reason withheld\n")
            }
        };
    }
    if passed && !verbose {
        return (200, "ok".into());
    }
    if !excluded.is_empty() {
        let names: Vec<String> = excluded.iter().map(|name| format!("{name:?}")).collect();
        let names = names.join(", ");
        text += &format!("warn: some health checks cannot be excluded: no matches for {names}\n");
    }
    let verdict = if passed { "passed" } else { "failed" };
    text += &format!("{endpoint} check {verdict}\n");
    (if passed { 200 } else { 500 }, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_check_counts_unless_left_out() {
        let checks = [("ping", true), ("sync", false)];
        let all = |excluded: &[&str], verbose| {
            answer("readyz", &checks, None, excluded.to_vec(), verbose)
        };
        let failed = "[+]ping ok\n[-]sync failed: reason withheld\nreadyz check failed\n";
        assert_eq!(all(&[], false), (500, failed.into()));
        assert_eq!(all(&["sync"], false), (200, "ok".into()));
        let passed = "[+]ping ok\n[+]sync excluded: ok\n\
                      warn: some health checks cannot be excluded: no matches for \"x\"\n\
                      readyz check passed\n";
        assert_eq!(all(&["sync", "x"], true), (200, passed.into()));
        for (name, code) in [("ping", 200), ("sync", 500), ("x", 404)] {
            assert_eq!(answer("readyz", &checks, Some(name), Vec::new(), false).0, code, "{name}");
        }
    }
}
