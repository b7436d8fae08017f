//! What passes between a command and the person or script that runs it: tokens in, answers out.

use std::{
    io::{BufRead as _, IsTerminal as _, Read as _, Write as _},
    path::Path,
};

use anyhow::{Context as _, bail};

use crate::cli::{TOKEN_VARIABLE, TokenSource};

/// Longest token that is read, in bytes.
const MAX_TOKEN: u64 = 64 * 1024;

/// Reads a token from where the command line says.
pub(crate) fn read_token(source: &TokenSource) -> anyhow::Result<String> {
    let text = match &source.token_file {
        Some(path) if path != Path::new("-") => {
            let file =
                std::fs::File::open(path).with_context(|| format!("{} cannot be read", path.display()))?;
            read(file).with_context(|| format!("{} cannot be read", path.display()))?
        }
        None if std::env::var_os(TOKEN_VARIABLE).is_some() => std::env::var(TOKEN_VARIABLE)
            .ok()
            .with_context(|| format!("{TOKEN_VARIABLE} holds no text"))?,
        _ => {
            if std::io::stdin().is_terminal() {
                eprintln!("Paste the token and press Enter.");
                let mut line = String::new();
                std::io::stdin().lock().take(MAX_TOKEN).read_line(&mut line)?;
                line
            } else {
                read(std::io::stdin()).context("standard input cannot be read")?
            }
        }
    };
    let token = text.trim();
    if token.is_empty() {
        bail!("no token came: give it on standard input, with --token-file, or in {TOKEN_VARIABLE}");
    }
    Ok(token.to_string())
}

fn read(from: impl std::io::Read) -> std::io::Result<String> {
    let mut text = String::new();
    from.take(MAX_TOKEN).read_to_string(&mut text)?;
    Ok(text)
}

/// Asks a question on the terminal, even when standard input is something else; no answer is no.
pub(crate) fn ask(question: &str) -> anyhow::Result<bool> {
    let mut terminal = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/tty")
        .context("there is no terminal to ask on")?;
    write!(terminal, "{question} [y/N] ")?;
    terminal.flush()?;
    let mut answer = String::new();
    std::io::BufReader::new(terminal).read_line(&mut answer)?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

/// Prints to standard output; a reader that has gone, such as `head`, is no error.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other.context("standard output cannot be written"),
    }
}

/// Prints a value as JSON for machines.
pub(crate) fn print_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    print(&format!("{}\n", serde_json::to_string_pretty(value)?))
}
