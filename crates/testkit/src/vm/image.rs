//! What a test's guest boots: Debian's kernel, and a first file system with busybox, a few modules and our program.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use anyhow::{Context, Result, bail, ensure};
use aws_lc_rs::digest::{Context as Hash, SHA256};

use super::cpio::Archive;
use crate::origin::python::workspace;

/// Kernel and first file system of a test's guest.
#[derive(Debug, Clone)]
pub struct Image {
    /// The kernel (`-kernel`).
    pub kernel: PathBuf,
    /// The first file system (`-initrd`).
    pub initrd: PathBuf,
}

const INIT: &str = include_str!("init");

/// In the order in which they are inserted.
const MODULES: [&str; 9] = [
    "drivers/virtio/virtio_ring",
    "drivers/virtio/virtio",
    "drivers/virtio/virtio_pci_modern_dev",
    "drivers/virtio/virtio_pci_legacy_dev",
    "drivers/virtio/virtio_pci",
    "drivers/block/virtio_blk",
    "net/core/failover",
    "drivers/net/net_failover",
    "drivers/net/virtio_net",
];

impl Image {
    /// The image, made if it is not there yet: once, also when many test programs ask.
    pub fn get() -> Result<Self> {
        static IMAGE: OnceLock<Result<Image, String>> = OnceLock::new();
        match IMAGE.get_or_init(|| find().map_err(|e| format!("{e:#}"))) {
            Ok(image) => Ok(image.clone()),
            Err(why) => bail!("no image for guests: {why}"),
        }
    }
}

/// Where everything about machines is kept.
pub(super) fn store() -> PathBuf {
    workspace().join("target/machines")
}

/// Has `scripts/machines` fetch what is not there.
pub(super) fn provide() -> Result<()> {
    static DONE: OnceLock<Result<(), String>> = OnceLock::new();
    let outcome = DONE.get_or_init(|| {
        let script = workspace().join("scripts/machines");
        let out = Command::new(&script)
            .output()
            .map_err(|e| format!("{script:?}: {e}"))?;
        let said = String::from_utf8_lossy(&out.stderr);
        if !said.is_empty() {
            eprint!("{said}");
        }
        if out.status.success() {
            Ok(())
        } else {
            Err(said.into_owned())
        }
    });
    outcome.clone().map_err(anyhow::Error::msg)
}

fn find() -> Result<Image> {
    provide()?;
    let kernel = store().join("kernel");
    let images = store().join("images");
    fs::create_dir_all(&images)?;
    let busybox = busybox()?;
    let key = key(&kernel, &busybox)?;
    let image = Image {
        kernel: kernel.join("vmlinuz"),
        initrd: images.join(format!("{key}.cpio")),
    };
    // One makes it, the others wait; it gets its name when it is whole.
    let lock = File::create(images.join("lock"))?;
    lock.lock()?;
    if !image.initrd.exists() {
        let unfinished = images.join("unfinished");
        fs::write(&unfinished, archive(&kernel, &busybox)?)?;
        fs::rename(&unfinished, &image.initrd)?;
    }
    Ok(image)
}

/// Names an image by everything that it is made of.
fn key(kernel: &Path, busybox: &Path) -> Result<String> {
    let mut hash = Hash::new(&SHA256);
    hash.update(INIT.as_bytes());
    hash.update(MODULES.join(" ").as_bytes());
    hash.update(&fs::read(kernel.join("package"))?);
    hash.update(&fs::read(busybox)?);
    let source = workspace().join("crates/guest");
    let mut files: Vec<_> = fs::read_dir(source.join("src"))?
        .map(|entry| Ok(entry?.path()))
        .collect::<io::Result<_>>()?;
    files.push(source.join("Cargo.toml"));
    files.sort();
    for file in files {
        hash.update(&fs::read(file)?);
    }
    Ok(hash.finish().as_ref()[..8]
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect())
}

fn archive(kernel: &Path, busybox: &Path) -> Result<Vec<u8>> {
    let mut archive = Archive::new();
    for dir in ["bin", "modules"] {
        archive.directory(dir);
    }
    archive.file("init", INIT.as_bytes());
    archive.file("bin/busybox", &fs::read(busybox)?);
    archive.file("bin/guest", &fs::read(guest_program()?)?);
    let mut order = String::new();
    for path in MODULES {
        let Some(module) = module(kernel, path)? else {
            continue;
        };
        let name = path.rsplit('/').next().unwrap_or(path);
        archive.file(&format!("modules/{name}.ko"), &module);
        order.push_str(name);
        order.push('\n');
    }
    archive.file("modules/order", order.as_bytes());
    Ok(archive.finish())
}

/// A module's code; none if the kernel has it built in.
fn module(kernel: &Path, path: &str) -> Result<Option<Vec<u8>>> {
    let modules = kernel.join("modules");
    let plain = modules.join(format!("kernel/{path}.ko"));
    if plain.exists() {
        return Ok(Some(fs::read(plain)?));
    }
    let packed = modules.join(format!("kernel/{path}.ko.xz"));
    if packed.exists() {
        let out = Command::new("xz")
            .arg("-dc")
            .arg(&packed)
            .output()
            .context("xz cannot be run")?;
        ensure!(out.status.success(), "xz cannot unpack {}", packed.display());
        return Ok(Some(out.stdout));
    }
    let built_in = fs::read_to_string(modules.join("modules.builtin"))?;
    ensure!(
        built_in.lines().any(|line| line == format!("kernel/{path}.ko")),
        "Debian's kernel has no module {path}"
    );
    Ok(None)
}

fn busybox() -> Result<PathBuf> {
    let places = ["/bin/busybox", "/usr/bin/busybox"].map(PathBuf::from);
    let found = places.into_iter().find(|p| p.is_file());
    found.context("busybox is not installed (Debian: busybox-static); scripts/deps test installs it")
}

/// Builds our program, linked statically. It has its own target directory, as another cargo may hold the lock on ours.
fn guest_program() -> Result<PathBuf> {
    const TRIPLE: &str = "x86_64-unknown-linux-gnu";
    let target = store().join("guest");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let out = Command::new(cargo)
        .args([
            "rustc",
            "--quiet",
            "-p",
            "hawser-guest",
            "--bin",
            "hawser-guest",
            "--target",
            TRIPLE,
        ])
        .arg("--target-dir")
        .arg(&target)
        // Guests are emulated: what is optimised here is saved a hundred times there.
        .args([
            "--config",
            "profile.dev.opt-level=3",
            "--config",
            "profile.dev.debug=false",
        ])
        .args(["--", "-C", "target-feature=+crt-static", "-C", "strip=symbols"])
        .current_dir(workspace())
        .output()?;
    ensure!(
        out.status.success(),
        "the guest's program does not build: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    Ok(target.join(TRIPLE).join("debug/hawser-guest"))
}
