//! `ctl apply`: server-side apply. Without `--server-side` it takes over fields that others own,
//! as client-side apply always has; with it, conflicts are errors unless forced.

use http::Method;
use proto::kind::Row;
use serde_json::Value;

use crate::failure::{Failure, Result};
use crate::files::{Files, Manifest};
use crate::output::Format;
use crate::resources::text;
use crate::session::{Session, query};
use crate::target::{Target, of_object};

const APPLY: &str = "application/apply-patch+yaml";

#[derive(clap::Args)]
pub struct Apply {
    #[command(flatten)]
    files: Files,
    /// Only manifests with these labels
    #[arg(short = 'l', long, default_value = "", hide_default_value = true)]
    selector: String,
    /// Treat fields that somebody else owns as conflicts
    #[arg(long)]
    server_side: bool,
    /// With --server-side: take over fields in conflict
    #[arg(long, requires = "server_side")]
    force_conflicts: bool,
    /// Name under which the fields are owned
    #[arg(long, default_value = "ctl")]
    field_manager: String,
    #[command(flatten)]
    checks: Checks,
    /// json, yaml, name, jsonpath=TEMPLATE
    #[arg(short, long)]
    output: Option<String>,
}

/// How strictly the server looks, and whether it writes.
#[derive(Clone, Debug, clap::Args)]
pub struct Checks {
    /// strict (unknown fields are errors), warn, or ignore
    #[arg(long, default_value = "strict", num_args = 0..=1, default_missing_value = "strict",
          value_parser = ["strict", "warn", "ignore", "true", "false"])]
    validate: String,
    /// server: everything but the write; none
    #[arg(long, default_value = "none", value_parser = ["server", "none"])]
    dry_run: String,
}

impl Checks {
    /// The value of the fieldValidation parameter for a word of `--validate`.
    pub fn validation(word: &str) -> &'static str {
        match word {
            "warn" => "Warn",
            "ignore" | "false" => "Ignore",
            _ => "Strict",
        }
    }

    /// The value of the dryRun parameter.
    pub fn dry_run(&self) -> &'static str {
        if self.dry_run == "server" { "All" } else { "" }
    }

    /// What is appended to the report of a change.
    pub fn note(&self) -> &'static str {
        if self.dry_run == "server" { " (server dry run)" } else { "" }
    }
}

impl Apply {
    pub async fn run(&self, session: &Session) -> Result<()> {
        if self.files.is_empty() {
            return Err(Failure::said("must specify -f: the manifests to apply"));
        }
        let format = Format::parse(self.output.as_deref())?;
        let selector = proto::selector::Selector::parse(&self.selector).map_err(Failure::said)?;
        let mut manifests = self.files.read()?;
        manifests.retain(|manifest| {
            selector.matches_with(|key| manifest.object["metadata"]["labels"][key].as_str())
        });
        let mut failed = false;
        // One broken object does not keep the others from being applied.
        for manifest in &manifests {
            match self.apply(session, manifest).await {
                Ok((target, said, object)) => match (&self.output, &format) {
                    (None, _) => {
                        anstream::println!("{} {said}{}", target.title(), self.checks.note())
                    }
                    (Some(_), format) => anstream::print!("{}", format.object(&object)?),
                },
                Err(error) => {
                    let source = &manifest.source;
                    error.when(format!("applying {source:?}")).print();
                    failed = true;
                }
            }
        }
        if failed { Err(Failure::Silent) } else { Ok(()) }
    }

    async fn apply(
        &self,
        session: &Session,
        manifest: &Manifest,
    ) -> Result<(Target, &'static str, Value)> {
        let target = of_object(session.resources().await?, &manifest.object, &session.namespace)?;
        if target.name.is_empty() {
            return Err(Failure::said(
                "resource name may not be empty: apply needs metadata.name (generateName works \
                 with create)",
            ));
        }
        check_namespace(&manifest.object, session, &target.row)?;
        let before = match session.get(&target.path()).await {
            Ok(object) => Some(text(&object["metadata"]["resourceVersion"]).to_string()),
            Err(error) if error.is_not_found() => None,
            Err(error) => return Err(error),
        };
        let force = !self.server_side || self.force_conflicts;
        let path = query(
            &target.path(),
            &[
                ("fieldManager", &self.field_manager),
                ("force", if force { "true" } else { "" }),
                ("fieldValidation", Checks::validation(&self.checks.validate)),
                ("dryRun", self.checks.dry_run()),
            ],
        );
        let object = session.send(Method::PATCH, &path, APPLY, Some(&manifest.object)).await?;
        let after = text(&object["metadata"]["resourceVersion"]);
        let said = match before {
            _ if self.server_side => "serverside-applied",
            None => "created",
            Some(before) if before == after => "unchanged",
            Some(_) => "configured",
        };
        Ok((target, said, object))
    }
}

/// Applies one manifest as the bare command does.
pub async fn once(session: &Session, manifest: &Manifest) -> Result<()> {
    let apply = Apply {
        files: Files::default(),
        selector: String::new(),
        server_side: false,
        force_conflicts: false,
        field_manager: "ctl".into(),
        checks: Checks { validate: "strict".into(), dry_run: "none".into() },
        output: None,
    };
    let applied = apply.apply(session, manifest).await.map(drop);
    applied.map_err(|error| error.when(format!("applying {:?}", manifest.source)))
}

/// `-n` and the manifest must not name different namespaces.
pub fn check_namespace(object: &Value, session: &Session, row: &Row) -> Result<()> {
    let own = text(&object["metadata"]["namespace"]);
    let asked = &session.namespace;
    if row.namespaced && session.namespace_was_asked && !own.is_empty() && own != asked {
        return Err(Failure::said(format!(
            "the namespace from the provided object {own:?} does not match the namespace \
             {asked:?}. You must pass '--namespace={own}' to perform this operation."
        )));
    }
    Ok(())
}
