//! `ctl api-resources`.

use crate::failure::Result;
use crate::output::table::Table;
use crate::session::Session;

#[derive(clap::Args)]
pub struct ApiResources {
    /// Only of this API group
    #[arg(long)]
    api_group: Option<String>,
    /// Only namespaced (true) or cluster-scoped (false)
    #[arg(long)]
    namespaced: Option<bool>,
    /// wide: verbs and categories too; name: only the names
    #[arg(short, long, value_parser = ["wide", "name"])]
    output: Option<String>,
    #[arg(long)]
    no_headers: bool,
}

impl ApiResources {
    pub async fn run(&self, session: &Session) -> Result<()> {
        let wide = self.output.as_deref() == Some("wide");
        let mut heads = vec!["NAME", "SHORTNAMES", "APIVERSION", "NAMESPACED", "KIND"];
        if wide {
            heads.extend(["VERBS", "CATEGORIES"]);
        }
        let mut table = Table::new(&heads);
        for row in session.resources().await?.all() {
            if self.api_group.as_ref().is_some_and(|group| *group != row.group)
                || self.namespaced.is_some_and(|namespaced| namespaced != row.namespaced)
            {
                continue;
            }
            if self.output.as_deref() == Some("name") {
                anstream::println!("{}", row.qualified());
                continue;
            }
            let mut cells = vec![
                row.resource.to_string(),
                row.short_names.join(","),
                row.api_version(),
                row.namespaced.to_string(),
                row.kind.to_string(),
            ];
            if wide {
                cells.extend([row.verbs.join(","), row.categories.join(",")]);
            }
            table.push(cells);
        }
        anstream::print!(
            "{}",
            table.lines(!self.no_headers && self.output.as_deref() != Some("name"))
        );
        Ok(())
    }
}
