//! A settings file of a test's own.

use std::fs;
use std::path::PathBuf;

use tempfile::TempDir;

use crate::builder::Builder;
use crate::proxy::Proxy;
use crate::status::Status;

/// A settings file.
pub struct File {
    path: PathBuf,
    _directory: TempDir,
}

impl File {
    /// With this text.
    #[track_caller]
    pub fn new(text: &str) -> Self {
        let directory = tempfile::tempdir().expect("temporary directory");
        let file = Self { path: directory.path().join("proxy.toml"), _directory: directory };
        file.write(text);
        file
    }

    /// With another text from now on.
    #[track_caller]
    pub fn write(&self, text: &str) {
        fs::write(&self.path, text).expect("write settings");
    }

    /// Where it is.
    #[track_caller]
    pub fn path(&self) -> &str {
        self.path.to_str().expect("text")
    }

    /// What starts a proxy by it.
    #[track_caller]
    pub fn builder(&self) -> Builder {
        Proxy::builder().flag("--config", self.path())
    }

    /// Starts one, and waits until it is protected.
    #[track_caller]
    pub fn start(&self) -> Proxy {
        let proxy = self.builder().start();
        proxy.until_status("protected", Status::protected);
        proxy
    }
}
