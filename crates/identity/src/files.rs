//! Reading and writing keys and certificates: files are replaced as a whole, synced, and readable by their owner only.

use std::{
    fs,
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::Path,
};

use rcgen::KeyPair;
use rustls::pki_types::{CertificateDer, pem::PemObject};
use zeroize::Zeroizing;

use crate::IdentityError;

/// Largest file that is read, in bytes.
const MAX_FILE: u64 = 1024 * 1024;

/// Makes a state directory with mode 0700; one that is there must not be writable by others.
pub fn prepare_dir(dir: &Path) -> Result<(), IdentityError> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder.create(dir).map_err(|e| failed(dir, &e))?;
    let mode = fs::metadata(dir).map_err(|e| failed(dir, &e))?.mode() & 0o7777;
    if mode & 0o022 != 0 {
        return Err(IdentityError::OpenToOthers {
            path: dir.into(),
            mode,
            advice: "700",
        });
    }
    Ok(())
}

/// Certificates from a PEM file, in their order.
pub fn read_certificates(
    path: &Path,
    expected: &'static str,
) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let (text, _) = read(path, expected)?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match certificates {
        Ok(list) if !list.is_empty() => Ok(list),
        Ok(_) => Err(IdentityError::File {
            path: path.into(),
            detail: format!("no certificate in PEM form: expected {expected}"),
        }),
        Err(e) => Err(IdentityError::File {
            path: path.into(),
            detail: format!("not PEM ({e}): expected {expected}"),
        }),
    }
}

/// Writes certificates as PEM; the file (mode 0600) is replaced as a whole.
pub fn write_certificates(path: &Path, certificates: &[CertificateDer<'_>]) -> Result<(), IdentityError> {
    let mut text = String::new();
    for certificate in certificates {
        text.push_str(&pem("CERTIFICATE", certificate));
    }
    write(path, text.as_bytes())
}

/// Content of a file that only its owner may read, such as a key; refused when other users may.
pub fn read_private(path: &Path, expected: &'static str) -> Result<Zeroizing<Vec<u8>>, IdentityError> {
    let (content, mode) = read(path, expected)?;
    match mode & 0o077 {
        0 => Ok(content),
        _ => Err(IdentityError::OpenToOthers {
            path: path.into(),
            mode,
            advice: "600",
        }),
    }
}

/// Writes a file of mode 0600 as a whole, synced: a reader, or a crash, sees the old or the new one.
pub fn write_private(path: &Path, content: &[u8]) -> Result<(), IdentityError> {
    write(path, content)
}

/// As [`write_private`], where there is no file yet; false, and nothing written, if there is one.
pub fn write_new_private(path: &Path, content: &[u8]) -> Result<bool, IdentityError> {
    match place(path, content, |from, to| fs::hard_link(from, to)) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(e) => Err(failed(path, &e)),
    }
}

pub(crate) fn read_certificate(
    path: &Path,
    expected: &'static str,
) -> Result<CertificateDer<'static>, IdentityError> {
    let mut list = read_certificates(path, expected)?;
    if list.len() != 1 {
        return Err(IdentityError::File {
            path: path.into(),
            detail: format!("{} certificates: expected one, {expected}", list.len()),
        });
    }
    Ok(list.remove(0))
}

/// A private key (PEM); refused when other users may read the file.
pub(crate) fn read_key(
    path: &Path,
    which: &'static str,
    expected: &'static str,
) -> Result<KeyPair, IdentityError> {
    let text = read_private(path, expected)?;
    let bad = || IdentityError::Key {
        which,
        detail: format!(
            "{} holds no usable private key in PEM form (PKCS#8): expected {expected}",
            path.display()
        ),
    };
    let text = std::str::from_utf8(&text).map_err(|_| bad())?;
    KeyPair::from_pem(text).map_err(|_| bad())
}

pub(crate) fn write_key(path: &Path, key: &KeyPair) -> Result<(), IdentityError> {
    write(path, Zeroizing::new(key.serialize_pem()).as_bytes())
}

/// Writes a key where there is none; false, and nothing written, if somebody else was first.
pub(crate) fn write_new_key(path: &Path, key: &KeyPair) -> Result<bool, IdentityError> {
    write_new_private(path, Zeroizing::new(key.serialize_pem()).as_bytes())
}

/// Writes a file of mode 0600 as a whole: a reader, or a crash, sees the old or the new one.
pub(crate) fn write(path: &Path, content: &[u8]) -> Result<(), IdentityError> {
    place(path, content, |from, to| fs::rename(from, to)).map_err(|e| failed(path, &e))
}

/// Writes and syncs a temporary file beside `path`, puts it in place, and syncs the directory.
fn place(path: &Path, content: &[u8], put: impl FnOnce(&Path, &Path) -> io::Result<()>) -> io::Result<()> {
    let dir = match path.parent() {
        Some(dir) if dir != Path::new("") => dir,
        _ => Path::new("."),
    };
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let mut random = [0; 8];
    aws_lc_rs::rand::fill(&mut random).map_err(|_| io::Error::other("no random numbers"))?;
    let temporary = dir.join(format!(".{name}.{:016x}", u64::from_ne_bytes(random)));
    let result = (|| {
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        put(&temporary, path)?;
        fs::File::open(dir)?.sync_all()
    })();
    // Renamed, it is gone; linked, or left by a failure, it is not.
    let _ = fs::remove_file(&temporary);
    result
}

/// A file's content, and its permission bits at the same moment.
pub(crate) fn read(path: &Path, expected: &'static str) -> Result<(Zeroizing<Vec<u8>>, u32), IdentityError> {
    let file = fs::File::open(path).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => IdentityError::Missing {
            path: path.into(),
            expected,
        },
        _ => failed(path, &e),
    })?;
    let metadata = file.metadata().map_err(|e| failed(path, &e))?;
    if metadata.len() > MAX_FILE {
        return Err(IdentityError::File {
            path: path.into(),
            detail: format!("{} bytes are too many: expected {expected}", metadata.len()),
        });
    }
    // Room for all of it, so that a key is not left behind where the buffer grew.
    let mut content = Zeroizing::new(Vec::with_capacity(MAX_FILE.min(metadata.len() + 1) as usize));
    file.take(MAX_FILE)
        .read_to_end(&mut content)
        .map_err(|e| failed(path, &e))?;
    Ok((content, metadata.mode() & 0o7777))
}

fn failed(path: &Path, error: &io::Error) -> IdentityError {
    IdentityError::File {
        path: path.into(),
        detail: error.to_string(),
    }
}

fn pem(label: &str, der: &[u8]) -> String {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let text = STANDARD.encode(der);
    let mut out = format!("-----BEGIN {label}-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, tail) = rest.split_at(rest.len().min(64));
        out.push_str(line);
        out.push('\n');
        rest = tail;
    }
    out.push_str(&format!("-----END {label}-----\n"));
    out
}

#[cfg(test)]
mod tests;
