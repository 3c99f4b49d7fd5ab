//! `cargo xtask docs`: writes what is generated from the settings' declarations to a directory.

use std::{env, fs, path::PathBuf, process::ExitCode};

fn main() -> ExitCode {
    let Some(directory) = env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("settings: name the directory to write to");
        return ExitCode::from(2);
    };
    for (name, text) in proxy::settings::docs::all() {
        if let Err(error) = fs::write(directory.join(name), text) {
            eprintln!("settings: {}: {error}", directory.join(name).display());
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
