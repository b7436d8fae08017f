//! The command line of a hypervisor host: machines, and their protection.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueHint};
use hawser_proto::NodeName;

use super::Output;

#[derive(Debug, Subcommand)]
pub(crate) enum ProtectCommand {
    /// Protects a machine that runs here: shows what would be done, asks, and waits until it is protected.
    #[command(after_help = "\
The machine is found by its QMP socket: --qmp, else that of a machine that was taken over or protected here before, else that of
`hawser vm run`, else NAME.qmp in host.run. It runs on all the time. Whatever makes it unfit is said before anything is changed.

Examples:
  hawser protect start vm1 --to host-b
  hawser protect start vm1 --to host-b --qmp /run/vm1.qmp --yes
  hawser protect start vm1 --to host-b --plan --json")]
    Start(StartArgs),
    /// Shows this host's machines: roles, progress, epochs, pauses, what is held.
    Status(StatusArgs),
    /// Ends a machine's protection on the host where it runs; it runs on.
    Stop {
        /// The machine's name or UUID.
        machine: String,
        #[command(flatten)]
        state: HostState,
    },
    /// Forces a fail-over, on either host: the machine ends where it runs and goes on at the standby.
    Fail {
        /// The machine's name or UUID.
        machine: String,
        /// Do not ask.
        #[arg(short, long)]
        yes: bool,
        #[command(flatten)]
        state: HostState,
    },
    /// Settles what an agent that died left behind, by what the register says; a starting agent does so by itself.
    Recover {
        #[command(flatten)]
        state: HostState,
    },
}

#[derive(Debug, Args)]
pub(crate) struct StartArgs {
    /// The machine's name, as shown from then on.
    pub(crate) machine: String,
    /// The host that stands by, by its name in the domain.
    #[arg(long, value_name = "HOST")]
    pub(crate) to: NodeName,
    /// Where that host listens, as HOST:PORT; else as in host.peers, else by its name.
    #[arg(long)]
    pub(crate) address: Option<String>,
    /// The machine's QMP socket.
    #[arg(long, value_name = "SOCKET", value_hint = ValueHint::FilePath)]
    pub(crate) qmp: Option<PathBuf>,
    /// Only show what would be done.
    #[arg(long)]
    pub(crate) plan: bool,
    /// Do not ask.
    #[arg(short, long)]
    pub(crate) yes: bool,
    /// Return at once; `hawser protect status` tells how it goes.
    #[arg(long)]
    pub(crate) no_wait: bool,
    /// Print JSON, for machines.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) state: HostState,
}

#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// Only this machine, by name or UUID.
    pub(crate) machine: Option<String>,
    /// Draw it again and again, until Ctrl-C.
    #[arg(short, long)]
    pub(crate) watch: bool,
    #[command(flatten)]
    pub(crate) output: Output,
    #[command(flatten)]
    pub(crate) state: HostState,
}

#[derive(Debug, Args)]
pub(crate) struct HostState {
    /// The host's state directory, if not the one in the configuration.
    #[arg(long = "state", value_name = "DIRECTORY", value_hint = ValueHint::DirPath)]
    pub(crate) directory: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum VmCommand {
    /// Starts a machine from a small description, under the QEMU that is installed.
    #[command(after_help = "\
Whatever the description says, the machine has a versioned machine type, memory that can be mapped, taps without vhost, and a
QMP socket: it can be protected later, while it runs.

A description:
  name = \"vm1\"
  memory = \"2G\"
  cpus = 2                    # 1 unless given
  [[disk]]
  file = \"/srv/vm1.raw\"     # format = \"qcow2\", aio = \"io_uring\" or \"threads\", read_only = true
  [[nic]]
  kind = \"tap\"              # or \"user\", with forward = [\"tcp:127.0.0.1:2222-:22\"]
  ifname = \"tap-vm1\"
  bridge = \"br0\"

Also: uuid, machine (pc-q35-7.2), accel (auto, kvm, tcg), cpu, kernel, initrd, append, serial (stdio, file:PATH, unix:PATH,
none), qmp, directory (/run/hawser/vm/NAME), qemu, arguments.

Signals:
  TERM, INT, HUP   press the machine's power button; a second one kills it

Examples:
  hawser vm run vm1.toml
  hawser vm run vm1.toml --print
  hawser vm run vm1.toml --daemonize")]
    Run(VmRunArgs),
}

#[derive(Debug, Args)]
pub(crate) struct VmRunArgs {
    /// The machine's description (TOML).
    #[arg(value_hint = ValueHint::FilePath)]
    pub(crate) file: PathBuf,
    /// Print QEMU's command line, and start nothing.
    #[arg(long)]
    pub(crate) print: bool,
    /// Return when the machine runs, and leave it running.
    #[arg(long, conflicts_with = "print")]
    pub(crate) daemonize: bool,
}
