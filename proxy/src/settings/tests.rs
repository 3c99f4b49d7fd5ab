mod fuzz;

use std::{fs, path::Path, time::Duration};

use clap::Parser as _;

use super::{
    read::Section as _,
    source::Source,
    table::{Fallback, Setting, Table},
    *,
};
use crate::{
    cli::{Cli, Verb},
    config::Config,
};

/// As it is installed.
const EXAMPLE: &str = include_str!("../../../packaging/proxy.toml");

/// Files that cannot be, each with the message about it: `--- MESSAGE`, then the file.
const CORPUS: &str = include_str!("tests/bad.txt");

/// A file with all that it takes.
const GOOD: &str = r#"
[[listener]]
name = "web"
bind = ["tcp://127.0.0.1:80", "udp://127.0.0.1:80"]
upstream = "b"
[[listener]]
name = "admin"
bind = ["tcp://127.0.0.1:81"]
upstream = "a"
[upstream.b]
[[upstream.b.server]]
address = "192.0.2.1:80"
[upstream.a]
server = [{ address = "192.0.2.1:80" }, { address = "192.0.2.2:80" }]
[defaults]
user = "root"
[standby]
lease = "200ms"
"#;

pub fn parse(text: &[u8]) -> Result<Settings, ConfigError> {
    file::settings(&Source::of("proxy.toml".into(), text.into())?)
}

pub fn config(text: &str) -> Result<Config, ConfigError> {
    Config::of(&parse(text.as_bytes())?)
}

/// The example with all its settings switched on.
fn switched_on() -> String {
    let line = |line: &str| match line.strip_prefix('#') {
        Some(setting) if !setting.starts_with(' ') => format!("{setting}\n"),
        _ => format!("{line}\n"),
    };
    EXAMPLE.lines().map(line).collect()
}

#[test]
fn upstreams_keep_their_order_and_their_servers() {
    let config = config(GOOD).unwrap();
    let names: Vec<_> = config.upstreams.iter().map(|u| (u.name.as_str(), u.servers.len())).collect();
    assert_eq!(names, [("b", 1), ("a", 2)]);
    let listeners: Vec<_> = config.listeners.iter().map(|l| (l.name.as_str(), l.upstream)).collect();
    assert_eq!(listeners, [("web", 0), ("web", 0), ("admin", 1)]);
    let slots: Vec<_> = config.upstreams.iter().map(|upstream| upstream.slots.clone()).collect();
    assert_eq!((slots[0].start, slots[0].end, slots[1].end), (0, slots[1].start, config.slots()));
    assert_eq!(
        (config.lease, config.listener_defaults.udp_idle),
        (Duration::from_millis(200), Duration::from_secs(60))
    );
}

#[test]
fn flags_win_over_the_file() {
    let path = std::env::temp_dir().join(format!("proxy-settings-{}.toml", std::process::id()));
    fs::write(&path, GOOD).unwrap();
    let words = ["proxy", "run", "--lease", "300ms", "--control", "/run/x", "--config"];
    let cli = Cli::try_parse_from(words.iter().map(AsRef::as_ref).chain([path.as_os_str()])).unwrap();
    let Verb::Run(args) = cli.verb else { panic!("run is run") };
    let config = Config::from_args(&args).unwrap();
    assert_eq!((config.lease, config.control), (Duration::from_millis(300), "/run/x".into()));
    assert_eq!((config.listeners.len(), config.user.unwrap().uid), (3, 0));

    fs::write(&path, vec![b' '; (1 << 20) + 1]).unwrap();
    assert!(Config::from_args(&args).unwrap_err().to_string().contains("more than 1 MiB"));
    fs::remove_file(&path).unwrap();
    let error = Config::from_args(&args).unwrap_err().to_string();
    assert!(
        error.starts_with(&format!("--config {}: cannot be read (No such file", path.display())),
        "{error}"
    );
}

#[test]
fn file_and_addresses_exclude_each_other() {
    for words in [["--config", "x", "-u", "x:1"], ["--config", "x", "-l", "tcp://[::]:1"]] {
        let error = Cli::try_parse_from(["proxy", "run"].iter().chain(&words)).unwrap_err().to_string();
        assert!(error.contains("--config") && error.contains("cannot be used with"), "{error}");
    }
}

#[test]
fn example_has_defaults_when_all_is_switched_on() {
    let text = switched_on();
    let on = config(&text).unwrap();
    let servers: usize = on.upstreams.iter().map(|upstream| upstream.servers.len()).sum();
    assert_eq!((on.listeners.len(), on.upstreams.len(), servers), (3, 2, 3));
    let from = text.find("\n[defaults]").unwrap();
    let off = config(&text[..from]).unwrap();
    // Of these it says that they have no default, or one of the machine.
    let same = Config { workers: off.workers, metrics: off.metrics, ..on };
    assert_eq!(format!("{same:?}"), format!("{off:?}"));
}

/// The files in docs/examples, by their names.
pub fn examples() -> Vec<(String, String)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/examples");
    let files = fs::read_dir(directory).unwrap().map(|file| file.unwrap());
    let read = |file: fs::DirEntry| {
        (file.file_name().into_string().unwrap(), fs::read_to_string(file.path()).unwrap())
    };
    let mut examples: Vec<_> = files.map(read).collect();
    examples.sort();
    examples
}

