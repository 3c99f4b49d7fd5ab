use std::{fs, path::Path};

use serde_json::Value;

use super::{super::tests::examples, *};

fn docs() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs")
}

#[test]
fn what_is_committed_is_what_the_code_says() {
    for (name, text) in all() {
        let committed = fs::read_to_string(docs().join(name)).unwrap();
        assert!(committed == text, "docs/{name} is old: cargo xtask docs");
    }
}

/// A file as JSON has it.
fn json(toml: &str) -> Value {
    toml::from_str(toml).unwrap()
}

#[test]
fn schema_takes_what_is_taken_and_refuses_what_is_refused() {
    let schema: Value = serde_json::from_str(&schema::schema()).unwrap();
    let validator = jsonschema::draft7::new(&schema).unwrap();
    let errors =
        |toml: &str| validator.iter_errors(&json(toml)).map(|error| error.to_string()).collect::<Vec<_>>();
    for (name, text) in examples() {
        assert_eq!(errors(&text), [""; 0], "{name}");
    }
    for bad in [
        "[standby]\nlease = 100",
        "[standby]\nlease = \"100\"",
        "[defaults]\nworkers = 65",
        "[defaults]\nidle_timeout = \"nevr\"",
        "[defaults]\nlease = \"100ms\"",
        "[[listener]]\nname = \"a\"\nupstream = \"a\"",
        "[[listener]]\nname = \"a\"\nbind = \"tcp://0.0.0.0:1\"\nupstream = \"a\"",
        "[upstream.a]\nbalance = \"random\"",
        "[upstream.a]\nhealth = { chek = \"tcp\" }",
        "[upstream.a]\nserver = [{ weight = 1 }]",
    ] {
        assert_eq!(errors(bad).len(), 1, "{bad}: {:?}", errors(bad));
    }
}
