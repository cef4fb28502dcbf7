//! `ctl rollout`: what a Deployment, StatefulSet or DaemonSet is about to run, ran before, and how far
//! it is.

mod progress;

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
            if !matches!(&*target.row.kind, "Deployment" | "StatefulSet" | "DaemonSet") {
                return Err(Failure::said(format!(
                    "{} has no rollouts: only Deployments, StatefulSets and DaemonSets have",
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
        let (said, done) = progress::of(&target.row.kind, &target.name, object)?;
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

/// A template that an object had, or has.
struct Version {
    number: u64,
    template: Value,
    cause: String,
}

/// The versions of an object's template, the present one last: a Deployment's are in ReplicaSets, the
/// others' in ControllerRevisions.
async fn versions(session: &Session, target: &Target, object: &Value) -> Result<Vec<Version>> {
    let by_sets = target.row.kind == "Deployment";
    let row = if by_sets { &kind::REPLICA_SET } else { &kind::CONTROLLER_REVISION };
    let list = session.get(&row.path(&target.namespace, "")).await?;
    let uid = &object["metadata"]["uid"];
    let owned = items(&list["items"]).filter(|kept| {
        items(&kept["metadata"]["ownerReferences"]).any(|owner| owner["uid"] == *uid)
    });
    let version = |kept: &Value| {
        let annotations = &kept["metadata"]["annotations"];
        let (number, mut template) = match by_sets {
            true => (text(&annotations[REVISION]).parse().ok()?, kept["spec"]["template"].clone()),
            false => (kept["revision"].as_u64()?, kept["data"]["spec"]["template"].clone()),
        };
        if let Some(template) = template.as_object_mut() {
            template.remove("$patch");
        }
        Some(Version { number, template, cause: text(&annotations[CAUSE]).to_string() })
    };
    let mut found: Vec<Version> = owned.filter_map(version).collect();
    found.sort_by_key(|version| version.number);
    Ok(found)
}

async fn history(
    session: &Session,
    target: &Target,
    object: &Value,
    revision: Option<u64>,
) -> Result<()> {
    let versions = versions(session, target, object).await?;
    if let Some(wanted) = revision {
        let version = versions.iter().find(|version| version.number == wanted);
        let version = version.ok_or_else(|| {
            Failure::said(format!("unable to find the specified revision {wanted}"))
        })?;
        anstream::println!("{} with revision #{wanted}", target.title());
        anstream::println!("Pod Template:");
        let template = output::yaml(&version.template)?;
        template.lines().for_each(|line| anstream::println!("  {line}"));
        return Ok(());
    }
    anstream::println!("{} ", target.title());
    let mut sheet = Sheet::default();
    sheet.row(&["REVISION", "CHANGE-CAUSE"]);
    for Version { number, cause, .. } in versions {
        let cause = if cause.is_empty() { "<none>" } else { &cause };
        sheet.row(&[&number.to_string(), cause]);
    }
    anstream::println!("{}", sheet.text());
    Ok(())
}

async fn undo(session: &Session, target: &Target, object: &Value, to: u64) -> Result<()> {
    if object["spec"]["paused"] == true {
        return Err(Failure::said(format!(
            "cannot rollback a paused deployment; resume it first with 'ctl rollout resume' and try again \
             ({})",
            target.title()
        )));
    }
    let versions = versions(session, target, object).await?;
    let chosen = match to {
        0 => versions.len().checked_sub(2).and_then(|at| versions.get(at)),
        to => versions.iter().find(|version| version.number == to),
    };
    let chosen = chosen.ok_or_else(|| match to {
        0 => Failure::said(format!(
            "no rollout history found for {} {:?}",
            target.row.singular, target.name
        )),
        to => Failure::said(format!("unable to find specified revision {to} in history")),
    })?;
    let mut template = chosen.template.clone();
    if let Some(labels) = template["metadata"]["labels"].as_object_mut() {
        labels.remove(HASH);
    }
    if template == object["spec"]["template"] {
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
    if target.row.kind != "Deployment" {
        let what = if paused { "pausing" } else { "resuming" };
        return Err(Failure::said(format!(
            "{}.{} {:?} {what} is not supported",
            target.row.resource, target.row.group, target.name
        )));
    }
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
