//! Writes an archive as the kernel unpacks it into its first file system (`newc`, see `initramfs-buffer-format` in the kernel's
//! documentation).

use std::io::Write;

/// An archive that grows in memory.
pub(super) struct Archive {
    bytes: Vec<u8>,
    inode: u32,
}

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;

impl Archive {
    pub(super) fn new() -> Self {
        Self {
            bytes: Vec::new(),
            inode: 0,
        }
    }

    /// Adds a directory; those above it come before it.
    pub(super) fn directory(&mut self, path: &str) {
        self.entry(path, DIRECTORY, &[]);
    }

    /// Adds a file that may be executed.
    pub(super) fn file(&mut self, path: &str, content: &[u8]) {
        self.entry(path, PROGRAM, content);
    }

    /// The whole archive, with its end.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) {
        self.inode += 1;
        let (name, size) = (path.len() + 1, content.len());
        // Inode, mode, user, group, links, time, size, device (2), special device (2), length of the name, checksum.
        let fields = [
            self.inode as usize,
            mode as usize,
            0,
            0,
            1,
            0,
            size,
            0,
            0,
            0,
            0,
            name,
            0,
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            // Writing to memory does not fail.
            let _ = write!(self.bytes, "{field:08x}");
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write,
        process::{Command, Stdio},
    };

    use super::*;

    #[test]
    fn another_program_unpacks_it() {
        if !crate::gate::programs("unpacking an archive of ours", &["busybox"]) {
            return;
        }
        let mut archive = Archive::new();
        archive.directory("a");
        archive.file("a/odd", b"odd");
        archive.file("empty", b"");
        let dir = tempfile::tempdir().unwrap();
        let mut child = Command::new("busybox")
            .args(["cpio", "-i"])
            .current_dir(dir.path())
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(&archive.finish()).unwrap();
        assert!(child.wait().unwrap().success());
        assert_eq!(std::fs::read(dir.path().join("a/odd")).unwrap(), b"odd");
        assert_eq!(std::fs::read(dir.path().join("empty")).unwrap(), b"");
    }
}
