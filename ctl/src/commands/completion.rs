//! `ctl completion SHELL`.

use clap::CommandFactory;
use clap_complete::Shell;

use crate::failure::Result;

#[derive(clap::Args)]
pub struct Completion {
    /// bash, zsh, fish, elvish or powershell
    shell: Shell,
}

impl Completion {
    pub fn run(&self) -> Result<()> {
        let mut command = crate::Cli::command();
        clap_complete::generate(self.shell, &mut command, "ctl", &mut std::io::stdout());
        Ok(())
    }
}
