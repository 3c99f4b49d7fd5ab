//! What is made of the settings' declarations, for `docs/`: `cargo xtask docs` writes it.

mod reference;
mod schema;
#[cfg(test)]
mod tests;

/// The name of each file, and what is in it.
pub fn all() -> [(&'static str, String); 2] {
    [("settings.md", reference::reference()), ("settings.schema.json", schema::schema())]
}

/// Lines of a comment as one.
fn paragraph(lines: &str) -> String {
    lines.split_whitespace().collect::<Vec<_>>().join(" ")
}
