//! Development tasks: `cargo xtask VERB`. One file per verb, and what they share in `shell`.

mod bench;
mod build_ebpf;
mod ci;
mod demo;
mod docs;
mod failures;
mod gap;
mod man;
mod package;
mod previous;
mod reloads;
mod run;
mod shell;
mod storm;
mod test;
mod tools;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Development tasks of proxy")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Build proxy and start it before a small demo upstream, or with your own arguments
    ///
    /// Without arguments: a demo upstream (TCP and UDP) behind a proxy on 127.0.0.1, and a list of
    /// what to try. With arguments (`cargo xtask run -- run --listen … --upstream …`): proxy itself.
    Run {
        /// Arguments of proxy
        #[arg(last = true)]
        args: Vec<String>,
    },
    /// Run all tests, installing what they need
    Test {
        /// Arguments of `cargo test`, such as the name of a test
        #[arg(last = true)]
        args: Vec<String>,
    },
    /// Verified traffic through a proxy whose processes are killed, stopped and blocked all the time
    ///
    /// A seed fixes what happens; each failure prints it. The release build is used.
    Storm {
        /// What happens is made from this number; by default from the time
        #[arg(long)]
        seed: Option<u64>,
        /// How long, in minutes
        #[arg(long, default_value_t = 5.0)]
        minutes: f64,
        /// TCP clients, each with one connection at a time
        #[arg(long, default_value_t = 150)]
        clients: usize,
        /// Use the debug build of proxy
        #[arg(long)]
        debug: bool,
    },
    /// Measure how long active connections wait at a takeover, among many idle ones, and the memory
    ///
    /// The release build is used. Each connection takes 2 of the proxy's descriptors.
    Gap {
        /// Open connections; a tenth of them is measured as well
        #[arg(long, default_value_t = 9000)]
        connections: usize,
        /// Connections on which a byte goes to and fro all the time
        #[arg(long, default_value_t = 100)]
        active: usize,
        /// Pools that are killed, one after the other
        #[arg(long, default_value_t = 5)]
        kills: usize,
    },
    /// Measure proxy beside HAProxy, nginx and no proxy, on the same work
    ///
    /// `cargo xtask bench --help` tells what it may be told. The release build is used.
    #[command(disable_help_flag = true)]
    Bench {
        /// Arguments of the run
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Reload again and again under WebSocket, ssh and PostgreSQL sessions, verified streams and UDP flows
    ///
    /// Fails if anything is lost, or if memory, descriptors or processes grow. The release build is used.
    Reloads {
        /// How long, in minutes
        #[arg(long, default_value_t = 10.0)]
        minutes: f64,
        /// Reloads, spread evenly
        #[arg(long, default_value_t = 136)]
        count: usize,
    },
    /// Write the manual pages, one for proxy and one for each of its verbs
    Man {
        /// Where to, by default target/man
        directory: Option<PathBuf>,
    },
    /// Write the reference of the settings and their JSON schema to docs/, from the code
    Docs {
        /// Only prove that the committed ones are what the code says
        #[arg(long)]
        check: bool,
    },
    /// Make a Debian package and a tarball of the release build
    Package,
    /// Compile the kernel program to proxy-ebpf/prebuilt (needs a BPF toolchain)
    BuildEbpf {
        /// Only prove that the committed program is what the source gives
        #[arg(long)]
        check: bool,
    },
    /// Format, clippy, generated documents, licences
    Lint,
    /// Everything that must pass before a merge: format, lints, licences, kernel program, tests
    Ci,
}

fn main() -> ExitCode {
    match run(Cli::parse().verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cargo xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(verb: Verb) -> anyhow::Result<()> {
    match verb {
        Verb::Run { args } if args.is_empty() => run::demo(),
        Verb::Run { args } => run::proxy(&args),
        Verb::Test { args } => test::run(&args),
        Verb::Storm { seed, minutes, clients, debug } => storm::run(seed, minutes, clients, debug),
        Verb::Gap { connections, active, kills } => gap::run(connections, active, kills),
        Verb::Bench { args } => bench::run(&args),
        Verb::Reloads { minutes, count } => reloads::run(minutes, count),
        Verb::Man { directory } => man::run(directory),
        Verb::Docs { check } => docs::run(check),
        Verb::Package => package::run(),
        Verb::BuildEbpf { check } => build_ebpf::run(check),
        Verb::Lint => ci::lint(),
        Verb::Ci => ci::run(),
    }
}
