//! `ctl wait`: for a condition, for a value at a JSONPath, for an end; also of objects that are not
//! there yet.

use std::ops::ControlFlow;
use std::time::Duration;

use client::Clock;
use serde_json::Value;

use crate::failure::{Failure, Result};
use crate::output::jsonpath::{Template, text as printed};
use crate::resources::{items, text};
use crate::session::{Session, query};
use crate::target::{Names, Target};

#[derive(clap::Args)]
pub struct Wait {
    #[command(flatten)]
    names: Names,
    /// condition=NAME[=VALUE], jsonpath=EXPRESSION[=VALUE], create or delete
    #[arg(long = "for", value_name = "WHAT")]
    goal: String,
    /// How long at most, as 30s or 5m; 0: look once; negative: a week
    #[arg(long, default_value = "30s", allow_hyphen_values = true)]
    timeout: String,
    /// All objects of the named types
    #[arg(long)]
    all: bool,
}

/// What is waited for.
#[derive(Debug)]
enum Goal {
    Create,
    Delete,
    Condition { kind: String, value: String },
    Path { template: Template, value: Option<String> },
}

impl Wait {
    pub async fn run(&self, session: &Session) -> Result<()> {
        let goal = Goal::parse(&self.goal)?;
        let timeout = parse_duration(&self.timeout)?;
        let targets = self.names.targets(session).await?;
        if targets.is_empty() {
            return Err(Failure::said("arguments in resource/name form are expected, or -l"));
        }
        for target in targets {
            if !target.name.is_empty() {
                self.wait(session, &target, &goal, timeout).await?;
                continue;
            }
            if self.names.selector.is_empty() && !self.all {
                return Err(Failure::said("name the objects, or use --all or -l"));
            }
            let path = query(&target.path(), &[("labelSelector", &self.names.selector)]);
            let list = session.get(&path).await?;
            let names: Vec<&str> =
                items(&list["items"]).map(|item| text(&item["metadata"]["name"])).collect();
            if names.is_empty() && !matches!(goal, Goal::Delete) {
                return Err(Failure::said("no matching resources found"));
            }
            for name in names {
                let target = Target { name: name.to_string(), ..target.clone() };
                self.wait(session, &target, &goal, timeout).await?;
            }
        }
        Ok(())
    }

    async fn wait(
        &self,
        session: &Session,
        target: &Target,
        goal: &Goal,
        timeout: Duration,
    ) -> Result<()> {
        until(session, target, timeout, |object| Ok(goal.is_met(object))).await.map_err(
            |error| match error {
                Failure::Silent => Failure::said(format!(
                    "timed out waiting for the condition on {}/{}",
                    target.row.resource, target.name
                )),
                other => other,
            },
        )?;
        anstream::println!("{} condition met", target.title());
        Ok(())
    }
}

impl Goal {
    fn parse(word: &str) -> Result<Goal> {
        let (head, rest) = word.split_once('=').unwrap_or((word, ""));
        match (head.to_lowercase().as_str(), rest) {
            ("create", "") => Ok(Goal::Create),
            ("delete", "") => Ok(Goal::Delete),
            ("condition", rest) if !rest.is_empty() => {
                let (kind, value) = rest.split_once('=').unwrap_or((rest, "true"));
                Ok(Goal::Condition { kind: kind.into(), value: value.into() })
            }
            ("jsonpath", rest) if !rest.is_empty() => {
                let rest = rest.trim_matches('\'');
                // The value follows the closing brace, or the last "=" of a bare path.
                let (path, value) = match rest.rsplit_once("}=") {
                    Some((path, value)) => (format!("{path}}}"), Some(value.to_string())),
                    None if rest.ends_with('}') => (rest.to_string(), None),
                    None => match rest.split_once('=') {
                        Some((path, value)) => (path.to_string(), Some(value.to_string())),
                        None => (rest.to_string(), None),
                    },
                };
                Ok(Goal::Path { template: Template::parse(&path).map_err(Failure::Said)?, value })
            }
            _ => Err(Failure::said(format!(
                "unrecognized condition: {word:?}: use condition=, jsonpath=, create or delete"
            ))),
        }
    }

