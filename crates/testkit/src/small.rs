//! A file system with little room, for what is to happen when a disk is full.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, ensure};

/// A file system in memory with room for so much, until dropped. Needs root.
#[derive(Debug)]
pub struct Small(PathBuf);

impl Small {
    /// Mounts it, with room for so many KiB, at a directory that is made if it is missing.
    pub fn mount(at: &Path, kib: u64) -> Result<Self> {
        fs::create_dir_all(at)?;
        mount(&["-t", "tmpfs", "-o", &format!("size={kib}k"), "tmpfs"], at)?;
        Ok(Self(at.into()))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Gives it room for so many KiB in all.
    pub fn resize(&self, kib: u64) -> Result<()> {
        mount(&["-o", &format!("remount,size={kib}k")], &self.0)
    }

    /// Takes away all room that is left.
    pub fn fill(&self) -> Result<()> {
        let said = rustix::fs::statvfs(&self.0)?;
        self.resize(((said.f_blocks - said.f_bfree) * said.f_frsize).div_ceil(1024))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        unmount(&self.0);
    }
}

fn mount(args: &[&str], at: &Path) -> Result<()> {
    let out = Command::new("mount").args(args).arg(at).output()?;
    let said = String::from_utf8_lossy(&out.stderr);
    ensure!(out.status.success(), "mount at {}: {said}", at.display());
    Ok(())
}

fn unmount(at: &Path) {
    let _ = Command::new("umount").arg("-l").arg(at).output();
}

/// Takes off what is still mounted below a directory, by a run that was killed.
pub(crate) fn unmount_below(directory: &Path) {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let places = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(1))
        .map(Path::new);
    places.filter(|at| at.starts_with(directory)).for_each(unmount);
}
