use proptest::{collection::vec, option, prelude::*};

use super::{
    written::{COMMENT, ETHERNET, IF_NAME, IF_TSOFFSET, IF_TSRESOL, Written, gzip, zstd},
    *,
};

/// What a capture is to hold of a packet.
#[derive(Clone, Debug)]
struct Given {
    seconds: u32,
    /// Of a second; fits both units of pcap.
    part: u32,
    data: Vec<u8>,
    /// Bytes that were not captured.
    missing: u32,
    /// Bits of the flags.
    flags: Option<u32>,
    interface: u32,
    /// Kind of the block, 2, 3 or 6.
    kind: u32,
    /// Whether a block of another kind comes in front.
    other: bool,
}

fn given() -> impl Strategy<Value = Given> {
    let data = vec(any::<u8>(), 14..200);
    let kind = prop_oneof![Just(2_u32), Just(3), Just(6), Just(6)];
    let numbers = (any::<u32>(), 0..1_000_000_u32, 0..2000_u32);
    (numbers, data, option::of(any::<u32>()), 0..3_u32, kind, any::<bool>()).prop_map(
        |((seconds, part, missing), data, flags, interface, kind, other)| Given {
            seconds,
            part,
            data,
            missing,
            flags,
            interface,
            kind,
            other,
        },
    )
}

