//! What passes between a command and the person or script that runs it: tokens in, answers out.

use std::{
    io::{BufRead as _, IsTerminal as _, Read as _, Write as _},
    path::Path,
};

use anyhow::{Context as _, bail};

use zeroize::Zeroizing;

use crate::cli::{TOKEN_VARIABLE, TokenSource, device::PASSPHRASE_VARIABLE};

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

/// Reads a link from standard input.
pub(crate) fn read_link() -> anyhow::Result<Zeroizing<String>> {
    let text = if std::io::stdin().is_terminal() {
        eprintln!("Paste the link and press Enter.");
        let mut line = String::new();
        std::io::stdin().lock().take(MAX_TOKEN).read_line(&mut line)?;
        line
    } else {
        read(std::io::stdin()).context("standard input cannot be read")?
    };
    let text = Zeroizing::new(text);
    if text.trim().is_empty() {
        bail!("no link came: give it on standard input (hawser device enrol < link)");
    }
    Ok(Zeroizing::new(text.trim().to_owned()))
}

/// A passphrase from a file, else from the environment, else from the terminal, where it is asked for `twice` if it is new.
pub(crate) fn passphrase(file: Option<&Path>, twice: bool) -> anyhow::Result<Zeroizing<String>> {
    if let Some(path) = file {
        let file = std::fs::File::open(path).with_context(|| format!("{} cannot be read", path.display()))?;
        let text = read(file).with_context(|| format!("{} cannot be read", path.display()))?;
        let text = Zeroizing::new(text);
        return Ok(Zeroizing::new(text.trim_end_matches(['\n', '\r']).to_owned()));
    }
    if let Ok(text) = std::env::var(PASSPHRASE_VARIABLE) {
        return Ok(Zeroizing::new(text));
    }
    let first = ask_hidden("Passphrase of this device: ")?;
    if twice && *ask_hidden("Again: ")? != *first {
        bail!("the two passphrases differ: try again");
    }
    Ok(first)
}

/// A new password: from a file, else from standard input, or, where that is a terminal, asked for twice.
pub(crate) fn password(file: Option<&Path>, question: &str) -> anyhow::Result<Zeroizing<String>> {
    let text = match file {
        Some(path) if path != Path::new("-") => {
            let file =
                std::fs::File::open(path).with_context(|| format!("{} cannot be read", path.display()))?;
            read(file).with_context(|| format!("{} cannot be read", path.display()))?
        }
        None if std::io::stdin().is_terminal() => {
            let first = ask_hidden(question)?;
            if *ask_hidden("Again: ")? != *first {
                bail!("the two passwords differ: try again");
            }
            return Ok(first);
        }
        _ => read(std::io::stdin()).context("standard input cannot be read")?,
    };
    let text = Zeroizing::new(text);
    Ok(Zeroizing::new(text.trim_end_matches(['\n', '\r']).to_owned()))
}

/// Asks for a line on the terminal that is not shown.
fn ask_hidden(question: &str) -> anyhow::Result<Zeroizing<String>> {
    use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
    let mut terminal = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/tty")
        .with_context(|| {
            format!("there is no terminal to ask on: give --passphrase-file, or set {PASSPHRASE_VARIABLE}")
        })?;
    let before = tcgetattr(&terminal).context("the terminal cannot be asked")?;
    let mut hidden = before.clone();
    hidden.local_modes.remove(LocalModes::ECHO);
    hidden.local_modes.insert(LocalModes::ECHONL);
    write!(terminal, "{question}")?;
    terminal.flush()?;
    tcsetattr(&terminal, OptionalActions::Flush, &hidden)
        .context("the terminal cannot hide what is typed")?;
    let mut line = Zeroizing::new(String::new());
    let read = std::io::BufReader::new(&terminal)
        .take(MAX_TOKEN)
        .read_line(&mut line);
    tcsetattr(&terminal, OptionalActions::Flush, &before).context("the terminal cannot be set back")?;
    read?;
    Ok(Zeroizing::new(line.trim_end_matches(['\n', '\r']).to_owned()))
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
    write(text.as_bytes())
}

/// As [`print()`], any bytes.
pub(crate) fn write(bytes: &[u8]) -> anyhow::Result<()> {
    hand_over(bytes).map(drop)
}

/// As [`write()`]; false, if the reader has gone.
pub(crate) fn hand_over(bytes: &[u8]) -> anyhow::Result<bool> {
    let mut out = std::io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        Err(e) => Err(e).context("standard output cannot be written"),
    }
}

/// Prints a value as JSON for machines.
pub(crate) fn print_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    print(&format!("{}\n", serde_json::to_string_pretty(value)?))
}
