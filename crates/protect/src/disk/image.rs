//! A raw disk image in a file or on a block device.

use std::{
    fs::{File, OpenOptions},
    io::{self, Seek, SeekFrom},
    os::unix::fs::{FileExt, FileTypeExt},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{FallocateFlags, FlockOperation, fallocate, flock},
    io::Errno,
};

use super::Backend;

/// A raw image that this process alone of its kind writes to.
#[derive(Debug)]
pub struct Image {
    file: File,
    path: PathBuf,
    size: u64,
}

impl Image {
    /// Opens the image, or makes a sparse one where there is none. An existing one must have exactly `size` bytes, and no
    /// other [`Image`] may be open on it. QEMU's own locks are of another kind and do not matter here.
    pub fn open(path: &Path, size: u64) -> io::Result<Self> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|e| match e {
            Errno::WOULDBLOCK => {
                io::Error::new(io::ErrorKind::ResourceBusy, "another process replicates into it")
            }
            other => other.into(),
        })?;
        let is_device = file.metadata()?.file_type().is_block_device();
        let found = file.seek(SeekFrom::End(0))?;
        if found == 0 && !is_device {
            file.set_len(size)?;
        } else if found != size {
            let differs = format!(
                "it has {found} bytes and the protected disk {size}: move it away, or give a replica of that size"
            );
            return Err(io::Error::new(io::ErrorKind::InvalidInput, differs));
        }
        Ok(Self {
            file,
            path: path.into(),
            size,
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes.
    pub fn size(&self) -> u64 {
        self.size
    }
}

impl Backend for Image {
    fn read(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(into, offset)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write_all_at(data, offset)
    }

    /// Punches a hole where that can be done: replicas stay as sparse as their originals.
    fn zeroes(&self, offset: u64, len: u64) -> io::Result<()> {
        if len == 0 {
            return Ok(());
        }
        for flags in [FallocateFlags::PUNCH_HOLE, FallocateFlags::ZERO_RANGE] {
            match fallocate(&self.file, flags | FallocateFlags::KEEP_SIZE, offset, len) {
                Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {}
                other => return Ok(other?),
            }
        }
        let (zeroes, end) = (vec![0; len.min(1 << 20) as usize], offset + len);
        let mut at = offset;
        while at < end {
            let n = (end - at).min(zeroes.len() as u64);
            self.file.write_all_at(&zeroes[..n as usize], at)?;
            at += n;
        }
        Ok(())
    }

    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        self.zeroes(offset, len)
    }

    fn flush(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use hawser_testkit::wait;

    use super::*;

    #[test]
    fn zeroes_make_holes_and_sizes_are_held_to() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.raw");
        let image = Image::open(&path, 1 << 20).unwrap();
        assert_eq!(
            Image::open(&path, 1 << 20).unwrap_err().kind(),
            io::ErrorKind::ResourceBusy
        );
        image.write(0, &[7; 65536]).unwrap();
        image.zeroes(4096, 8192).unwrap();
        let mut read = vec![1; 65536];
        image.read(0, &mut read).unwrap();
        assert!(
            read.iter()
                .enumerate()
                .all(|(i, b)| *b == if (4096..12288).contains(&i) { 0 } else { 7 })
        );
        drop(image);
        // A process that another test is just starting has the file, and its lock, too, until it is another program.
        let refused = wait::until(wait::SOON, "the image to be free", || {
            let refused = Image::open(&path, 2 << 20).unwrap_err();
            Ok((refused.kind() != io::ErrorKind::ResourceBusy).then_some(refused))
        });
        let message = refused.unwrap().to_string();
        assert!(
            message.contains("1048576") && message.contains("2097152"),
            "{message}"
        );
    }
}
