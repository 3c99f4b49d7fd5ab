//! The keys of the settings file: where each belongs, and what it looks like.

/// Table, key, and the setting as it may be written. `packaging/proxy.toml` explains them.
pub const KEYS: [(&str, &str, &str); 20] = [
    ("[defaults]", "workers", "workers = 4"),
    ("[defaults]", "connect_timeout", r#"connect_timeout = "5s""#),
    ("[defaults]", "idle_timeout", r#"idle_timeout = "1h", or "never""#),
    ("[defaults]", "udp_idle", r#"udp_idle = "60s""#),
    ("[defaults]", "keepalive", r#"keepalive = "60s""#),
    ("[defaults]", "max_connections", "max_connections = 10000"),
    ("[defaults]", "max_flows", "max_flows = 10000"),
    ("[defaults]", "drain_timeout", r#"drain_timeout = "30s""#),
    ("[defaults]", "user", r#"user = "nobody""#),
    ("[defaults]", "control", r#"control = "/run/proxy/proxy.sock""#),
    ("[defaults]", "log_format", r#"log_format = "json", or "text""#),
    ("[standby]", "lease", r#"lease = "100ms""#),
    ("[standby]", "fence_after", r#"fence_after = "1s""#),
    ("[standby]", "failback_after", r#"failback_after = "10s", or "never""#),
    ("[metrics]", "listen", r#"listen = "127.0.0.1:9100""#),
    ("[[listener]]", "name", r#"name = "database""#),
    ("[[listener]]", "bind", r#"bind = ["tcp://0.0.0.0:5432"]"#),
    ("[[listener]]", "upstream", r#"upstream = "postgres""#),
    ("[upstream.NAME]", "server", "[[upstream.NAME.server]]"),
    ("[[upstream.NAME.server]]", "address", r#"address = "10.0.0.1:5432""#),
];

/// What is looked at by its path in the file looks like this, if it is known.
pub fn looks(path: &[&str]) -> Option<String> {
    match path {
        ["listener"] => Some("[[listener]]".into()),
        ["upstream"] | ["upstream", _] => Some("[upstream.NAME]".into()),
        [table] => Some(format!("[{table}]")),
        [.., key] => KEYS.iter().find(|(_, known, _)| known == key).map(|(_, _, looks)| (*looks).to_owned()),
        [] => None,
    }
}

/// What to write instead of an unknown key, where these ones are known: the table that it belongs in,
/// or the nearest one, or all.
pub fn instead(unknown: &str, known: &[&str]) -> String {
    let options = KEYS.iter().filter(|(table, ..)| ["[defaults]", "[standby]"].contains(table));
    if let Some((table, ..)) = options.clone().find(|(_, key, _)| *key == unknown) {
        return format!("it belongs in {table}");
    }
    match nearest(unknown, known) {
        Some(nearest) => format!("the nearest is {nearest}"),
        None => format!("known here: {}", known.join(", ")),
    }
}

/// The name that was meant, perhaps.
pub fn nearest<'a>(unknown: &str, known: &[&'a str]) -> Option<&'a str> {
    let distance = |key: &str| strsim::damerau_levenshtein(unknown, key);
    let nearest = *known.iter().min_by_key(|key| distance(key))?;
    // More than half of it wrong is another word.
    (distance(nearest) * 2 <= nearest.len().max(unknown.len())).then_some(nearest)
}
