//! The lines by which a long command says what it does and how long each step took: on stderr,
//! with a tick on a terminal, plain otherwise.

use std::future::Future;
use std::io::IsTerminal;

use anstyle::{AnsiColor, Style};
use client::Clock;
use tokio::time::Instant;

use super::Error;

/// Prints the steps of one command.
pub struct Steps {
    clock: Clock,
    started: Instant,
    terminal: bool,
}

const GREEN: Style = AnsiColor::Green.on_default();
const RED: Style = AnsiColor::Red.on_default();
const DIM: Style = Style::new().dimmed();

impl Steps {
    pub fn new(clock: Clock) -> Self {
        let terminal = std::io::stderr().is_terminal();
        Self { started: clock.instant(), clock, terminal }
    }

    /// Does one step and says so.
    pub async fn step<T>(
        &self,
        what: &str,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let started = self.clock.instant();
        let result = work.await;
        let milliseconds = (self.clock.instant() - started).as_millis();
        match (self.terminal, result.is_ok()) {
            (true, true) => {
                anstream::eprintln!(" {GREEN}✓{GREEN:#} {what} {DIM}{milliseconds} ms{DIM:#}");
            }
            (true, false) => anstream::eprintln!(" {RED}✗{RED:#} {what}"),
            (false, true) => anstream::eprintln!("{what}: {milliseconds} ms"),
            (false, false) => anstream::eprintln!("{what}: failed"),
        }
        result
    }

    /// Says that all is done, with the time since the command began.
    pub fn done(&self, what: &str) {
        let seconds = (self.clock.instant() - self.started).as_secs_f64();
        anstream::eprintln!("{what} in {seconds:.2} s");
    }
}
