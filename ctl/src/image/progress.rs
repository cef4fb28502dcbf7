//! How far a pull is: a bar for each layer on a terminal, a line for each that is done elsewhere.

use std::collections::HashMap;

use agent::runtime::images::{Progress, Step};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use parking_lot::Mutex;

use super::size;

/// The layers of one pull.
pub struct Bars {
    terminal: bool,
    all: MultiProgress,
    layers: Mutex<HashMap<String, ProgressBar>>,
}

impl Bars {
    pub fn new(terminal: bool) -> Bars {
        let target = match terminal {
            true => ProgressDrawTarget::stderr(),
            false => ProgressDrawTarget::hidden(),
        };
        Bars { terminal, all: MultiProgress::with_draw_target(target), layers: Mutex::default() }
    }

    /// Leaves the terminal to others.
    pub fn finish(&self) {
        for bar in self.layers.lock().values() {
            if !bar.is_finished() {
                bar.abandon();
            }
        }
    }

    fn done(&self, digest: &str, word: &'static str) {
        let layers = self.layers.lock();
        let Some(bar) = layers.get(digest) else { return };
        bar.set_position(bar.length().unwrap_or_default());
        bar.finish_with_message(word);
        if !self.terminal {
            let bytes = size(bar.length().unwrap_or_default());
            anstream::eprintln!("{}: {word} ({bytes})", short(digest));
        }
    }
}

impl Progress for Bars {
    fn tell(&self, step: Step<'_>) {
        match step {
            Step::Layer { digest, size } => {
                let style = "{prefix} {bar:30} {bytes:>10}/{total_bytes:<10} {msg}";
                let style = ProgressStyle::with_template(style).expect("the template is right");
                let bar = self.all.add(ProgressBar::new(size).with_style(style));
                bar.set_prefix(short(digest).to_owned());
                let mut layers = self.layers.lock();
                layers.insert(digest.to_owned(), bar);
            }
            Step::Received { digest, bytes } => {
                let layers = self.layers.lock();
                if let Some(bar) = layers.get(digest) {
                    bar.inc(bytes);
                }
            }
            Step::Present { digest } => self.done(digest, "already there"),
            Step::Unpacked { digest } => self.done(digest, "done"),
        }
    }
}

fn short(digest: &str) -> &str {
    let digits = digest.trim_start_matches("sha256:");
    &digits[..digits.len().min(12)]
}
