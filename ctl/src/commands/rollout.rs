//! `ctl rollout`: what a Deployment is about to run, ran before, and how far it is.

use std::time::Duration;

use client::Clock;
use http::Method;
use proto::kind;
use serde_json::{Value, json};

use crate::commands::wait::{WEEK, parse_duration, until};
use crate::failure::{Failure, Result};
use crate::output::{self, sheet::Sheet};
use crate::resources::{items, text};
use crate::session::{Session, query};
use crate::target::{Names, Target};

const REVISION: &str = "deployment.kubernetes.io/revision";
const CAUSE: &str = "kubernetes.io/change-cause";
const HASH: &str = "pod-template-hash";

#[derive(clap::Args)]
pub struct Rollout {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Wait until the rollout is complete
    Status {
        #[command(flatten)]
        names: Names,
        /// Look once instead
        #[arg(short, long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
        watch: bool,
        /// How long at most; 0s: as long as it takes
        #[arg(long, default_value = "0s")]
        timeout: String,
    },
    /// List the revisions
    History {
        #[command(flatten)]
        names: Names,
        /// Show the pod template of this one
        #[arg(long)]
        revision: Option<u64>,
    },
    /// Go back to the revision before, or to a given one
    Undo {
        #[command(flatten)]
        names: Names,
        /// 0: the one before
        #[arg(long, default_value_t = 0)]
        to_revision: u64,
    },
    /// Replace all pods by new ones of the same template
    Restart {
        #[command(flatten)]
        names: Names,
    },
    /// Hold back changes of the template
    Pause {
        #[command(flatten)]
        names: Names,
    },
    /// Roll out what was held back
    Resume {
        #[command(flatten)]
        names: Names,
    },
}

impl Rollout {
    pub async fn run(&self, session: &Session) -> Result<()> {
        let names = match &self.action {
            Action::Status { names, .. }
            | Action::History { names, .. }
            | Action::Undo { names, .. }
            | Action::Restart { names }
            | Action::Pause { names }
            | Action::Resume { names } => names,
        };
        let objects = names.objects(session).await?;
        if objects.is_empty() {
            return Err(Failure::said("required resource not specified"));
        }
        for (target, object) in &objects {
            if target.row.kind != "Deployment" {
                return Err(Failure::said(format!(
                    "{} has no rollouts: only Deployments have",
                    target.title()
                )));
            }
            match &self.action {
                Action::Status { watch, timeout, .. } => {
                    status(session, target, *watch, parse_duration(timeout)?).await?;
                }
                Action::History { revision, .. } => {
                    history(session, target, object, *revision).await?;
                }
                Action::Undo { to_revision, .. } => {
                    undo(session, target, object, *to_revision).await?
                }
                Action::Restart { .. } => restart(session, target, object).await?,
                Action::Pause { .. } => set_paused(session, target, object, true).await?,
                Action::Resume { .. } => set_paused(session, target, object, false).await?,
            }
        }
        Ok(())
    }
}

async fn status(session: &Session, target: &Target, watch: bool, timeout: Duration) -> Result<()> {
    let timeout = if timeout.is_zero() { WEEK } else { timeout };
    let mut last = String::new();
    let waited = until(session, target, timeout, |object| {
        let Some(object) = object else {
            return Err(Failure::said("object has been deleted"));
        };
        let (said, done) = progress(&target.name, object)?;
        if said != last {
            anstream::println!("{said}");
            last = said;
        }
        Ok(done || !watch)
    });
    waited.await.map_err(|failure| match failure {
        Failure::Silent => Failure::said("timed out waiting for the condition"),
        other => other,
    })
}

