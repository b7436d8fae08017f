//! What there is to type on a device.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueHint};
use hawser_proto::broker::ItemId;

use super::Output;

/// Environment variable that a passphrase may come by.
pub(crate) const PASSPHRASE_VARIABLE: &str = "HAWSER_PASSPHRASE";

#[derive(Debug, Subcommand)]
pub(crate) enum OwnCommand {
    /// Makes this machine, or a directory on it, a user's device, by a link from `hawser enrol`.
    #[command(after_help = "\
The link is a secret and works once: it is read from standard input, never from the command line. The device's keys are made
here, encrypted under a passphrase (Argon2id), and leave this machine in no form. The servers are known by what the link and
the answer to it say of their keys; public certificates play no part.

Examples:
  hawser device enrol < link
  hawser enrol alice | ssh laptop hawser device enrol --passphrase-file /run/secrets/device")]
    Enrol {
        /// What the administrator's list calls this device. Default: this machine's name.
        #[arg(long, value_name = "TEXT")]
        name: Option<String>,
        #[command(flatten)]
        profile: ProfileArgs,
        #[command(flatten)]
        home: DeviceHome,
    },
    /// Shows what arrives, verified and opened, until it is stopped.
    #[command(after_help = "\
A lost connection is made anew, and nothing is missed: what was not acknowledged comes again. A message is acknowledged when it
was printed, or when CMD ended well; should this process die in between, it comes again.

With --exec, CMD is run by `sh -c` for each message, one at a time, for at most five minutes. It gets the body on standard
input, and in its environment HAWSER_SOURCE, HAWSER_ID, HAWSER_TYPE, HAWSER_SUBJECT, HAWSER_SEQUENCE, HAWSER_URGENCY,
HAWSER_MODE, HAWSER_CONTENT_TYPE, HAWSER_VARIANT and HAWSER_ITEM. If it fails, the publisher is told that the message was
not delivered.

With --json, each line is an object whose member `event` is message, refused, withheld, skipped, connected or disconnected.
`withheld` names numbers that did not come and that the domain has not explained: whoever carries the messages kept them back,
or their explanation (`skipped`) is on its way.

Examples:
  hawser device listen
  hawser device listen --json | jq -r 'select(.event == \"message\") | .subject'
  hawser device listen --exec 'notify-send \"$HAWSER_SUBJECT\" \"$(cat)\"'")]
    Listen {
        /// Print one JSON object a line, for machines.
        #[arg(long)]
        json: bool,
        /// Run this for each message.
        #[arg(long, value_name = "CMD")]
        exec: Option<String>,
        /// End after so many messages.
        #[arg(long, value_name = "COUNT")]
        count: Option<u64>,
        #[command(flatten)]
        home: DeviceHome,
    },
    /// Gets content that a message names: what is too large or too confidential to be sent unasked.
    #[command(after_help = "\
The domain checks user and device again at this moment, and seals the answer for this device alone.

Examples:
  hawser device fetch 5x2QnL0Yt1mJ4d9rVb8uWg
  hawser device fetch 5x2QnL0Yt1mJ4d9rVb8uWg --accept application/pdf --output report.pdf")]
    Fetch {
        /// The item, as the message names it.
        #[arg(allow_hyphen_values = true)]
        item: ItemId,
        /// What can be shown now, as in HTTP's Accept. Default: this device's profile.
        #[arg(long, value_name = "TYPES", default_value = "", hide_default_value = true)]
        accept: String,
        /// Write it to this file rather than to standard output.
        #[arg(long, short, value_name = "FILE", value_hint = ValueHint::FilePath)]
        output: Option<PathBuf>,
        #[command(flatten)]
        home: DeviceHome,
    },
    /// Tells the publisher that the user has seen a message.
    #[command(after_help = "\
That a message arrived is acknowledged by `hawser device listen` itself. Works for the last 512 messages.

Example:
  hawser device ack 17")]
    Ack {
        /// The message's number.
        sequence: u64,
        #[command(flatten)]
        home: DeviceHome,
    },
    /// Shows, or changes, what this device can show: messages are adapted to it from then on.
    #[command(after_help = "\
Examples:
  hawser device profile
  hawser device profile --accept 'text/html, text/plain;q=0.5, image/png' --language 'de, en;q=0.5'")]
    Profile {
        #[command(flatten)]
        profile: ProfileArgs,
        #[command(flatten)]
        output: Output,
        #[command(flatten)]
        home: DeviceHome,
    },
}

/// Where a device is, and how it is opened.
#[derive(Debug, Args)]
pub(crate) struct DeviceHome {
    /// The device's directory. Default: $XDG_DATA_HOME/hawser/device.
    #[arg(long, env = "HAWSER_DEVICE", value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) home: Option<PathBuf>,
    /// Read the passphrase from this file; else it comes from HAWSER_PASSPHRASE, or is asked for on the terminal.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) passphrase_file: Option<PathBuf>,
}

/// What a device can show.
#[derive(Debug, Args)]
pub(crate) struct ProfileArgs {
    /// Media types with quality values, as in HTTP's Accept.
    #[arg(long, value_name = "TYPES")]
    pub(crate) accept: Option<String>,
    /// Most bytes of one message's content.
    #[arg(long, value_name = "BYTES")]
    pub(crate) max_bytes: Option<u64>,
    /// Width and height of the screen in pixels: 1080x2400.
    #[arg(long, value_name = "WxH", value_parser = screen)]
    pub(crate) screen: Option<(u32, u32)>,
    /// Languages, as in HTTP's Accept-Language.
    #[arg(long, value_name = "LANGUAGES")]
    pub(crate) language: Option<String>,
}

fn screen(text: &str) -> Result<(u32, u32), String> {
    let sides = text
        .split_once('x')
        .and_then(|(w, h)| Some((w.parse().ok()?, h.parse().ok()?)));
    sides.ok_or_else(|| "expected WIDTHxHEIGHT in pixels, as in 1080x2400".into())
}
