//! Which binaries may be upgraded to. Whoever can give orders, and that is control, which runs as nobody, must
//! not be able to run what it likes with the supervisor's rights.

use std::{
    fs::{self, File, Metadata},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use object::{
    Object as _, ObjectSection as _,
    read::{ReadCache, ReadRef as _},
};

use crate::{handover::FORMAT, sys::mark};

/// Where the running binary is, even if another one has been put there since.
pub const OWN: &str = "/proc/self/exe";

/// The path that this process's binary was started by.
pub fn own_path() -> PathBuf {
    let path = fs::read_link(OWN).unwrap_or_default();
    // So the kernel marks one that was replaced or removed (d_path, fs/d_path.c).
    let bytes = path.as_os_str().as_encoded_bytes();
    match bytes.strip_suffix(b" (deleted)").map(std::str::from_utf8) {
        Some(Ok(path)) => path.into(),
        _ => path,
    }
}

/// Opens a binary that may be run.
///
/// # Errors
/// It may not, and why.
pub fn open(path: &Path) -> Result<File> {
    // Whatever it is, opening it is not to wait for anybody (fifo(7)).
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)?;
    let own = fs::metadata(OWN).context("cannot look at the running binary")?;
    if let Some(problem) = problem(&file.metadata()?, own.uid()) {
        bail!("{problem}");
    }
    match format(&file) {
        Some(FORMAT) => Ok(file),
        Some(other) => bail!(
            "it hands over in format {other} and the running proxy in format {FORMAT}; use a version between the two, \
             or drain, stop and start"
        ),
        None => bail!("it is no proxy that can take over from a running one"),
    }
}

fn problem(about: &Metadata, owner: u32) -> Option<&'static str> {
    Some(match about {
        about if !about.is_file() => "it is no file",
        about if about.mode() & 0o111 == 0 => "it is not executable; chmod 755 it",
        about if about.mode() & 0o022 != 0 => "others than its owner can write to it; chmod go-w it",
        about if about.uid() != 0 && about.uid() != owner => {
            "it belongs neither to root nor to whom the running binary belongs to; chown it"
        }
        _ => return None,
    })
}

/// The format that a proxy's binary says it hands over in; `None` if it is no proxy, or too old.
fn format(file: &File) -> Option<u32> {
    let cache = ReadCache::new(file);
    cache.len().ok()?;
    let binary = object::File::parse(&cache).ok()?;
    let data = binary.section_by_name(mark::SECTION)?.data().ok()?;
    Some(u32::from_le_bytes(*data.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_proxy_is_one() {
        assert_eq!(mark::format(), FORMAT);
        assert_eq!(format(&File::open(OWN).unwrap()), Some(FORMAT));
        for other in ["/bin/sh", "/etc/passwd"] {
            assert_eq!(format(&File::open(other).unwrap()), None, "{other}");
        }
    }

    #[test]
    fn whose_it_is_and_who_can_write_to_it_counts() {
        assert!(open(Path::new("/nonexistent")).is_err());
        for (path, words) in
            [("/etc", "no file"), ("/etc/passwd", "not executable"), ("/bin/sh", "is no proxy")]
        {
            let error = format!("{:#}", open(Path::new(path)).unwrap_err());
            assert!(error.contains(words), "{path}: {error}");
        }
    }
}
