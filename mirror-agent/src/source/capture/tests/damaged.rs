use super::{
    written::{ETHERNET, IF_NAME, IF_TSRESOL, RAW, Written},
    *,
};

/// A pcap capture with one packet, of 60 bytes at byte 24.
fn one() -> Written {
    let mut capture = Written::pcap(false, false, ETHERNET);
    capture.record(1, 2, 60, &[7; 60]);
    capture
}

/// A pcapng capture with one packet, of 60 bytes.
fn one_ng(big: bool) -> Written {
    let mut capture = Written::pcapng(big);
    capture.interface(ETHERNET, 0, &[]).enhanced(0, 1, 60, &[7; 60], &[]);
    capture
}

#[test]
fn what_is_no_capture() {
    assert_eq!(damage(&[]), (0, "at byte 0: the input is empty".into()));
    assert_eq!(
        damage(&[0x0a, 0x0b, 0x0c, 0x0d, 0x0e]),
        (0, "at byte 0: the input is not a capture: it starts with 0a 0b 0c 0d".into())
    );
    assert_eq!(
        damage(&[0xa1, 0xb2]),
        (0, "at byte 0: the input is not a capture: it starts with a1 b2".into())
    );
    // Kuznetzov's variant of pcap.
    let kuznetzov = [0x34, 0xcd, 0xb2, 0xa1, 2, 0, 4, 0];
    assert_eq!(
        damage(&kuznetzov),
        (0, "at byte 0: the input is not a capture: it starts with 34 cd b2 a1".into())
    );
}

#[test]
fn other_versions() {
    let mut capture = Written::pcap(true, false, ETHERNET);
    capture.bytes[5] = 3;
    assert_eq!(damage(&capture.bytes).1, "at byte 0: version 3.4 of pcap is not supported");
    let mut capture = Written::pcapng(true);
    capture.bytes[13] = 2;
    assert_eq!(damage(&capture.bytes).1, "at byte 0: version 2.0 of pcapng is not supported");
}

#[test]
fn a_pcap_capture_that_ends_anywhere() {
    let capture = one().record(1, 2, 60, &[7; 60]).bytes.clone();
    let cut = |len: usize| damage(&capture[..len]);
    let file_header =
        "at byte 0: the header of a pcap file has 24 bytes, and the capture ends after 23 of them";
    assert_eq!(cut(23), (0, file_header.into()));
    assert_eq!(packets(&capture[..24]).len(), 0);
    assert_eq!(
        cut(25),
        (0, "at byte 24: the header of a packet has 16 bytes, and the capture ends after 1 of them".into())
    );
    assert_eq!(
        cut(40 + 59),
        (0, "at byte 24: the packet says 60 bytes, and the capture ends after 59 of them".into())
    );
    assert_eq!(packets(&capture[..100]).len(), 1);
    assert_eq!(
        cut(100 + 16),
        (1, "at byte 100: the packet says 60 bytes, and the capture ends after 0 of them".into())
    );
}

#[test]
fn a_pcapng_capture_that_ends_anywhere() {
    let capture = one_ng(false).block(0xbad, &[1; 40]).bytes.clone();
    for len in 1..capture.len() {
        match len {
            // The section, the interface, the packet and the last block.
            28 | 48 | 140 => assert_eq!(content(&capture[..len]).2, None),
            _ => {
                let (count, damage) = damage(&capture[..len]);
                assert_eq!(count, usize::from(len > 140));
                if len >= 4 {
                    assert!(damage.contains("and the capture ends after"), "{len}: {damage}");
                }
            }
        }
    }
    let (_, end) = damage(&capture[..139]);
    assert_eq!(end, "at byte 48: the block says 92 bytes, and the capture ends after 91 of them");
    let (_, end) = damage(&capture[..150]);
    assert_eq!(end, "at byte 140: the block says 52 bytes, and the capture ends after 10 of them");
    let (_, end) = damage(&capture[..capture.len() - 1]);
    assert_eq!(end, "at byte 140: the block says 52 bytes, and the capture ends after 51 of them");
}

