//! How simulated containers behave, by annotations of their pod. All of them:
//!
//! | `simulated.coracle/…` | Meaning | Where absent |
//! |---|---|---|
//! | `start-delay-seconds` | so long a start takes | none |
//! | `exit-after-seconds` | the container ends by itself so long after its start | never |
//! | `exit-code` | with this code | 0 |
//! | `termination-message` | and these last words | none |
//! | `stop-delay-seconds` | so long it takes to end when told to; with less grace it is killed | none |
//! | `stop-exit-code` | the code with which it does | 0 |
//! | `healthy-after-seconds` | before, every probe of it fails | from its start |
//! | `unhealthy-after-seconds` | from then on every probe of it fails | never |
//!
//! A name with a dot and the name of a container (`exit-code.web`) is for that container alone.
//! Commands and HTTP, TCP and gRPC probes ask for the same health; the latter for that of all
//! running containers of the pod, whose address they share.

use std::collections::HashMap;
use std::time::Duration;

const PREFIX: &str = "simulated.coracle/";

pub const EXIT_AFTER: &str = "simulated.coracle/exit-after-seconds";
pub const EXIT_CODE: &str = "simulated.coracle/exit-code";

/// What one container does.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Behaviour {
    pub start_delay: Duration,
    pub exit_after: Option<Duration>,
    pub exit_code: i32,
    pub message: String,
    pub stop_delay: Duration,
    pub stop_code: i32,
    pub healthy_after: Duration,
    pub unhealthy_after: Option<Duration>,
}

impl Behaviour {
    /// Of this container; what is no number counts as absent.
    pub fn of(annotations: &HashMap<String, String>, container: &str) -> Behaviour {
        let text = |name: &str| {
            let own = annotations.get(&format!("{PREFIX}{name}.{container}"));
            own.or_else(|| annotations.get(&format!("{PREFIX}{name}")))
        };
        let code = |name: &str| text(name).and_then(|text| text.parse().ok()).unwrap_or(0);
        let seconds = |name: &str| {
            let seconds = text(name)?.parse::<f64>().ok()?;
            Duration::try_from_secs_f64(seconds).ok()
        };
        Behaviour {
            start_delay: seconds("start-delay-seconds").unwrap_or_default(),
            exit_after: seconds("exit-after-seconds"),
            exit_code: code("exit-code"),
            message: text("termination-message").cloned().unwrap_or_default(),
            stop_delay: seconds("stop-delay-seconds").unwrap_or_default(),
            stop_code: code("stop-exit-code"),
            healthy_after: seconds("healthy-after-seconds").unwrap_or_default(),
            unhealthy_after: seconds("unhealthy-after-seconds"),
        }
    }

    /// Do its probes succeed so long after its start?
    pub fn healthy(&self, age: Duration) -> bool {
        age >= self.healthy_after && self.unhealthy_after.is_none_or(|until| age < until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_goes_before_its_pod() {
        let annotations = [
            ("exit-after-seconds", "1.5"),
            ("exit-code", "1"),
            ("exit-code.web", "7"),
            ("healthy-after-seconds", "2"),
            ("unhealthy-after-seconds", "9"),
            ("stop-delay-seconds", "soon"),
        ];
        let annotations = annotations.map(|(name, text)| (format!("{PREFIX}{name}"), text.into()));
        let annotations = HashMap::from(annotations);
        let (web, other) = (Behaviour::of(&annotations, "web"), Behaviour::of(&annotations, "x"));
        assert_eq!((web.exit_code, other.exit_code), (7, 1));
        assert_eq!(web.exit_after, Some(Duration::from_millis(1500)));
        assert_eq!(web.stop_delay, Duration::ZERO);
        let healthy = [1, 2, 8, 9].map(|seconds| web.healthy(Duration::from_secs(seconds)));
        assert_eq!(healthy, [false, true, true, false]);
    }
}
