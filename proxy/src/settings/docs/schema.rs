//! A JSON schema (draft 7, which editors know best) of the settings file.

use serde_json::{Map, Value, json};

use super::{
    super::{
        Settings,
        read::Section as _,
        table::{Fallback, Kind, Range, Setting, Table},
    },
    paragraph,
};

/// What humantime reads: numbers, each with a unit.
const DURATION: &str = r"\s*([0-9]+\s*[a-zA-Zµ]+\s*)+";

/// The schema, as text.
pub fn schema() -> String {
    let Value::Object(mut schema) = table(Settings::TABLE) else { return String::new() };
    schema.insert("$schema".into(), "http://json-schema.org/draft-07/schema#".into());
    schema.insert("title".into(), "Settings of proxy".into());
    format!("{:#}\n", Value::Object(schema))
}

fn table(table: &Table) -> Value {
    let required: Vec<&str> =
        table.settings.iter().filter(|setting| setting.is_required).map(|setting| setting.key).collect();
    let properties: Map<String, Value> =
        table.settings.iter().map(|setting| (setting.key.to_owned(), described(setting))).collect();
    json!({
        "type": "object",
        "description": paragraph(table.about),
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    })
}

/// What a setting may be, what it does, and its default.
fn described(setting: &Setting) -> Value {
    let mut described = kind(&setting.kind, setting.range);
    if let Value::Object(fields) = &mut described {
        fields.insert("description".into(), paragraph(setting.about).into());
        if let Fallback::Value(text) = setting.default
            && let Some(default) = json_of(text)
        {
            fields.insert("default".into(), default);
        }
    }
    described
}

fn kind(kind: &Kind, range: Range) -> Value {
    match kind {
        Kind::Text | Kind::Network => json!({ "type": "string" }),
        Kind::Bytes => json!({ "anyOf": [{ "type": "string" }, {
            "type": "array", "items": { "type": "integer", "minimum": 0, "maximum": 255 }
        }] }),
        Kind::Number => match range {
            Range::Numbers(from, to) => json!({ "type": "integer", "minimum": from, "maximum": to }),
            _ => json!({ "type": "integer", "minimum": 0 }),
        },
        Kind::Bool => json!({ "type": "boolean" }),
        Kind::Duration => pattern(DURATION),
        Kind::Patience => pattern(&format!("(never|{DURATION})")),
        Kind::Rate => pattern(r"\s*[0-9]+\s*/\s*[smh]\s*"),
        Kind::Bandwidth => pattern(r"\s*[0-9]+\s*([KMG]i?)?B\s*/s"),
        Kind::Address => pattern(r".+:[0-9]+"),
        Kind::Choice(words) => json!({ "enum": words }),
        Kind::List(of) => json!({ "type": "array", "items": self::kind(of, range) }),
        Kind::Table(of) => table(of),
        Kind::Tables(of) if of.is_named => json!({ "type": "object", "additionalProperties": table(of) }),
        Kind::Tables(of) => json!({ "type": "array", "items": table(of) }),
    }
}

fn pattern(pattern: &str) -> Value {
    json!({ "type": "string", "pattern": format!("^{pattern}$") })
}

/// A TOML value as JSON.
fn json_of(toml: &str) -> Option<Value> {
    let table: Map<String, Value> = toml::from_str(&format!("value = {toml}")).ok()?;
    table.get("value").cloned()
}