#[test]
fn examples_are_fine() {
    let examples = examples();
    let listeners = |(name, text): &(String, String)| {
        config(text).unwrap_or_else(|error| panic!("{name}: {error}")).listeners.len()
    };
    assert_eq!(examples.iter().map(listeners).collect::<Vec<_>>(), [1, 1, 2, 6, 1, 2]);
}

#[test]
fn example_is_refused_until_it_has_a_listener() {
    let error = config(EXAMPLE).unwrap_err().to_string();
    assert!(error.starts_with("proxy.toml:1:1: there is no listener; add"), "{error}");
}

/// `key = value` for each setting of a table of which `value` says one.
fn lines(table: &Table, value: fn(&Setting) -> Option<&str>) -> String {
    let line = |setting: &Setting| Some(format!("{} = {}\n", setting.key, value(setting)?));
    table.settings.iter().filter_map(line).collect()
}

fn default_of(setting: &Setting) -> Option<&str> {
    match setting.default {
        Fallback::Value(value) => Some(value),
        _ => None,
    }
}

/// A file with one listener and one upstream, and with those tables for which there are lines.
fn with_lines(lines: impl Fn(&Table) -> Option<String>) -> String {
    let tables = [
        ("[defaults]\n", Defaults::TABLE),
        ("[standby]\n", Standby::TABLE),
        ("[metrics]\n", Metrics::TABLE),
        ("[access_log]\npath = \"-\"\n", AccessLogSettings::TABLE),
        (
            "[[listener]]\nname = \"a\"\nbind = [\"tcp://192.0.2.1:1\"]\nupstream = \"a\"\n",
            ListenerSettings::TABLE,
        ),
        ("[listener.accept_proxy]\nfrom = [\"192.0.2.1\"]\n", AcceptProxy::TABLE),
        ("[[listener.sni]]\nserver_names = [\"a\"]\nupstream = \"a\"\n", SniSettings::TABLE),
        ("[upstream.a]\n", UpstreamSettings::TABLE),
        ("[upstream.a.eject]\n", EjectSettings::TABLE),
        ("[upstream.a.health]\n", HealthSettings::TABLE),
        ("[[upstream.a.server]]\naddress = \"192.0.2.1:2\"\n", ServerGiven::TABLE),
    ];
    let is_always = |table: &Table| ["[[listener]]", "[[upstream.NAME.server]]"].contains(&table.heading);
    let text = |(head, table): (&str, &Table)| match lines(table) {
        None if is_always(table) => head.to_owned(),
        None => String::new(),
        Some(lines) => format!("{head}{lines}"),
    };
    tables.into_iter().map(text).collect()
}

#[test]
fn declared_defaults_are_those_that_count() {
    // A check by tcp has no path.
    let is_fine = |line: &&str| !["path = \"/\"", "status = \"200-399\""].contains(line);
    let defaults = |table: &Table| {
        Some(
            lines(table, default_of)
                .lines()
                .filter(is_fine)
                .fold(String::new(), |all, line| all + line + "\n"),
        )
    };
    let given = with_lines(defaults);
    let on = config(&given).unwrap_or_else(|error| panic!("{error}: {given}"));
    let off = config(&with_lines(|_| Some(String::new()))).unwrap();
    assert_eq!(format!("{on:?}"), format!("{off:?}"));
    let count = known::tables().into_iter().flat_map(|table| table.settings).filter_map(default_of).count();
    assert!(count >= 30 && given.lines().count() > count, "{count} of\n{given}");
}

#[test]
fn what_a_setting_looks_like_is_what_it_can_be() {
    for table in known::tables() {
        // What has to be there is there already.
        for setting in
            table.settings.iter().filter(|setting| !setting.is_required && !setting.like.is_empty())
        {
            let line = format!("{} = {}\n", setting.key, setting.like);
            let text = with_lines(|other| (other.heading == table.heading).then(|| line.clone()));
            parse(text.as_bytes()).unwrap_or_else(|error| panic!("{}: {error}", table.heading));
        }
    }
}

#[test]
fn each_bad_file_has_its_message() {
    let mut count = 0;
    for case in CORPUS.split("--- ").skip(1) {
        let (message, text) = case.split_once('\n').unwrap();
        let error = config(text).expect_err(message).to_string();
        assert_eq!(error, message, "of\n{text}");
        count += 1;
    }
    assert!(count >= 140, "{count}");
}

#[test]
fn what_is_no_text_has_a_place() {
    let error = parse(b"[defaults]\nuser = \"n\xc3\xb6\xff\"").unwrap_err().to_string();
    assert_eq!(error, "proxy.toml:2:11: there is something that is no text; write the file in UTF-8");
}

#[test]
fn example_of_the_readme_is_fine() {
    let readme = include_str!("../../../README.md");
    let example = readme.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
    let read = config(example).unwrap();
    assert_eq!(
        (read.listeners.len(), read.upstreams.len(), read.listener_defaults.idle_timeout),
        (3, 2, None)
    );
    // And the message below it.
    let error = config(&example.replace("lease =", "leas =")).unwrap_err().to_string();
    assert!(readme.contains(&format!("\nproxy: {error}\n")), "{error}");
}
