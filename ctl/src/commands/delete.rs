//! `ctl delete`: and, unless told otherwise, wait until the objects are gone.

use client::{DeleteOptions, Propagation};
use http::Method;
use serde_json::Value;

use crate::commands::wait::{gone, parse_duration};
use crate::failure::{Failure, Result};
use crate::resources::text;
use crate::session::{Session, query};
use crate::target::{Names, Target, singular};

#[derive(clap::Args)]
pub struct Delete {
    #[command(flatten)]
    names: Names,
    /// All objects of the named types
    #[arg(long)]
    all: bool,
    /// Objects of all namespaces
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    #[arg(long, default_value = "", hide_default_value = true)]
    field_selector: String,
    /// Seconds to end in; -1: the object's own
    #[arg(long, default_value_t = -1, allow_hyphen_values = true)]
    grace_period: i64,
    /// The same as --grace-period=1
    #[arg(long)]
    now: bool,
    /// At once, without waiting for the node's word; needs --grace-period=0
    #[arg(long)]
    force: bool,
    /// What happens to what the objects own
    #[arg(long, default_value = "background", value_parser = ["background", "foreground", "orphan"])]
    cascade: String,
    /// No error for objects that are not there
    #[arg(long)]
    ignore_not_found: bool,
    /// Return only when the objects are gone
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    wait: bool,
    /// How long to wait; 0s: as long as it takes
    #[arg(long, default_value = "0s")]
    timeout: String,
    /// server: everything but the write; none
    #[arg(long, default_value = "none", value_parser = ["server", "none"])]
    dry_run: String,
    /// name: only the names
    #[arg(short, long, value_parser = ["name"])]
    output: Option<String>,
}

impl Delete {
    pub async fn run(&self, session: &Session) -> Result<()> {
        let timeout = parse_duration(&self.timeout)?;
        let options = self.options()?;
        let mut deleted = Vec::new();
        let mut failed = false;
        for target in self.targets(session).await? {
            match self.delete(session, &target, &options).await {
                Ok(uid) => {
                    self.report(&target);
                    deleted.push((target, uid));
                }
                Err(error) if error.is_not_found() && self.ignore_not_found => {}
                Err(error) => {
                    error.print();
                    failed = true;
                }
            }
        }
        if deleted.is_empty() && !failed {
            anstream::println!("No resources found");
        }
        if self.wait && !options.dry_run {
            for (target, uid) in &deleted {
                gone(session, target, uid, timeout).await?;
            }
        }
        if failed { Err(Failure::Silent) } else { Ok(()) }
    }

    fn options(&self) -> Result<DeleteOptions> {
        let grace = match (self.grace_period, self.now, self.force) {
            (0, _, false) | (-1, true, _) => Some(1),
            (-1, false, true) | (0, _, true) => Some(0),
            (-1, false, false) => None,
            (_, _, true) => {
                return Err(Failure::said(
                    "--force and --grace-period greater than 0 cannot be specified together",
                ));
            }
            (seconds, ..) => Some(seconds),
        };
        if self.force {
            anstream::eprintln!(
                "Warning: Immediate deletion does not wait for confirmation that the running \
                 resource has been terminated. The resource may continue to run on the cluster \
                 indefinitely."
            );
        }
        let propagation = match self.cascade.as_str() {
            "foreground" => Propagation::Foreground,
            "orphan" => Propagation::Orphan,
            _ => Propagation::Background,
        };
        Ok(DeleteOptions {
            grace_period_seconds: grace,
            propagation: Some(propagation),
            dry_run: self.dry_run == "server",
            ..DeleteOptions::default()
        })
    }

    /// Objects by name; collections only with `--all`, `-l` or a field selector.
    async fn targets(&self, session: &Session) -> Result<Vec<Target>> {
        let selective = !self.names.selector.is_empty() || !self.field_selector.is_empty();
        let mut found = Vec::new();
        for mut target in self.names.targets(session).await? {
            if !target.name.is_empty() {
                found.push(target);
                continue;
            }
            if !self.all && !selective {
                return Err(Failure::said(
                    "resource(s) were provided, but no name was specified: name the objects, or \
                     use --all or -l",
                ));
            }
            if self.all_namespaces {
                target.namespace.clear();
            }
            let path = query(
                &target.path(),
                &[("labelSelector", &self.names.selector), ("fieldSelector", &self.field_selector)],
            );
            let list = session.get(&path).await?;
            for item in crate::resources::items(&list["items"]) {
                let (namespace, name) = (&item["metadata"]["namespace"], &item["metadata"]["name"]);
                let (namespace, name) = (text(namespace).to_string(), text(name).to_string());
                found.push(Target { row: target.row.clone(), namespace, name });
            }
        }
        if self.names.is_empty() {
            return Err(Failure::said(
                "You must provide one or more resources by argument or filename.",
            ));
        }
        Ok(found)
    }

    /// The uid of what was deleted.
    async fn delete(
        &self,
        session: &Session,
        target: &Target,
        options: &DeleteOptions,
    ) -> Result<String> {
        let body = options.body();
        let answer =
            session.send(Method::DELETE, &target.path(), "application/json", Some(&body)).await?;
        let uid = match text(&answer["kind"]) {
            "Status" => &answer["details"]["uid"],
            _ => &answer["metadata"]["uid"],
        };
        Ok(Value::as_str(uid).unwrap_or_default().to_string())
    }

    fn report(&self, target: &Target) {
        if self.output.is_some() {
            anstream::println!("{}", target.title());
            return;
        }
        let how = if self.force { "force deleted" } else { "deleted" };
        let note = if self.dry_run == "server" { " (server dry run)" } else { "" };
        // As newer kubectl: a namespaced object says from where.
        let from = match target.namespace.as_str() {
            "" => String::new(),
            namespace => format!(" from {namespace} namespace"),
        };
        anstream::println!("{} {:?} {how}{from}{note}", singular(&target.row), target.name);
    }
}
