use super::*;
use proptest::prelude::*;

const LINES: [&str; 3] = [
    "PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\r\n",
    "PROXY TCP6 2001:db8::7 2001:db8::1 4711 443\r\n",
    "PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n",
];

fn of(source: &str, asked: &str) -> Option<Ends> {
    Some(Ends { source: source.parse().unwrap(), asked: asked.parse().unwrap() })
}

fn whole(len: usize, ends: Option<Ends>) -> Parsed {
    Parsed::Whole { len, ends }
}

#[test]
fn what_is_built_is_understood() {
    let cases = [
        of("192.0.2.7:4711", "198.51.100.1:443"),
        of("[2001:db8::7]:4711", "[2001:db8::1]:443"),
        of("192.0.2.7:0", "[2001:db8::1]:443"),
        None,
    ];
    for ends in cases {
        for version in [ProxyVersion::V1, ProxyVersion::V2] {
            let bytes = build(version, Protocol::Tcp, ends);
            assert_eq!(parse(&bytes), whole(bytes.len(), ends), "{bytes:?}");
            assert!(bytes.len() <= MAX_LINE);
        }
        let bytes = build(ProxyVersion::V2, Protocol::Udp, ends);
        assert_eq!(parse_datagram(&[&bytes[..], b"payload"].concat()), Some((bytes.len(), ends)));
    }
}

#[test]
fn the_bytes_are_those_of_the_specification() {
    let ends = of("192.0.2.7:4711", "198.51.100.1:443");
    assert_eq!(build(ProxyVersion::V1, Protocol::Tcp, ends), LINES[0].as_bytes());
    assert_eq!(build(ProxyVersion::V1, Protocol::Tcp, None), b"PROXY UNKNOWN\r\n");
    let signature = b"\r\n\r\n\0\r\nQUIT\n";
    let addresses = [192, 0, 2, 7, 198, 51, 100, 1, 0x12, 0x67, 0x01, 0xbb];
    let tcp = [&signature[..], &[0x21, 0x11, 0, 12], &addresses].concat();
    assert_eq!(build(ProxyVersion::V2, Protocol::Tcp, ends), tcp);
    let udp = [&signature[..], &[0x21, 0x12, 0, 12], &addresses].concat();
    assert_eq!(build(ProxyVersion::V2, Protocol::Udp, ends), udp);
    assert_eq!(build(ProxyVersion::V2, Protocol::Tcp, None), [&signature[..], &[0x20, 0, 0, 0]].concat());
}

#[test]
fn a_header_is_recognized_byte_by_byte_and_nothing_behind_it_is_looked_at() {
    let mut headers: Vec<Vec<u8>> = LINES.iter().map(|line| line.as_bytes().to_vec()).collect();
    headers.push(build(ProxyVersion::V2, Protocol::Tcp, of("192.0.2.7:4711", "198.51.100.1:443")));
    headers.push(build(ProxyVersion::V2, Protocol::Tcp, None));
    headers.push(with_appendix(500));
    for header in headers {
        for len in 0..header.len() {
            assert_eq!(parse(&header[..len]), Parsed::Partial, "{len} of {header:?}");
        }
        let parsed = parse(&header);
        assert!(matches!(parsed, Parsed::Whole { len, .. } if len == header.len()), "{parsed:?}");
        for tail in [&b"\r\n"[..], b"PROXY ", &[0xff; 5000]] {
            assert_eq!(parse(&[&header[..], tail].concat()), parsed);
        }
    }
}

/// A header of version 2 with so many bytes of type-length-value fields.
fn with_appendix(bytes: u16) -> Vec<u8> {
    let mut header = build(ProxyVersion::V2, Protocol::Tcp, of("192.0.2.7:4711", "198.51.100.1:443"));
    header[14..16].copy_from_slice(&(12 + bytes).to_be_bytes());
    header.extend(std::iter::repeat_n(0x04, bytes.into()));
    header
}

#[test]
fn what_is_no_header_or_too_long_is_invalid_as_soon_as_it_can_be_told() {
    let long = format!("PROXY UNKNOWN {}", "x".repeat(100));
    let longest = with_appendix((MAX_HEADER - 28) as u16);
    assert_eq!(parse(&longest), whole(MAX_HEADER, of("192.0.2.7:4711", "198.51.100.1:443")));
    let too_long = &with_appendix((MAX_HEADER - 27) as u16)[..16];
    let of_two_addresses_less = [&longest[..14], &[0, 4]].concat();
    let version_3 = [&longest[..12], &[0x31, 0x11, 0, 12]].concat();
    let cases: [&[u8]; 9] = [
        b"G",
        b"GET / HTTP/1.1\r\n",
        b"PROXY TCP5 1.2.3.4 1.2.3.4 1 1\r\n",
        b"PROXY TCP4 1.2.3.4 1.2.3 1 1\r\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 1 99999\r\n",
        long.as_bytes(),
        too_long,
        &of_two_addresses_less,
        &version_3,
    ];
    for bytes in cases {
        assert_eq!(parse(bytes), Parsed::Invalid, "{}", String::from_utf8_lossy(bytes));
    }
    assert_eq!(parse_datagram(&longest[..20]), None);
    assert_eq!(parse_datagram(LINES[0].as_bytes()), None, "version 1 is for streams");
}

#[test]
fn addresses_are_canonical() {
    let line = b"PROXY TCP6 ::ffff:192.0.2.7 ::ffff:198.51.100.1 4711 443\r\n";
    assert_eq!(parse(line), whole(line.len(), of("192.0.2.7:4711", "198.51.100.1:443")));
}

fn like_a_header() -> impl Strategy<Value = Vec<u8>> {
    let starts = [b"PROXY ".to_vec(), b"PROXY TCP4 ".to_vec(), with_appendix(4)[..13].to_vec(), Vec::new()];
    (prop::sample::select(starts.to_vec()), prop::collection::vec(any::<u8>(), 0..300))
        .prop_map(|(start, rest)| [start, rest].concat())
}

proptest! {
    #[test]
    fn no_bytes_are_too_strange(bytes in like_a_header()) {
        if let Parsed::Whole { len, .. } = parse(&bytes) {
            prop_assert!(len <= bytes.len() && len <= MAX_HEADER);
            prop_assert_eq!(parse(&bytes[..len]), parse(&bytes));
        }
        parse_datagram(&bytes);
    }

    #[test]
    fn whoever_it_is_from_comes_back(source: (std::net::Ipv6Addr, u16), asked: (std::net::Ipv4Addr, u16)) {
        let ends = Ends::new(source.into(), asked.into());
        prop_assume!(!ends.source.ip().is_unspecified());
        let ends = Some(ends);
        for version in [ProxyVersion::V1, ProxyVersion::V2] {
            let bytes = build(version, Protocol::Tcp, ends);
            prop_assert_eq!(parse(&bytes), whole(bytes.len(), ends));
        }
    }
}

#[test]
fn a_client_without_an_address_is_one_that_nobody_tells_of() {
    let nobody = "PROXY TCP4 0.0.0.0 10.0.0.1 1 2\r\n";
    assert!(matches!(parse(nobody.as_bytes()), Parsed::Whole { ends: None, len } if len == nobody.len()));
    let ends = Ends::new("[::]:1".parse().unwrap(), "[2001:db8::1]:2".parse().unwrap());
    let bytes = build(ProxyVersion::V2, Protocol::Udp, Some(ends));
    assert!(matches!(parse_datagram(&bytes), Some((len, None)) if len == bytes.len()));
}
