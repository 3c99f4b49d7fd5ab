//! What may be in a settings file: what to write instead of what may not.

use super::{
    Settings,
    read::Section as _,
    table::{Kind, Table},
};

/// Every table, the whole file first, then each before those that stand in it.
pub fn tables() -> Vec<&'static Table> {
    within(Settings::TABLE)
}

fn within(table: &'static Table) -> Vec<&'static Table> {
    let below = table.settings.iter().filter_map(|setting| match setting.kind {
        Kind::Table(table) | Kind::Tables(table) => Some(within(table)),
        _ => None,
    });
    std::iter::once(table).chain(below.flatten()).collect()
}

/// So many keys can be told in a message.
const FEW: usize = 6;

/// What to write instead of a key that is unknown in a table: the tables that it belongs in, or the nearest one,
/// there or elsewhere, or all.
pub fn instead(unknown: &str, table: &Table) -> String {
    let here: Vec<&str> = table.settings.iter().map(|setting| setting.key).collect();
    let all: Vec<&str> =
        tables().iter().flat_map(|table| table.settings).map(|setting| setting.key).collect();
    let listed = || format!("known here: {}", here.join(", "));
    if all.contains(&unknown) {
        let more = if here.len() <= FEW { format!("; {}", listed()) } else { String::new() };
        return format!("it belongs in {}{more}", homes(unknown));
    }
    if let Some(nearest) = nearest(unknown, &here) {
        return format!("the nearest is {nearest}");
    }
    // A key of another table has to be nearer than one that was meant for this one.
    match nearest(unknown, &all).filter(|key| strsim::damerau_levenshtein(unknown, key) <= 2) {
        Some(key) => format!("the nearest is {key}, which belongs in {}", homes(key)),
        None => listed(),
    }
}

/// The tables that a key belongs in.
fn homes(key: &str) -> String {
    let has_key = |table: &&&Table| table.settings.iter().any(|setting| setting.key == key);
    let tables = tables();
    let homes: Vec<&str> = tables.iter().filter(has_key).map(|table| table.heading).collect();
    homes.join(" or ")
}

/// The name that was meant, perhaps.
pub fn nearest<'a>(unknown: &str, known: &[&'a str]) -> Option<&'a str> {
    let distance = |key: &str| strsim::damerau_levenshtein(unknown, key);
    let nearest = *known.iter().min_by_key(|key| distance(key))?;
    // More than half of it wrong is another word.
    (distance(nearest) * 2 <= nearest.len().max(unknown.len())).then_some(nearest)
}