#[test]
fn the_longest_packet_is_read_and_a_longer_one_is_not() {
    for compress in [false, true] {
        let data = vec![7; CAPTURED_MAX as usize];
        let mut capture = one();
        capture.record(1, 2, 300_000, &data).record(1, 2, 60, &[8; 60]);
        capture.u32(1).u32(2).u32(CAPTURED_MAX + 1).u32(300_000);
        let bytes = if compress { written::gzip(&capture.bytes) } else { capture.bytes };
        let (packets, _, end) = content(&bytes);
        assert_eq!(packets.len(), 3);
        assert_eq!(packets[1].frame, Ok(data));
        let at = 24 + 76 + 16 + CAPTURED_MAX + 76;
        let expected = "the packet says 262145 bytes, and no capture holds more than 262144 of one";
        assert_eq!(end.unwrap(), format!("at byte {at}: {expected}"));
    }
    let mut capture = one_ng(true);
    let data = vec![7; CAPTURED_MAX as usize];
    capture.enhanced(0, 1, 300_000, &data, &[]).enhanced(0, 1, 300_000, &vec![0; data.len() + 1], &[]);
    let (packets, _, end) = content(&capture.bytes);
    assert_eq!((packets.len(), packets[1].frame.as_ref().unwrap().len()), (2, data.len()));
    assert!(end.unwrap().contains("no capture holds more than 262144"));
}

#[test]
fn lengths_of_blocks() {
    for big in [false, true] {
        let with_length = |kind, len| {
            let mut capture = one_ng(big);
            capture.u32(kind).u32(len);
            damage(&capture.bytes).1
        };
        for len in [0, 8, 11, 13, 14, 15] {
            let expected =
                format!("at byte 140: the block says {len} bytes, which none of its kind can have");
            assert_eq!(with_length(4, len), expected);
        }
        let expected = "the block says 16777220 bytes, and 16777216 are the most for one of its kind";
        assert_eq!(with_length(6, PACKET_BLOCK_MAX + 4), format!("at byte 140: {expected}"));
        let expected = "the block says 4294967292 bytes, and the capture ends after 8 of them";
        assert_eq!(with_length(4, u32::MAX - 3), format!("at byte 140: {expected}"));

        let mut capture = one_ng(big);
        capture.bytes.truncate(140 - 4);
        capture.u32(88);
        let expected = "at byte 48: the block says 92 bytes at its beginning and 88 at its end";
        assert_eq!(damage(&capture.bytes), (0, expected.into()));

        // Too short for what a packet has.
        for kind in [2, 3, 6] {
            let mut capture = one_ng(big);
            capture.block(kind, &[]);
            let expected = "at byte 140: the block says 12 bytes, which none of its kind can have";
            assert_eq!(damage(&capture.bytes), (1, expected.into()));
        }
    }
}

#[test]
fn a_packet_longer_than_its_block() {
    let mut capture = one_ng(false);
    capture.bytes[48 + 20] = 61;
    let expected = "at byte 48: the packet says 61 bytes, and its block has room for 60";
    assert_eq!(damage(&capture.bytes), (0, expected.into()));
    let mut capture = Written::pcapng(true);
    capture.interface(ETHERNET, 0, &[]).simple(9, &[7; 8]);
    let expected = "at byte 48: the packet says 9 bytes, and its block has room for 8";
    assert_eq!(damage(&capture.bytes), (0, expected.into()));
}

#[test]
fn interfaces_that_nobody_described() {
    let mut capture = one_ng(false);
    capture.enhanced(1, 1, 60, &[7; 60], &[]);
    let expected = "at byte 140: the packet is of interface 1, and its section has 1, from 0 on";
    assert_eq!(damage(&capture.bytes), (1, expected.into()));
    for packet in 0..3 {
        // The interfaces of a section are not those of the one before.
        let mut capture = one_ng(false);
        capture.section(true);
        match packet {
            0 => capture.enhanced(0, 1, 60, &[7; 60], &[]),
            1 => capture.simple(60, &[7; 60]),
            _ => capture.obsolete(0, 1, 60, &[7; 60], &[]),
        };
        let expected = "at byte 168: a packet comes before any interface of its section";
        assert_eq!(damage(&capture.bytes), (1, expected.into()));
    }
}

