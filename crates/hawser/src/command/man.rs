//! `hawser man`: the manual pages, made from the command line's definition.

use std::path::Path;

use anyhow::Context as _;
use clap::CommandFactory as _;

use crate::{cli::Cli, terminal};

pub(super) fn run(directory: Option<&Path>) -> anyhow::Result<()> {
    match directory {
        Some(directory) => std::fs::create_dir_all(directory)
            .and_then(|()| clap_mangen::generate_to(Cli::command(), directory))
            .with_context(|| format!("manual pages cannot be written to {}", directory.display())),
        None => {
            let mut page = Vec::new();
            clap_mangen::Man::new(Cli::command()).render(&mut page)?;
            terminal::print(&String::from_utf8_lossy(&page))
        }
    }
}
