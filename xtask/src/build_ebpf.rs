//! `cargo xtask build-ebpf`: compiles the kernel program to `proxy-ebpf/prebuilt`, or proves with
//! `--check` that the committed one is what the source gives, byte for byte.
//!
//! The toolchain is Debian's (a compiler with its library's sources, which BPF needs, and the LLVM
//! that goes with it), so that everybody builds with the same.

use std::{
    env,
    ffi::OsString,
    fs, iter,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::shell;

const PACKAGES: [&str; 4] = ["rustc-web", "rust-web-src", "cargo-web", "llvm-22-dev"];
const LLVM: &str = "/usr/lib/llvm-22/bin";
const LINKER_VERSION: &str = "0.13.0";
const TARGET: &str = "bpfel-unknown-none";

/// What must be there of the packages. (Another package's rustc has its sources elsewhere.)
const FILES: [&str; 4] = [
    "/usr/bin/rustc",
    "/usr/bin/cargo",
    "/usr/lib/rustlib/src/rust/library/core/src/lib.rs",
    "/usr/lib/llvm-22/bin/llvm-objcopy",
];

/// Makes the object, or with `check` compares it with the committed one.
pub fn run(check: bool) -> Result<()> {
    install()?;
    let object = compile()?;
    let tools = tools()?;
    let (prebuilt, built_with) = committed();
    if check {
        return compare(&object, &tools, &prebuilt, &built_with);
    }
    fs::create_dir_all(prebuilt.parent().context("no parent")?)?;
    fs::write(&prebuilt, &object).with_context(|| format!("cannot write {}", prebuilt.display()))?;
    fs::write(&built_with, &tools).with_context(|| format!("cannot write {}", built_with.display()))?;
    println!("made {}, {} bytes", prebuilt.display(), object.len());
    Ok(())
}

/// The committed object, and the note of what it was built with.
fn committed() -> (PathBuf, PathBuf) {
    let directory = shell::root().join("proxy-ebpf/prebuilt");
    (directory.join("steer.bpf.o"), directory.join("BUILT_WITH"))
}

fn compare(object: &[u8], tools: &str, prebuilt: &Path, built_with: &Path) -> Result<()> {
    let committed = fs::read(prebuilt).with_context(|| format!("cannot read {}", prebuilt.display()))?;
    if committed == object {
        println!("{} is what the source gives", prebuilt.display());
        return Ok(());
    }
    let same = iter::zip(&committed, object).take_while(|(a, b)| a == b).count();
    let noted = fs::read_to_string(built_with).unwrap_or_default();
    let (committed, built) = (committed.len(), object.len());
    let advice = if noted == tools {
        "The source was changed: run `cargo xtask build-ebpf` and commit the result.".to_owned()
    } else {
        format!(
            "The tools differ, which alone may explain it.\nThe committed one was built with\n{noted}and this one \
             with\n{tools}Install the former, or run `cargo xtask build-ebpf` and commit the result."
        )
    };
    bail!(
        "{} is not what the source gives: {committed} bytes, built {built}, first difference at byte {same}.\n{advice}",
        prebuilt.display()
    );
}

/// Compiles and strips the program. Returns the object.
fn compile() -> Result<Vec<u8>> {
    let directory = fs::canonicalize(shell::root().join("proxy-ebpf"))?;
    let target = shell::target().join("ebpf");
    // The sources of dependencies must be there before their directories can be named.
    shell::run(cargo(&directory).args(["fetch", "--locked"]))?;
    shell::run(
        cargo(&directory)
            .args(["build", "--locked", "--release", "-Z", "build-std=core", "--target", TARGET])
            .env("CARGO_ENCODED_RUSTFLAGS", rustflags(&directory)?)
            .env("CARGO_TARGET_DIR", &target),
    )?;
    let linked = target.join(TARGET).join("release/steer");
    let stripped = target.join("steer.bpf.o");
    // BTF and line information stay (.BTF, .BTF.ext). What goes are DWARF and local symbols, whose
    // names hold a hash of the compiler's flags and so of the directory.
    shell::run(
        Command::new(Path::new(LLVM).join("llvm-objcopy"))
            .args(["--strip-debug", "--discard-all"])
            .args([&linked, &stripped]),
    )?;
    fs::read(&stripped).with_context(|| format!("cannot read {}", stripped.display()))
}

/// Debian's cargo and rustc, whatever toolchain runs us. `-Z build-std` wants a nightly or this
/// switch.
fn cargo(directory: &Path) -> Command {
    let mut cargo = Command::new(FILES[1]);
    cargo.current_dir(directory).env("RUSTC", FILES[0]).env("RUSTC_BOOTSTRAP", "1");
    cargo.env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", linker());
    for inherited in ["RUSTFLAGS", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "RUSTUP_TOOLCHAIN", "RUSTDOC"]
    {
        cargo.env_remove(inherited);
    }
    cargo
}

/// Debug information (BTF is made of it), and paths that are the same on every machine. No file
/// must exist at them: LLVM would put the source's text into the line information.
fn rustflags(directory: &Path) -> Result<String> {
    let root = directory.parent().context("no parent")?;
    let sources = cargo_home()?.join("registry/src");
    let mut remap = vec![(root.to_owned(), "/proxy"), ("/usr/lib/rustlib/src/rust".into(), "/rust")];
    for registry in fs::read_dir(&sources).with_context(|| format!("cannot list {}", sources.display()))? {
        remap.push((registry?.path(), "/cargo"));
    }
    let remap = remap.into_iter().map(|(from, to)| format!("--remap-path-prefix={}={to}", from.display()));
    // Nothing in the program depends on the architecture; it is fixed so that the bytes are.
    let fixed = ["--cfg=bpf_target_arch=\"x86_64\"", "-Cdebuginfo=2", "-Clink-arg=--btf"];
    Ok(fixed.into_iter().map(str::to_owned).chain(remap).collect::<Vec<_>>().join("\x1f"))
}

/// Versions of what decides about the bytes.
fn tools() -> Result<String> {
    Ok(output(Command::new(FILES[0]).arg("--version"))? + &output(Command::new(linker()).arg("--version"))?)
}

fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot run {:?}", command.get_program()))?;
    ensure!(output.status.success(), "{command:?} failed: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// Installs what is missing, or tells an ordinary user how.
fn install() -> Result<()> {
    let packages = !FILES.iter().all(|file| Path::new(file).exists());
    if packages {
        let root = nix::unistd::geteuid().is_root();
        ensure!(root, "a BPF toolchain is missing. Install it:\n\n    {}\n", install_lines());
        shell::run(Command::new("apt-get").arg("update"))?;
        shell::run(
            Command::new("apt-get").args(["install", "--yes", "--no-install-recommends"]).args(PACKAGES),
        )?;
    }
    let version = output(Command::new(linker()).arg("--version"));
    if version.is_ok_and(|version| version.trim_end().ends_with(LINKER_VERSION)) {
        return Ok(());
    }
    shell::run(&mut install_linker()?)
}

fn install_lines() -> String {
    format!("sudo apt-get update && sudo apt-get install {}", PACKAGES.join(" "))
}

/// bpf-linker of the LLVM that Debian's rustc was made with; it finds it by `llvm-config`.
fn install_linker() -> Result<Command> {
    let path = env::var_os("PATH").unwrap_or_default();
    let path = iter::once(PathBuf::from(LLVM)).chain(env::split_paths(&path));
    let mut cargo = shell::cargo();
    cargo.args(["install", "bpf-linker", "--locked", "--force", "--version", LINKER_VERSION]);
    cargo.args(["--no-default-features", "--features", "llvm-22"]).env("PATH", env::join_paths(path)?);
    Ok(cargo)
}

/// Where `cargo install` puts bpf-linker.
fn linker() -> OsString {
    cargo_home().map_or("bpf-linker".into(), |home| home.join("bin/bpf-linker").into())
}

fn cargo_home() -> Result<PathBuf> {
    let home = || Some(PathBuf::from(env::var_os("HOME")?).join(".cargo"));
    let set = env::var_os("CARGO_HOME").map(PathBuf::from);
    set.or_else(home).context("neither CARGO_HOME nor HOME is set")
}