/// How far a rollout is, in kubectl's words, and whether that is the end of it.
fn progress(name: &str, deployment: &Value) -> Result<(String, bool)> {
    let (spec, status) = (&deployment["spec"], &deployment["status"]);
    let number = |value: &Value| value.as_i64().unwrap_or(0);
    let observed = number(&status["observedGeneration"]);
    if number(&deployment["metadata"]["generation"]) > observed {
        return Ok(("Waiting for deployment spec update to be observed...".into(), false));
    }
    let exceeded = items(&status["conditions"]).any(|condition| {
        condition["type"] == "Progressing" && condition["reason"] == "ProgressDeadlineExceeded"
    });
    if exceeded {
        return Err(Failure::said(format!("deployment {name:?} exceeded its progress deadline")));
    }
    let wanted = spec["replicas"].as_i64().unwrap_or(1);
    let (updated, all) = (number(&status["updatedReplicas"]), number(&status["replicas"]));
    let available = number(&status["availableReplicas"]);
    let waiting = |what: String| {
        (format!("Waiting for deployment {name:?} rollout to finish: {what}..."), false)
    };
    Ok(if updated < wanted {
        waiting(format!("{updated} out of {wanted} new replicas have been updated"))
    } else if all > updated {
        waiting(format!("{} old replicas are pending termination", all - updated))
    } else if available < updated {
        waiting(format!("{available} of {updated} updated replicas are available"))
    } else {
        (format!("deployment {name:?} successfully rolled out"), true)
    })
}

/// The ReplicaSets of a Deployment by revision.
async fn revisions(
    session: &Session,
    target: &Target,
    deployment: &Value,
) -> Result<Vec<(u64, Value)>> {
    let list = session.get(&kind::REPLICA_SET.path(&target.namespace, "")).await?;
    let uid = &deployment["metadata"]["uid"];
    let owned = items(&list["items"])
        .filter(|set| items(&set["metadata"]["ownerReferences"]).any(|owner| owner["uid"] == *uid));
    let revision = |set: &Value| text(&set["metadata"]["annotations"][REVISION]).parse().ok();
    let mut found: Vec<(u64, Value)> =
        owned.filter_map(|set| Some((revision(set)?, set.clone()))).collect();
    found.sort_by_key(|(revision, _)| *revision);
    Ok(found)
}

async fn history(
    session: &Session,
    target: &Target,
    deployment: &Value,
    revision: Option<u64>,
) -> Result<()> {
    let revisions = revisions(session, target, deployment).await?;
    if let Some(wanted) = revision {
        let set = revisions.iter().find(|(revision, _)| *revision == wanted);
        let (_, set) = set.ok_or_else(|| {
            Failure::said(format!("unable to find the specified revision {wanted}"))
        })?;
        anstream::println!("{} with revision #{wanted}", target.title());
        anstream::println!("Pod Template:");
        let template = output::yaml(&set["spec"]["template"])?;
        template.lines().for_each(|line| anstream::println!("  {line}"));
        return Ok(());
    }
    anstream::println!("{} ", target.title());
    let mut sheet = Sheet::default();
    sheet.row(&["REVISION", "CHANGE-CAUSE"]);
    for (revision, set) in revisions {
        let cause = text(&set["metadata"]["annotations"][CAUSE]);
        let cause = if cause.is_empty() { "<none>" } else { cause };
        sheet.row(&[&revision.to_string(), cause]);
    }
    anstream::println!("{}", sheet.text());
    Ok(())
}

async fn undo(session: &Session, target: &Target, deployment: &Value, to: u64) -> Result<()> {
    if deployment["spec"]["paused"] == true {
        return Err(Failure::said(format!(
            "cannot rollback a paused deployment; resume it first with 'ctl rollout resume' and try again \
             ({})",
            target.title()
        )));
    }
    let revisions = revisions(session, target, deployment).await?;
    let chosen = match to {
        0 => revisions.len().checked_sub(2).and_then(|at| revisions.get(at)),
        to => revisions.iter().find(|(revision, _)| *revision == to),
    };
    let (_, set) = chosen.ok_or_else(|| match to {
        0 => Failure::said(format!("no rollout history found for deployment {:?}", target.name)),
        to => Failure::said(format!("unable to find specified revision {to} in history")),
    })?;
    let mut template = set["spec"]["template"].clone();
    if let Some(labels) = template["metadata"]["labels"].as_object_mut() {
        labels.remove(HASH);
    }
    if template == deployment["spec"]["template"] {
        anstream::println!(
            "{} skipped rollback (current template already matches revision {to})",
            target.title()
        );
        return Ok(());
    }
    let patch = json!([{"op": "replace", "path": "/spec/template", "value": template}]);
    patch_json(session, target, &patch).await?;
    anstream::println!("{} rolled back", target.title());
    Ok(())
}

