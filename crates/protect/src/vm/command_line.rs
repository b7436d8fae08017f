//! A QEMU's command line as a list of options, read from a process or from a list of words.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

/// How a QEMU was started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandLine {
    /// The program.
    pub program: PathBuf,
    /// Its working directory, which relative paths among the arguments start from.
    pub directory: PathBuf,
    /// Its arguments, without the program.
    pub args: Vec<String>,
}

/// One option of a command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Argument {
    /// `-name` or `-name value`.
    Option {
        /// Its name, without dashes.
        name: String,
        /// Its value, if an option of this name takes one.
        value: Option<String>,
    },
    /// A disk image without an option: QEMU takes it as its first disk.
    Image(String),
}

/// Why there is no command line.
#[derive(Debug, thiserror::Error)]
pub enum CommandLineError {
    /// What the kernel says of the process could not be read.
    #[error(
        "the command line of process {pid} cannot be read at {path} ({source}): run as root, or with CAP_SYS_PTRACE"
    )]
    Process {
        /// The process.
        pid: u32,
        /// What was read.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// There are no arguments.
    #[error("process {0} has no command line: it has ended, or is part of the kernel")]
    Empty(u32),
    /// An argument is not UTF-8.
    #[error("argument {number} of process {pid} is not UTF-8: {text}; start the machine with names in UTF-8")]
    NoText {
        /// The process.
        pid: u32,
        /// Which argument, counted from 1.
        number: usize,
        /// The argument, as far as it is text.
        text: String,
    },
    /// The last option lacks its value.
    #[error("option -{0} comes last and without the value that it takes")]
    NoValue(String),
}

impl CommandLine {
    /// How a running process was started.
    pub fn of_process(pid: u32) -> Result<Self, CommandLineError> {
        let base = PathBuf::from(format!("/proc/{pid}"));
        let error = |path: PathBuf| move |source| CommandLineError::Process { pid, path, source };
        let link = |name: &str| fs::read_link(base.join(name)).map_err(error(base.join(name)));
        let bytes = fs::read(base.join("cmdline")).map_err(error(base.join("cmdline")))?;
        let Some(words) = bytes.strip_suffix(b"\0") else {
            return Err(CommandLineError::Empty(pid));
        };
        let args = words
            .split(|b| *b == 0)
            .enumerate()
            .skip(1)
            .map(|(number, word)| {
                let no_text = |_| CommandLineError::NoText {
                    pid,
                    number,
                    text: String::from_utf8_lossy(word).into_owned(),
                };
                String::from_utf8(word.to_vec()).map_err(no_text)
            });
        let args = args.collect::<Result<_, _>>()?;
        let program = link("exe")?;
        // The package may have been upgraded under the running process.
        let program = match program.to_str().and_then(|p| p.strip_suffix(" (deleted)")) {
            Some(path) => path.into(),
            None => program,
        };
        Ok(Self {
            program,
            directory: link("cwd")?,
            args,
        })
    }

    /// The arguments, taken apart into options.
    pub fn arguments(&self) -> Result<Vec<Argument>, CommandLineError> {
        let mut list = Vec::new();
        let mut words = self.args.iter();
        while let Some(word) = words.next() {
            let Some(name) = word.strip_prefix('-') else {
                list.push(Argument::Image(word.clone()));
                continue;
            };
            let name = name.strip_prefix('-').unwrap_or(name);
            let value = if FLAGS.contains(&name) {
                None
            } else {
                let value = words.next().cloned();
                Some(value.ok_or_else(|| CommandLineError::NoValue(name.into()))?)
            };
            list.push(Argument::Option {
                name: name.into(),
                value,
            });
        }
        Ok(list)
    }

    /// A path among the arguments as an absolute one.
    pub fn absolute(&self, path: impl AsRef<Path>) -> PathBuf {
        self.directory.join(path)
    }
}

/// Options without a value, of QEMU 6 to 10 (`qemu-options.hx`); every other option takes one.
const FLAGS: &[&str] = &[
    "S",
    "alt-grab",
    "async-teardown",
    "audio-help",
    "ctrl-grab",
    "curses",
    "daemonize",
    "enable-fips",
    "enable-kvm",
    "enable-sync-profile",
    "full-screen",
    "h",
    "help",
    "jitdump",
    "mem-prealloc",
    "no-acpi",
    "no-fd-bootchk",
    "no-frame",
    "no-hpet",
    "no-kvm",
    "no-kvm-irqchip",
    "no-kvm-pit",
    "no-kvm-pit-reinjection",
    "no-quit",
    "no-reboot",
    "no-shutdown",
    "no-user-config",
    "nodefaults",
    "nographic",
    "nouserconfig",
    "old-param",
    "only-migratable",
    "perfmap",
    "portrait",
    "preconfig",
    "rtc-td-hack",
    "s",
    "sdl",
    "semihosting",
    "singlestep",
    "snapshot",
    "tdf",
    "usb",
    "version",
    "win2k-hack",
    "xen-attach",
    "xen-domid-restrict",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_with_and_without_values_are_told_apart() {
        let line = line(&["-S", "--m", "64", "disk.img", "-nodefaults", "-append", "-x y"]);
        let option = |name: &str, value: Option<&str>| Argument::Option {
            name: name.into(),
            value: value.map(Into::into),
        };
        let expected = [
            option("S", None),
            option("m", Some("64")),
            Argument::Image("disk.img".into()),
            option("nodefaults", None),
            option("append", Some("-x y")),
        ];
        assert_eq!(line.arguments().unwrap(), expected);
        assert!(matches!(
            super::CommandLine { args: vec!["-m".into()], ..line }.arguments(),
            Err(CommandLineError::NoValue(name)) if name == "m"
        ));
    }

    #[test]
    fn a_process_says_how_it_was_started() {
        let own = CommandLine::of_process(std::process::id()).unwrap();
        assert_eq!(own.program, std::env::current_exe().unwrap());
        assert_eq!(own.args, std::env::args().skip(1).collect::<Vec<_>>());
        assert_eq!(own.directory, std::env::current_dir().unwrap());
        assert!(matches!(
            CommandLine::of_process(u32::MAX),
            Err(CommandLineError::Process { .. })
        ));
    }

    fn line(args: &[&str]) -> CommandLine {
        CommandLine {
            program: "qemu-system-x86_64".into(),
            directory: "/".into(),
            args: args.iter().map(ToString::to_string).collect(),
        }
    }
}