    fn is_met(&self, object: Option<&Value>) -> bool {
        match (self, object) {
            (Goal::Delete, object) => object.is_none(),
            (Goal::Create, object) => object.is_some(),
            (_, None) => false,
            (Goal::Condition { kind, value }, Some(object)) => {
                let mut conditions = items(&object["status"]["conditions"]);
                conditions.any(|condition| {
                    text(&condition["type"]).eq_ignore_ascii_case(kind)
                        && text(&condition["status"]).eq_ignore_ascii_case(value)
                })
            }
            (Goal::Path { template, value }, Some(object)) => {
                let found = template.select(object);
                match value {
                    None => !found.is_empty(),
                    Some(value) => found.iter().any(|found| printed(found) == *value),
                }
            }
        }
    }
}

/// Watches one object until `met` says yes; `Failure::Silent` when the time is over.
pub async fn until(
    session: &Session,
    target: &Target,
    timeout: Duration,
    mut met: impl FnMut(Option<&Value>) -> Result<bool>,
) -> Result<()> {
    let by_name = format!("metadata.name={}", target.name);
    let collection = target.row.path(&target.namespace, "");
    let watch = async {
        loop {
            let list = session.get(&query(&collection, &[("fieldSelector", &by_name)])).await?;
            if met(items(&list["items"]).next())? {
                return Ok(());
            }
            let path = query(
                &collection,
                &[
                    ("watch", "true"),
                    ("fieldSelector", &by_name),
                    ("resourceVersion", text(&list["metadata"]["resourceVersion"])),
                ],
            );
            let mut outcome = None;
            let watched = session.watch(&path, "application/json", |kind, object| {
                Ok(match met((kind != "DELETED").then_some(object)) {
                    Ok(false) => ControlFlow::Continue(()),
                    done => {
                        outcome = Some(done.map(|_| ()));
                        ControlFlow::Break(())
                    }
                })
            });
            // A watch that ended or expired is no answer: look again.
            drop(watched.await);
            if let Some(outcome) = outcome {
                return outcome;
            }
        }
    };
    Clock::system().timeout(timeout, watch).await.unwrap_or(Err(Failure::Silent))
}

/// Waits until the object with this uid is there no more.
pub async fn gone(session: &Session, target: &Target, uid: &str, timeout: Duration) -> Result<()> {
    let timeout = if timeout.is_zero() { WEEK } else { timeout };
    let met = |object: Option<&Value>| {
        Ok(object.is_none_or(|object| !uid.is_empty() && text(&object["metadata"]["uid"]) != uid))
    };
    until(session, target, timeout, met).await.map_err(|error| match error {
        Failure::Silent => Failure::said(format!(
            "timed out waiting for the condition on {}/{}",
            target.row.resource, target.name
        )),
        other => other,
    })
}

pub const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);

/// As Go writes durations: `30s`, `5m`, `1h30m`, `500ms`, `0`; negative ones are a week.
pub fn parse_duration(word: &str) -> Result<Duration> {
    let mut rest = word;
    let mut sum = Duration::ZERO;
    if rest.starts_with('-') {
        return Ok(WEEK);
    }
    if rest == "0" {
        return Ok(sum);
    }
    let wrong =
        || Failure::said(format!("invalid duration {word:?}: write it as 30s, 5m or 1h30m"));
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let number: f64 = rest[..end].parse().map_err(|_| wrong())?;
        let units = [("ms", 0.001), ("us", 1e-6), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
        let (unit, seconds) =
            units.iter().find(|(unit, _)| rest[end..].starts_with(unit)).ok_or_else(wrong)?;
        sum += Duration::try_from_secs_f64(number * seconds).map_err(|_| wrong())?;
        rest = &rest[end + unit.len()..];
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_as_go_writes_them() {
        for (word, milliseconds) in
            [("30s", 30_000), ("1h30m", 5_400_000), ("500ms", 500), ("0", 0)]
        {
            assert_eq!(parse_duration(word).unwrap(), Duration::from_millis(milliseconds));
        }
        for wrong in ["", "5", "s", "5x", "1.2.3s"] {
            assert!(parse_duration(wrong).is_err(), "{wrong}");
        }
    }
}
