//! `ctl version`.

use serde_json::json;

use crate::failure::Result;
use crate::output;
use crate::resources::text;
use crate::session::Connection;

#[derive(clap::Args)]
pub struct Version {
    /// Only ctl's own
    #[arg(long)]
    client: bool,
    #[arg(short, long, value_parser = ["json", "yaml"])]
    output: Option<String>,
}

impl Version {
    pub async fn run(&self, connection: &Connection) -> Result<()> {
        let own = env!("CARGO_PKG_VERSION");
        let server = match self.client {
            true => None,
            false => Some(connection.open()?.get("/version").await?),
        };
        let mut all = json!({"clientVersion": {"gitVersion": format!("v{own}")}});
        if let Some(server) = &server {
            all["serverVersion"] = server.clone();
        }
        match self.output.as_deref() {
            Some("json") => anstream::print!("{}", output::json(&all)),
            Some(_) => anstream::print!("{}", output::yaml(&all)?),
            None => {
                anstream::println!("Client Version: v{own}");
                if let Some(server) = server {
                    anstream::println!("Server Version: {}", text(&server["gitVersion"]));
                }
            }
        }
        Ok(())
    }
}
