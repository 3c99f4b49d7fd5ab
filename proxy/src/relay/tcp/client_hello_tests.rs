use proptest::prelude::*;

use super::*;

/// A length of `width` bytes, and what it is of.
fn vector(width: usize, bytes: &[u8]) -> Vec<u8> {
    let len = (bytes.len() as u32).to_be_bytes();
    [&len[4 - width..], bytes].concat()
}

fn extension(kind: u16, data: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &vector(2, data)].concat()
}

fn server_name(name: &str) -> Vec<u8> {
    extension(0, &vector(2, &[&[0][..], &vector(2, name.as_bytes())].concat()))
}

/// The handshake message.
fn message(extensions: &[Vec<u8>]) -> Vec<u8> {
    let fixed = [&[3, 3][..], &[7; 32], &vector(1, &[9; 32]), &vector(2, &[0x13, 1]), &vector(1, &[0])];
    let body = [fixed.concat(), vector(2, &extensions.concat())].concat();
    [&[1][..], &vector(3, &body)].concat()
}

/// In records of so many bytes.
fn records(message: &[u8], size: usize) -> Vec<u8> {
    message.chunks(size).flat_map(|fragment| [&[22, 3, 1][..], &vector(2, fragment)].concat()).collect()
}

fn named(name: &str) -> Hello {
    Hello::Named(name.into())
}

fn usual() -> Vec<u8> {
    message(&[extension(0x0a0a, &[]), extension(43, &[2, 3, 4]), server_name("WWW.Example.com")])
}

#[test]
fn a_name_is_found_however_the_hello_is_cut() {
    for size in [1, 2, 5, 100, 16_384] {
        let bytes = records(&usual(), size);
        for len in 0..bytes.len() {
            assert_eq!(read(&bytes[..len]), Hello::Partial, "{len} of {} in records of {size}", bytes.len());
        }
        assert_eq!(read(&bytes), named("www.example.com"));
        // Early data behind it (RFC 8446, 4.2.10).
        assert_eq!(read(&[&bytes[..], &[20, 3, 3, 0, 1, 1, 23, 3, 3]].concat()), named("www.example.com"));
    }
}

#[test]
fn a_name_is_enough_without_what_comes_behind_it() {
    let hello = message(&[server_name("a.example"), extension(21, &[0; 20_000])]);
    let bytes = records(&hello, 16_384);
    assert_eq!(read(&bytes[..150]), named("a.example"));
    assert_eq!(read(&bytes), named("a.example"));
}

#[test]
fn a_name_that_comes_too_late_is_none() {
    let bytes = records(&message(&[extension(21, &[0; 17_000]), server_name("a.example")]), 16_384);
    assert_eq!(read(&bytes[..MOST - 1]), Hello::Partial);
    assert_eq!(read(&bytes), Hello::Nameless);
}

#[test]
fn hellos_without_a_name_and_other_things_are_told_apart() {
    let fixed = usual()[4..4 + 73].to_vec();
    let no_extensions = [&[1][..], &vector(3, &fixed)].concat();
    let other_kind = extension(0, &vector(2, &[&[1][..], &vector(2, b"a.example")].concat()));
    for hello in [no_extensions, message(&[]), message(&[extension(43, &[2, 3, 4])]), message(&[other_kind])]
    {
        assert_eq!(read(&records(&hello, 100)), Hello::Nameless);
    }
    for name in ["", "a b", "a\0b", "ä.example", &"a".repeat(256)] {
        assert_eq!(read(&records(&message(&[server_name(name)]), 100)), Hello::Nameless, "{name}");
    }
    assert_eq!(read(b""), Hello::Partial);
    let server_hello = [&[2][..], &vector(3, &[3; 50])].concat();
    let too_long = [&[22, 3, 1, 0x40, 1][..], &[1]].concat();
    for bytes in [
        &b"GET / HTTP/1.1\r\n"[..],
        b"\0",
        b"\x16\x02",
        b"\x16\x03\x01\0\0",
        &too_long,
        &records(&server_hello, 100),
        // A ClientHello of SSL 2.
        &[0x80, 0x2e, 1, 3, 1],
    ] {
        assert_eq!(read(bytes), Hello::Other, "{bytes:?}");
    }
}

#[test]
fn lengths_that_contradict_each_other_are_garbage() {
    let mut hello = usual();
    let session = 4 + 2 + 32;
    hello[session] = 255;
    assert_eq!(read(&records(&hello, 100)), Hello::Other);
    let list_too_long = extension(0, &[0, 9, 0, 0, 1, b'a']);
    assert_eq!(read(&records(&message(&[list_too_long]), 100)), Hello::Other);
    let name_too_long = extension(0, &vector(2, &[0, 0, 9, b'a']));
    assert_eq!(read(&records(&message(&[name_too_long]), 100)), Hello::Other);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    /// Whatever comes: an answer, and more bytes change none but [`Hello::Partial`].
    #[test]
    fn any_bytes_have_an_answer_that_stays(
        size in 1usize..200,
        wrong in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        rest in proptest::collection::vec(any::<u8>(), 0..300),
        is_hello in any::<bool>(),
    ) {
        let mut bytes = if is_hello { records(&usual(), size) } else { Vec::new() };
        for (place, byte) in wrong {
            if !bytes.is_empty() {
                let place = place.index(bytes.len());
                bytes[place] = byte;
            }
        }
        bytes.extend(rest);
        let mut last = Hello::Partial;
        for len in 0..=bytes.len() {
            let now = read(&bytes[..len]);
            prop_assert!(last == Hello::Partial || last == now, "{last:?}, then {now:?}");
            last = now;
        }
    }
}
