//! How a command ends when it fails: one line on standard error for each thing that is wrong, and an exit code.

use std::{fmt, process::ExitCode};

use hawser_protect::vm::DescriptionError;

use crate::config::ConfigErrors;

/// What went wrong was said already, or is the result itself: only the exit code is left.
#[derive(Debug)]
pub(crate) struct Quiet;

/// There is no process to ask.
#[derive(Debug)]
pub(crate) struct NothingRuns(pub(crate) String);

impl fmt::Display for Quiet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("failed")
    }
}

impl fmt::Display for NothingRuns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Quiet {}
impl std::error::Error for NothingRuns {}

/// Prints an error and its causes; the exit codes are those in the help of `hawser`.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    if error.is::<Quiet>() {
        return ExitCode::from(1);
    }
    let code = if error.is::<ConfigErrors>() || error.is::<DescriptionError>() {
        3
    } else if error.is::<NothingRuns>() {
        4
    } else {
        1
    };
    for line in message(error).lines() {
        eprintln!("hawser: {line}");
    }
    ExitCode::from(code)
}

/// An error and its causes; a cause that the error before it quotes already is left out.
pub(crate) fn message(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.contains(&cause) {
            continue;
        }
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&cause);
    }
    text
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    #[test]
    fn causes_follow_what_they_caused_and_are_said_once() {
        let e = anyhow::Result::<()>::Err(anyhow::anyhow!("refused"))
            .context("b: refused")
            .context("a")
            .unwrap_err();
        assert_eq!(super::message(&e), "a: b: refused");
    }
}
