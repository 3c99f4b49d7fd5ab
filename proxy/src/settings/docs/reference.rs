//! The reference of all settings, made from what declares them: `docs/settings.md`.

use super::{
    super::{
        known,
        table::{Fallback, Kind, Range, Setting, Table},
    },
    paragraph,
};

const HEAD: &str = r##"# Settings

Every setting of the settings file (`proxy run --config FILE`), by its table. `cargo xtask docs` makes this page from
the code. [examples](examples) has files for common cases, and `proxy check --config FILE` says what a file comes to.

The file is TOML. What is not known, or cannot be, is an error, with its line and column. Durations carry a unit, such
as `"100ms"`, `"5s"` or `"1m30s"`. A table that stands in another one, such as `[upstream.NAME.health]`, may be written
as a value too: `health = { check = "tcp" }`.

Editors that know TOML (Even Better TOML, taplo) check a file while it is written, and explain it, if it begins with

```toml
#:schema settings.schema.json
```

where that is the path or address of [settings.schema.json](settings.schema.json); the package has it in
`/usr/share/doc/proxy/`.
"##;

/// The reference, in Markdown.
pub fn reference() -> String {
    let tables = known::tables().into_iter().skip(1).map(section);
    std::iter::once(HEAD.to_owned()).chain(tables).collect()
}

fn section(table: &Table) -> String {
    let rows: String = table.settings.iter().map(row).collect();
    let (heading, about) = (table.heading, paragraph(table.about));
    format!(
        "\n## `{heading}`\n\n{about}\n\n| setting | value | if it is left out | what it does |\n|---|---|---|---|\n{rows}"
    )
}

fn row(setting: &Setting) -> String {
    let about = paragraph(setting.about).replace('|', "\\|");
    let like = match setting.like {
        "" => String::new(),
        like => format!(", such as `{like}`"),
    };
    let (key, value) = (setting.key, value(setting));
    format!("| `{key}` | {value}{like} | {} | {about} |\n", fallback(setting))
}

/// How it is written, and what it has to be within.
fn value(setting: &Setting) -> String {
    let kind = kind(&setting.kind);
    match setting.range {
        Range::Any => kind,
        _ => format!("{kind}, {}", setting.bounds()),
    }
}

fn kind(kind: &Kind) -> String {
    match kind {
        Kind::Text => "text".into(),
        Kind::Bytes => "text, or a list of bytes from 0 to 255".into(),
        Kind::Number => "whole number".into(),
        Kind::Bool => "`true` or `false`".into(),
        Kind::Duration => "duration".into(),
        Kind::Patience => "duration or `\"never\"`".into(),
        Kind::Rate => "a number a second, minute or hour: `\"N/s\"`, `\"N/m\"`, `\"N/h\"`".into(),
        Kind::Bandwidth => "bytes a second: B, KB, KiB, MB, MiB, GB or GiB before `/s`".into(),
        Kind::Network => "address, or network as `ADDRESS/BITS`".into(),
        Kind::Address => "`IP:PORT`".into(),
        Kind::Choice(words) => {
            let words: Vec<String> = words.iter().map(|word| format!("`{word:?}`")).collect();
            words.join(", ")
        }
        Kind::List(of) => format!("list: {}", self::kind(of)),
        Kind::Table(table) => format!("table `{}`", table.heading),
        Kind::Tables(table) => format!("tables `{}`", table.heading),
    }
}

fn fallback(setting: &Setting) -> String {
    match setting.default {
        _ if setting.is_required => "has to be there".into(),
        Fallback::Value(value) => format!("`{value}`"),
        Fallback::Words(words) => words.into(),
        Fallback::Nothing => "–".into(),
    }
}
