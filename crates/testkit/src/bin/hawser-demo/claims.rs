//! Claims as they are printed: one line that says what holds, and beneath it what was done.

use std::{
    io::IsTerminal,
    sync::{Arc, atomic::AtomicBool},
};

use anyhow::Result;

/// All claims of a run.
pub(crate) struct Claims {
    stop: Arc<AtomicBool>,
    colour: bool,
    held: usize,
    failed: usize,
}

impl Claims {
    pub(crate) fn new(stop: Arc<AtomicBool>) -> Self {
        Self {
            stop,
            colour: std::io::stdout().is_terminal(),
            held: 0,
            failed: 0,
        }
    }

    /// A heading.
    pub(crate) fn section(&self, title: &str) -> Result<()> {
        crate::go_on(&self.stop)?;
        println!("\n{}", self.paint("1", title));
        Ok(())
    }

    /// Proves a claim and prints it, with the evidence that the proof returns, or with what went wrong.
    pub(crate) fn claim(&mut self, what: &str, proof: impl FnOnce() -> Result<Vec<String>>) -> Result<()> {
        crate::go_on(&self.stop)?;
        let outcome = proof();
        crate::go_on(&self.stop)?;
        let lines = match outcome {
            Ok(evidence) => {
                self.held += 1;
                println!("  {} {what}", self.paint("32", "holds "));
                evidence
            }
            Err(e) => {
                self.failed += 1;
                println!("  {} {what}", self.paint("31", "FAILED"));
                vec![format!("{e:#}")]
            }
        };
        for line in lines.iter().flat_map(|l| l.trim_end().lines()) {
            println!("         {}", self.paint("2", line));
        }
        Ok(())
    }

    /// Says what is not shown here, and why.
    pub(crate) fn note(&self, text: &str) {
        println!("  {} {text}", self.paint("33", "note  "));
    }

    pub(crate) fn sum_up(&self) {
        println!("\n{} claims held, {} failed.", self.held, self.failed);
    }

    pub(crate) fn all_held(&self) -> bool {
        self.failed == 0 && self.held > 0
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}