fn compress(bytes: Vec<u8>, how: u8) -> Vec<u8> {
    match how {
        0 => bytes,
        1 => gzip(&bytes),
        _ => zstd(&bytes),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn pcap(given in vec(given(), 0..20), big: bool, nanoseconds: bool, minor in 0..5_u16, how in 0..3_u8) {
        let mut capture = Written::pcap_version(big, nanoseconds, ETHERNET, minor);
        let mut expected = Vec::new();
        for packet in &given {
            let position = capture.bytes.len() as u64;
            let original_len = packet.data.len() as u32 + packet.missing;
            capture.record(packet.seconds, packet.part, original_len, &packet.data);
            if minor < 3 {
                // Before version 2.3, the original length came first.
                let at = position as usize + 8;
                capture.bytes[at..at + 8].rotate_left(4);
            }
            let unit = if nanoseconds { 1 } else { 1000 };
            expected.push(Seen {
                position,
                interface: 0,
                time_ns: Some(u64::from(packet.seconds) * 1_000_000_000 + u64::from(packet.part) * unit),
                direction: None,
                original_len,
                frame: Ok(packet.data.clone()),
            });
        }
        prop_assert_eq!(packets(&compress(capture.bytes, how)), expected);
    }

    /// Two sections with the same packets, in byte orders of their own.
    #[test]
    fn pcapng(given in vec(given(), 0..20), big: [bool; 2], how in 0..3_u8) {
        let mut capture = Written::default();
        let mut expected = Vec::new();
        let mut expected_names = Vec::new();
        for (section, big) in big.into_iter().enumerate() {
            capture.section(big);
            // In microseconds, because nothing is said; in nanoseconds; in picoseconds, 5 seconds late.
            let offset = if big { 5_i64.to_be_bytes() } else { 5_i64.to_le_bytes() };
            let name = |number: u32| format!("eth{number}-{section}");
            capture.interface(ETHERNET, 300, &[(IF_NAME, name(0).into_bytes())]);
            capture.interface(ETHERNET, 0, &[(IF_NAME, name(1).into_bytes()), (IF_TSRESOL, vec![9])]);
            capture.interface(ETHERNET, 0, &[(IF_TSRESOL, vec![12]), (IF_TSOFFSET, offset.to_vec())]);
            for packet in &given {
                if packet.other {
                    capture.block(5, &packet.data);
                }
                let position = capture.bytes.len() as u64;
                let data = &packet.data[..];
                let original_len = data.len() as u32 + packet.missing;
                let count = u64::from(packet.part) * 1_000_003;
                let mut options = vec![(COMMENT, vec![7; data.len() % 5])];
                options.extend(packet.flags.map(|flags| capture.flags(flags)));
                let (mut interface, mut frame, mut simple_len) = (packet.interface, data.to_vec(), None);
                match packet.kind {
                    6 => capture.enhanced(interface, count, original_len, data, &options),
                    2 => capture.obsolete(interface as u16, count, original_len, data, &options),
                    _ => {
                        // Its captured length is the smaller of the original one and the limit of 300.
                        interface = 0;
                        let original = if packet.missing > 1000 { 1000 } else { data.len() as u32 };
                        frame.resize(original.min(300) as usize, 9);
                        simple_len = Some(original);
                        capture.simple(original, &frame)
                    }
                };
                let time_ns = match interface {
                    0 => count * 1000,
                    1 => count,
                    _ => count / 1000 + 5_000_000_000,
                };
                let direction = packet.flags.and_then(|flags| match flags % 4 {
                    1 => Some(Direction::Ingress),
                    2 => Some(Direction::Egress),
                    _ => None,
                });
                expected.push(Seen {
                    position,
                    interface: section as u32 * 3 + interface,
                    time_ns: Some(time_ns).filter(|_| simple_len.is_none()),
                    direction: direction.filter(|_| simple_len.is_none()),
                    original_len: simple_len.unwrap_or(original_len),
                    frame: Ok(frame),
                });
                expected_names.push(Some(name(interface)).filter(|_| interface < 2));
            }
        }
        let (packets, names, end) = content(&compress(capture.bytes, how));
        prop_assert_eq!(packets, expected);
        prop_assert_eq!(names, expected_names);
        prop_assert_eq!(end, None);
    }
}

#[test]
fn more_captured_than_there_was() {
    let mut capture = Written::pcap(false, false, ETHERNET);
    capture.record(1, 2, 20, &[7; 60]);
    assert_eq!(packets(&capture.bytes)[0].original_len, 60);
    let mut capture = Written::pcapng(true);
    capture.interface(ETHERNET, 0, &[]).enhanced(0, 1, 20, &[7; 60], &[]);
    assert_eq!(packets(&capture.bytes)[0].original_len, 60);
}

#[test]
fn names_of_any_encoding_and_length() {
    let mut capture = Written::pcapng(true);
    for name in [&b"caf\xe9\0\0"[..], &[b'x'; 60_000]] {
        capture.interface(ETHERNET, 0, &[(IF_NAME, name.to_vec())]);
    }
    capture.enhanced(0, 1, 60, &[7; 60], &[]).enhanced(1, 1, 60, &[7; 60], &[]);
    let (_, names, _) = content(&capture.bytes);
    assert_eq!(names, [Some("caf\u{fffd}".to_string()), Some("x".repeat(255))]);
}

#[test]
fn damaged_options_of_a_packet_are_none() {
    let mut capture = Written::pcapng(false);
    let flags = capture.flags(2);
    capture.interface(ETHERNET, 0, &[]).enhanced(0, 1, 60, &[7; 60], &[(COMMENT, vec![0; 4]), flags]);
    assert_eq!(packets(&capture.bytes)[0].direction, Some(Direction::Egress));
    // The comment's length, behind the packet.
    capture.bytes[48 + 28 + 60 + 2] = 200;
    assert_eq!(packets(&capture.bytes)[0].direction, None);
}

#[test]
fn minor_version_2_of_pcapng_is_that_of_0() {
    let mut capture = Written::pcapng(true);
    capture.bytes[15] = 2;
    assert_eq!(packets(&capture.bytes), []);
}

#[test]
fn names_are_known_after_the_end() {
    let mut capture = Written::pcapng(true);
    capture.interface(ETHERNET, 0, &[(IF_NAME, b"eth0".to_vec())]);
    let mut reader = CaptureReader::from_reader(Box::new(Cursor::new(capture.bytes)), READ_LEN);
    assert_eq!(reader.interface_name(0), None);
    assert!(reader.next().unwrap().is_none());
    assert_eq!(reader.interface_name(0), Some("eth0"));
    assert_eq!(reader.interface_name(1), None);
}
