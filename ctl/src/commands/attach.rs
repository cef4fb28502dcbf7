//! `ctl attach`: the streams of a container's own process.

use std::io::IsTerminal;
use std::process::ExitCode;

use super::exec::{Talk, partner};
use crate::failure::{Failure, Result};
use crate::resources::{items, text};
use crate::session::Session;

#[derive(clap::Args)]
pub struct Attach {
    /// POD or TYPE/NAME
    pod: String,
    /// Which container
    #[arg(short, long)]
    container: Option<String>,
    /// Pass standard input on
    #[arg(short = 'i', long)]
    stdin: bool,
    /// Standard input is a terminal
    #[arg(short = 't', long)]
    tty: bool,
}

impl Attach {
    /// Ends when the container does.
    pub async fn run(&self, session: &Session) -> Result<ExitCode> {
        let doing = "attach a container";
        let (pod, name) = partner(session, &self.pod, self.container.as_deref(), doing).await?;
        let spec = &pod["spec"];
        let all = ["containers", "initContainers", "ephemeralContainers"];
        let mut all = all.iter().flat_map(|field| items(&spec[*field]));
        let container = all.find(|container| container["name"] == name.as_str());
        let container = container.ok_or_else(|| {
            let pod = text(&pod["metadata"]["name"]);
            Failure::said(format!("container {name} not found in pod {pod}"))
        })?;
        let mut terminal = self.tty;
        if terminal && container["tty"] != true {
            anstream::eprintln!("Unable to use a TTY - container {name} did not allocate one");
            terminal = false;
        } else if terminal && !std::io::stdin().is_terminal() {
            anstream::eprintln!(
                "Unable to use a TTY - input is not a terminal or the right kind of file"
            );
            terminal = false;
        }
        if self.stdin && terminal {
            anstream::eprintln!("If you don't see a command prompt, try pressing enter.");
        }
        let talk = Talk { container: &name, stdin: self.stdin, terminal };
        talk.run(session, &pod, "attach", &[]).await
    }
}
