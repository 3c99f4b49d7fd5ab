//! What `cargo test` says of tests that failed, gathered from its output: of a long run that is what one wants to see,
//! and it is somewhere in the middle. Pure.

/// Lines of a panic that are kept: where, and what it says.
const PER_PANIC: usize = 6;
/// Lines of one test that are kept.
const PER_TEST: usize = 40;

/// Reads the output line by line.
#[derive(Default)]
pub struct Failures {
    tests: Vec<Test>,
    /// Whether the line before belongs to the last test's output.
    is_inside: bool,
    /// Lines of the panic that are still to come.
    to_come: usize,
}

struct Test {
    name: String,
    lines: Vec<String>,
}

impl Failures {
    /// One more line of the output.
    pub fn read(&mut self, line: &str) {
        if let Some(name) = line.strip_prefix("---- ").and_then(|rest| rest.strip_suffix(" stdout ----")) {
            self.tests.push(Test { name: name.to_owned(), lines: Vec::new() });
            (self.is_inside, self.to_come) = (true, 0);
        } else if line == "failures:" || line.starts_with("test result: ") {
            self.is_inside = false;
        } else if let (true, Some(test)) = (self.is_inside, self.tests.last_mut()) {
            if line.starts_with("thread '") && line.contains("panicked at") {
                self.to_come = PER_PANIC;
            }
            let is_trace = line.starts_with("stack backtrace:") || line.starts_with("note: ");
            self.to_come = if is_trace || test.lines.len() >= PER_TEST { 0 } else { self.to_come };
            if self.to_come > 0 {
                test.lines.push(line.to_owned());
                self.to_come -= 1;
            }
        }
    }

    /// Each test that failed, with what it panicked of; nothing if none did.
    pub fn summary(&self) -> String {
        let mut text = String::new();
        for Test { name, lines } in &self.tests {
            text += &format!("failed: {name}\n");
            lines.iter().filter(|line| !line.is_empty()).for_each(|line| text += &format!("    {line}\n"));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\
running 2 tests
test one ... ok
test two ... FAILED

failures:

---- two stdout ----
a line of its own
thread '<unnamed>' (12) panicked at tests/a.rs:330:54:
waited 15s in vain until it rains

stack backtrace:
   0: somewhere
note: run with RUST_BACKTRACE=full
thread 'two' (11) panicked at tests/a.rs:9:5:
1 of 2 cases failed

failures:
    two

test result: FAILED. 1 passed; 1 failed
";

    #[test]
    fn each_panic_is_kept_and_nothing_else() {
        let mut failures = Failures::default();
        OUTPUT.lines().for_each(|line| failures.read(line));
        let expected = "\
failed: two
    thread '<unnamed>' (12) panicked at tests/a.rs:330:54:
    waited 15s in vain until it rains
    thread 'two' (11) panicked at tests/a.rs:9:5:
    1 of 2 cases failed
";
        assert_eq!(failures.summary(), expected);
    }

    #[test]
    fn a_test_that_panics_for_ever_is_cut_short() {
        let mut failures = Failures::default();
        failures.read("---- loud stdout ----");
        (0..1000).for_each(|_| failures.read("thread 'x' (1) panicked at a.rs:1:1:"));
        assert_eq!(failures.summary().lines().count(), 1 + PER_TEST);
    }

    #[test]
    fn of_no_failure_nothing_is_said() {
        let mut failures = Failures::default();
        "running 1 test\ntest one ... ok\n\ntest result: ok.\n".lines().for_each(|line| failures.read(line));
        assert_eq!(failures.summary(), "");
    }
}
