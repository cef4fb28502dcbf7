//! `ctl scale`: through the scale subresource of whatever has one.

use http::Method;
use serde_json::json;

use crate::failure::{Failure, Result};
use crate::session::Session;
use crate::target::Names;

#[derive(clap::Args)]
pub struct Scale {
    #[command(flatten)]
    names: Names,
    /// How many there shall be
    #[arg(long, allow_hyphen_values = true)]
    replicas: i64,
    /// Only if there are this many now
    #[arg(long)]
    current_replicas: Option<i64>,
}

impl Scale {
    pub async fn run(&self, session: &Session) -> Result<()> {
        if self.replicas < 0 {
            return Err(Failure::said(
                "The --replicas=COUNT flag is required, and COUNT must be greater than or equal to 0",
            ));
        }
        let objects = self.names.objects(session).await?;
        if objects.is_empty() {
            return Err(Failure::said("no objects passed to scale"));
        }
        for (target, object) in objects {
            if !target.row.has_subresource("scale") {
                return Err(Failure::said(format!("{} cannot be scaled", target.title())));
            }
            if let Some(expected) = self.current_replicas {
                let now = object["spec"]["replicas"].as_i64().unwrap_or(1);
                if now != expected {
                    return Err(Failure::said(format!(
                        "Expected replicas to be {expected}, was {now}"
                    )));
                }
            }
            let path = format!("{}/scale", target.path());
            let patch = json!({"spec": {"replicas": self.replicas}});
            let kind = "application/merge-patch+json";
            session.send(Method::PATCH, &path, kind, Some(&patch)).await?;
            anstream::println!("{} scaled", target.title());
        }
        Ok(())
    }
}