#[test]
fn too_many_interfaces() {
    let mut capture = Written::pcapng(false);
    for _ in 0..INTERFACES_MAX {
        capture.interface(ETHERNET, 0, &[]);
    }
    capture.enhanced(INTERFACES_MAX as u32 - 1, 1, 60, &[7; 60], &[]);
    assert_eq!(packets(&capture.bytes)[0].interface, 65_535);
    capture.section(true).interface(ETHERNET, 0, &[]);
    let (count, end) = damage(&capture.bytes);
    assert_eq!(count, 1);
    assert!(end.ends_with("one interface more than 65536"), "{end}");
}

#[test]
fn options_of_interfaces() {
    let with_option = |option| {
        let mut capture = Written::pcapng(true);
        capture.interface(ETHERNET, 0, &[option]);
        content(&capture.bytes).2
    };
    let expected = "at byte 28: option 9 of the interface has a wrong length";
    assert_eq!(with_option((IF_TSRESOL, vec![])).unwrap(), expected);
    let mut capture = Written::pcapng(true);
    let mut body = Written { bytes: Vec::new(), big: true };
    body.u16(1).u16(0).u32(0).u16(IF_NAME).u16(5).u32(0);
    capture.block(1, &body.bytes);
    let expected = "at byte 28: option 2 of the interface has a wrong length";
    assert_eq!(damage(&capture.bytes).1, expected);
}

#[test]
fn a_section_without_a_byte_order() {
    let mut capture = one_ng(true).section(false).bytes.clone();
    capture[140 + 8] = 0;
    let expected = "at byte 140: the section's byte order mark is 00 3c 2b 1a, which is none";
    assert_eq!(damage(&capture), (1, expected.into()));
}

#[test]
fn link_types_that_are_not_supported() {
    let rest = "is not supported: Ethernet, raw IP, Linux cooked (v1, v2) and BSD loopback are";
    let capture = Written::pcap(false, false, 127);
    assert_eq!(damage(&capture.bytes).1, format!("at byte 0: link type 127 (IEEE802_11_RADIOTAP) {rest}"));
    let capture = Written::pcap(false, false, 4711);
    assert_eq!(damage(&capture.bytes).1, format!("at byte 0: link type 4711 {rest}"));
    // In pcapng it is one interface's, whose packets are left out.
    let mut capture = one_ng(false);
    capture.interface(249, 0, &[]).interface(RAW, 0, &[]).enhanced(2, 1, 20, &[0x45; 20], &[]);
    assert_eq!(packets(&capture.bytes).len(), 2);
    let at = capture.bytes.len();
    capture.enhanced(1, 1, 20, &[0x45; 20], &[]).enhanced(2, 1, 20, &[0x45; 20], &[]);
    let packets = packets(&capture.bytes);
    assert_eq!(packets.len(), 4);
    assert_eq!(packets[2].position, at as u64);
    let unplayable = packets[2].frame.as_ref().unwrap_err();
    assert_eq!(unplayable.to_string(), format!("link type 249 (USBPCAP) {rest}"));
    assert!(packets[3].frame.is_ok());
}

#[test]
fn an_error_of_the_input_is_not_an_end() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::from_raw_os_error(5))
        }
    }
    let bytes = one().bytes;
    let len = bytes.len();
    let mut reader = CaptureReader::from_reader(Box::new(Cursor::new(bytes).chain(Broken)), READ_LEN);
    assert!(reader.next().unwrap().is_some());
    let damage = reader.next().unwrap_err();
    let expected = format!("at byte {len}: cannot be read: Input/output error (os error 5)");
    assert_eq!(damage.to_string(), expected);
}
