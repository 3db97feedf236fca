//! A runner for steps that build on each other. It reports as the standard test runner does, one line for each step.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use anyhow::{Result, anyhow};

use crate::wait;

/// Steps that share a state.
pub struct Steps<S> {
    state: S,
    passed: u32,
    failed: Vec<String>,
    filter: Option<String>,
}

impl<S> Steps<S> {
    /// No step has run yet. The first argument that is no option chooses steps by a part of their name.
    pub fn new(state: S) -> Self {
        Self::chosen(state, std::env::args().skip(1).find(|argument| !argument.starts_with('-')))
    }

    /// The same for a test with options of its own: `filter` is a part of the names of the steps that are to run.
    pub fn chosen(state: S, filter: Option<String>) -> Self {
        Self { state, passed: 0, failed: Vec::new(), filter }
    }

    /// Runs one step and reports it. Later steps run in any case, so that one broken part hides no other.
    pub fn step(&mut self, name: &str, run: impl FnOnce(&mut S) -> Result<()>) -> &mut Self {
        if self.filter.as_ref().is_some_and(|part| !name.contains(part.as_str())) {
            return self;
        }
        self.always(name, run)
    }

    /// Runs one step whatever was chosen.
    pub fn always(&mut self, name: &str, run: impl FnOnce(&mut S) -> Result<()>) -> &mut Self {
        let start = wait::now();
        let outcome = catch_unwind(AssertUnwindSafe(|| run(&mut self.state))).unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().cloned().or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            Err(anyhow!("panicked: {}", text.unwrap_or_default()))
        });
        let seconds = start.elapsed().as_secs_f64();
        match outcome {
            Ok(()) => {
                self.passed += 1;
                println!("test {name} ... ok ({seconds:.1} s)");
            }
            Err(error) => {
                println!("test {name} ... FAILED ({seconds:.1} s)\n     {error:#}");
                self.failed.push(name.to_owned());
            }
        }
        self
    }

    /// The state, to look at between steps.
    pub fn state(&self) -> &S {
        &self.state
    }

    /// Prints the result and drops the state.
    pub fn finish(self) -> ExitCode {
        self.report().0
    }

    /// Prints the result and hands the state back.
    pub fn report(self) -> (ExitCode, S) {
        let word = if self.failed.is_empty() { "ok" } else { "FAILED" };
        for name in &self.failed {
            println!("failed: {name}");
        }
        println!("\ntest result: {word}. {} passed; {} failed; 0 ignored; 0 measured; 0 filtered out", self.passed, self.failed.len());
        (if self.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }, self.state)
    }
}
