//! `cargo xtask docs`: the reference of all settings and their JSON schema, made from the code.

use std::fs;

use anyhow::{Result, bail};

use crate::shell;

/// Writes what is generated to `docs/`; `check`: only says whether that would change anything.
pub fn run(check: bool) -> Result<()> {
    let made = tempfile::tempdir()?;
    let example = ["run", "--quiet", "--package", "proxy", "--example", "settings", "--"];
    shell::run(shell::cargo().args(example).arg(made.path()))?;
    let docs = shell::root().join("docs");
    for entry in fs::read_dir(made.path())? {
        let entry = entry?;
        let (path, text) = (docs.join(entry.file_name()), fs::read(entry.path())?);
        if fs::read(&path).is_ok_and(|there| there == text) {
            continue;
        }
        if check {
            bail!("{} is not what the code says: cargo xtask docs", path.display());
        }
        fs::write(&path, text)?;
        println!("wrote {}", path.display());
    }
    Ok(())
}
