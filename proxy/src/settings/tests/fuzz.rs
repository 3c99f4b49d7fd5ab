//! Whatever is in the file: settings, or a message with line and column, and soon.

use proptest::{collection::vec, prelude::*};

use super::*;

/// What mutations put in.
const WORDS: [&str; 16] = [
    "[[",
    "]]",
    "=",
    "\"",
    "\'\'\'",
    "\n",
    "{",
    "}",
    "0x",
    "-1",
    "1e400",
    "\0",
    "ö",
    "listener",
    "never",
    "[upstream.a]\n",
];

/// Files that are fine.
fn good() -> Vec<String> {
    let all =
        with_lines(|table| Some(lines(table, |setting| Some(setting.like).filter(|like| !like.is_empty()))));
    let examples = examples().into_iter().map(|(_, text)| text);
    examples.chain([GOOD.to_owned(), switched_on(), all]).collect()
}

/// That it is taken, or refused by a message of one line with a place in it.
fn judge(bytes: &[u8]) -> Result<(), TestCaseError> {
    let Err(error) = parse(bytes).and_then(|settings| Config::of(&settings)) else { return Ok(()) };
    let text = error.to_string();
    prop_assert!(!text.contains(char::is_control) || text.contains('\u{fffd}'), "{:?}", text);
    let place = error.setting.strip_prefix("proxy.toml:").unwrap_or("0:0");
    let mut numbers = place.splitn(3, ':').map(|number| number.trim().parse::<usize>().unwrap_or(0));
    let (line, column) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let lines = bytes.split(|byte| *byte == b'\n').count();
    prop_assert!((1..=lines).contains(&line) && (1..=bytes.len() + 1).contains(&column), "{}", text);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..Default::default() })]

    #[test]
    fn any_bytes_are_judged(bytes in vec(any::<u8>(), 0..400)) {
        judge(&bytes)?;
    }

    #[test]
    fn any_words_are_judged(words in vec(prop::sample::select(WORDS.to_vec()), 0..60)) {
        judge(words.concat().as_bytes())?;
    }

    #[test]
    fn any_change_to_a_file_is_judged(
        file in prop::sample::select(good()),
        changes in vec((any::<prop::sample::Index>(), 0..40usize, any::<u8>(), 0..3u8, prop::sample::select(WORDS.to_vec())), 1..6),
    ) {
        let mut text = file.into_bytes();
        for (at, length, byte, kind, word) in changes {
            let at = at.index(text.len().max(1)).min(text.len());
            let end = (at + length).min(text.len());
            match kind {
                0 if at < text.len() => text[at] = byte,
                1 => drop(text.drain(at..end)),
                _ => drop(text.splice(at..at, word.bytes())),
            }
        }
        judge(&text)?;
    }
}

/// As bad as files can be for whoever walks them again and again: what takes the square of their size takes minutes.
#[test]
fn large_files_are_judged() {
    let head = "[[listener]]\nname = \"a\"\nbind = [\"tcp://192.0.2.1:1\"]\nupstream = \"a\"\n";
    let fill = |begin: &str, again: &dyn Fn(usize) -> String| {
        let mut text = begin.to_owned();
        for number in 0.. {
            let more = again(number);
            if text.len() + more.len() > 1 << 18 {
                return text;
            }
            text += &more;
        }
        text
    };
    let upstream = "]\n[[upstream.a.server]]\naddress = \"192.0.2.1:1\"\n";
    let network =
        |number: usize| format!("\"10.{}.{}.{}\",", number >> 16, (number >> 8) & 255, number & 255);
    for text in [
        fill(&format!("{head}allow = ["), &network) + upstream,
        fill(&format!("{head}allow = ["), &|number| network(number) + "\n") + upstream,
        fill(&format!("{head}[upstream.a]\nserver = ["), &|number| format!("{{address=\"a{number}:1\"}},"))
            + "]",
        fill(head, &|number| format!("[[upstream.a{number}.server]]\naddress=\"a:1\"\n")),
        fill(head, &|number| format!("[[listener.sni]]\nserver_names=[\"a{number}\"]\nupstream=\"a\"\n")),
        fill("", &|number| format!("[[listener]]\nname=\"a{number}\"\nbind=[]\nupstream=\"\"\n")),
        fill("", &|number| format!("a{number}=1\n")),
        fill("", &|number| format!("[a{number}]\n")),
        fill("a=", &|_| "[".into()),
        fill("a=", &|_| "{a=".into()),
        fill("", &|_| "a.".into()),
        fill("[", &|_| "a.".into()),
        fill("a=\"", &|_| "ö".into()) + "\"",
        fill("a=", &|_| "1".into()),
    ] {
        judge(text.as_bytes()).unwrap();
    }
}