async fn patch_json(session: &Session, target: &Target, patch: &Value) -> Result<()> {
    let kind = "application/json-patch+json";
    session.send(Method::PATCH, &target.path(), kind, Some(patch)).await.map(drop)
}

async fn patch_merge(
    session: &Session,
    target: &Target,
    manager: &str,
    patch: &Value,
) -> Result<()> {
    let path = query(&target.path(), &[("fieldManager", manager)]);
    let kind = "application/merge-patch+json";
    session.send(Method::PATCH, &path, kind, Some(patch)).await.map(drop)
}

async fn restart(session: &Session, target: &Target, deployment: &Value) -> Result<()> {
    if deployment["spec"]["paused"] == true {
        return Err(Failure::said(format!(
            "can't restart paused deployment (run rollout resume first): {}",
            target.title()
        )));
    }
    let now = Clock::system().now().to_string();
    let annotations = json!({"kubectl.kubernetes.io/restartedAt": now});
    let patch = json!({"spec": {"template": {"metadata": {"annotations": annotations}}}});
    patch_merge(session, target, "ctl-rollout", &patch).await?;
    anstream::println!("{} restarted", target.title());
    Ok(())
}

async fn set_paused(
    session: &Session,
    target: &Target,
    deployment: &Value,
    paused: bool,
) -> Result<()> {
    let now = deployment["spec"]["paused"].as_bool().unwrap_or(false);
    if now == paused {
        let state = if paused { "already paused" } else { "not paused" };
        return Err(Failure::said(format!("{} {state}", target.title())));
    }
    let patch = json!({"spec": {"paused": paused}});
    patch_merge(session, target, "ctl-rollout", &patch).await?;
    anstream::println!("{} {}", target.title(), if paused { "paused" } else { "resumed" });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_in_kubectls_words() {
        let at = |generation: i64, status: Value| json!({"metadata": {"generation": generation}, "spec": {"replicas": 3}, "status": status});
        for (deployment, said, done) in [
            (
                at(2, json!({"observedGeneration": 1})),
                "Waiting for deployment spec update to be observed...",
                false,
            ),
            (
                at(1, json!({"observedGeneration": 1, "updatedReplicas": 1, "replicas": 3})),
                "Waiting for deployment \"web\" rollout to finish: 1 out of 3 new replicas have been updated...",
                false,
            ),
            (
                at(1, json!({"observedGeneration": 1, "updatedReplicas": 3, "replicas": 4})),
                "Waiting for deployment \"web\" rollout to finish: 1 old replicas are pending termination...",
                false,
            ),
            (
                at(
                    1,
                    json!({"observedGeneration": 1, "updatedReplicas": 3, "replicas": 3, "availableReplicas": 2}),
                ),
                "Waiting for deployment \"web\" rollout to finish: 2 of 3 updated replicas are available...",
                false,
            ),
            (
                at(
                    1,
                    json!({"observedGeneration": 1, "updatedReplicas": 3, "replicas": 3, "availableReplicas": 3}),
                ),
                "deployment \"web\" successfully rolled out",
                true,
            ),
        ] {
            let (words, end) = progress("web", &deployment).unwrap();
            assert_eq!((words.as_str(), end), (said, done));
        }
    }
}
