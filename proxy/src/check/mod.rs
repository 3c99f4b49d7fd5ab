//! `proxy check`: whether `run` would work with these settings on this machine, and what to do if not.

mod effect;
mod explain;
mod finding;
pub mod machine;
pub mod place;
pub mod port;
mod program;
pub mod rules;
mod upstream;

use std::{
    io::{self, Write},
    process::ExitCode,
};

use crate::{cli::RunArgs, config::Config, settings::Settings};

pub use finding::{Finding, Level};

/// The verb; must be called while the process has one thread. Exit code 0 if `run` would work, else 1.
pub fn run(args: &RunArgs) -> ExitCode {
    let given = Settings::of(args);
    let checked = given.and_then(|settings| Config::of(&settings).map(|config| (settings, config)));
    let (explained, findings) = match &checked {
        Ok((settings, config)) => (explain::lines(settings, config), everything(args, settings, config)),
        Err(error) => (Vec::new(), vec![error.into()]),
    };
    for line in explained.into_iter().chain(findings.iter().map(finding::line)) {
        // Nobody to read it is no reason for another exit code.
        let _ = writeln!(io::stdout(), "{line}");
    }
    ExitCode::from(u8::from(findings.iter().any(|finding| finding.level == Level::Fail)))
}

fn everything(args: &RunArgs, given: &Settings, config: &Config) -> Vec<Finding> {
    let mut findings = vec![settings(args, config)];
    findings.extend(effect::none(given));
    findings.extend(rules::ignored(config));
    findings.extend([machine::user(config), machine::kernel()]);
    findings.extend([machine::descriptors(config), place::control_socket(&config.control)]);
    findings.extend(place::access_log(config));
    findings.extend(program::all(config));
    findings.extend(port::all(config));
    findings.extend([machine::steering(config), machine::clone()]);
    findings.extend(machine::transparent(config));
    findings.extend(machine::own_listeners(config));
    findings.extend(machine::queues(config));
    // Last, for it makes threads, and cloning wants none.
    findings.extend(upstream::all(config));
    findings
}

fn settings(args: &RunArgs, config: &Config) -> Finding {
    let file = args.config.as_ref().map_or(String::new(), |path| format!(" of {}", path.display()));
    let upstreams = config.upstreams.len();
    let servers: usize = config.upstreams.iter().map(|upstream| upstream.servers.len()).sum();
    let addresses = config.listeners.len();
    Finding::ok(format!("settings{file}: {addresses} addresses, {upstreams} upstreams, {servers} servers"))
}
