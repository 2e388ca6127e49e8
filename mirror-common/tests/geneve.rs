//! GENEVE: what is written is read again, and whatever comes over the network is taken apart by the rules or not at all.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use mirror_common::{
    geneve::{BASE_LEN, Metadata, OPTION_LEN, Payload, WIRE_LEN_MAX, decapsulate, header},
    record::DIRECTION_UNKNOWN,
    vxlan::VNI_MAX,
};
use proptest::prelude::*;

const METADATA: Metadata =
    Metadata { time_ns: 0x0102_0304_0506_0708, wire_len: 1514, direction: 1, ifindex: 0x0a0b_0c0d };

/// A datagram with these options, which may be anything.
fn datagram(vni: u32, options: &[u8], frame: &[u8]) -> Vec<u8> {
    [&header(vni, options.len()), options, frame].concat()
}

/// An option of another class, with this type and so many words of data.
fn foreign(kind: u8, words: u8) -> Vec<u8> {
    [&[0x01, 0x02, kind, words][..], &vec![7; usize::from(words) * 4]].concat()
}

#[test]
fn header_and_option_are_as_they_are_drawn() {
    assert_eq!(header(0x12_3456, 0), [0, 0, 0x65, 0x58, 0x12, 0x34, 0x56, 0]);
    assert_eq!(header(0x12_3456, OPTION_LEN)[0], 5, "words of options");
    let option = [
        &[0xff, 0x4d, 0x01, 4][..],
        &[1, 2, 3, 4, 5, 6, 7, 8],
        &[1, 0, 0x05, 0xea],
        &[0x0a, 0x0b, 0x0c, 0x0d],
    ];
    assert_eq!(METADATA.option()[..], option.concat());
}

#[test]
fn options_may_come_in_any_order() {
    let (ours, other) = (METADATA.option(), foreign(0x22, 3));
    let frame = &[9; 60][..];
    let taken = |options: &[&[u8]]| {
        decapsulate(&datagram(5, &options.concat(), frame))
            == Payload::Frame { vni: 5, metadata: Some(METADATA), frame }
    };
    assert!(taken(&[&ours]));
    assert!(taken(&[&other, &ours]));
    assert!(taken(&[&ours, &other]));
    assert!(taken(&[&foreign(0, 0), &other, &ours, &other]));
    // The first one counts.
    let second = Metadata { ifindex: 1, ..METADATA }.option();
    assert!(taken(&[&ours, &second]));
    // A later version of the option has more to say.
    let mut longer = [&ours[..], &[1; 8]].concat();
    longer[3] += 2;
    assert!(taken(&[&longer]));
}

#[test]
fn what_is_not_told_stays_unknown() {
    let metadata = |options: &[u8]| match decapsulate(&datagram(5, options, &[9; 14])) {
        Payload::Frame { metadata, .. } => metadata,
        other => panic!("{other:?}"),
    };
    assert_eq!(metadata(&[]), None);
    assert_eq!(metadata(&foreign(1, 4)), None, "another class");
    let mut short = METADATA.option()[..16].to_vec();
    short[3] -= 1;
    assert_eq!(metadata(&short), None, "shorter than this version's");
    assert_eq!(metadata(&Metadata::UNKNOWN.option()), Some(Metadata::UNKNOWN));
    let mut direction = METADATA.option();
    direction[12] = 77;
    assert_eq!(metadata(&direction).unwrap().direction, DIRECTION_UNKNOWN);
}

#[test]
fn what_has_to_be_dropped_is_malformed() {
    let right = datagram(5, &METADATA.option(), &[9; 60]);
    assert!(matches!(decapsulate(&right), Payload::Frame { .. }));
    for cut in 0..BASE_LEN + OPTION_LEN {
        assert_eq!(decapsulate(&right[..cut]), Payload::Malformed, "{cut} bytes");
    }
    let changed = |at: usize, value: u8| {
        let mut bytes = right.clone();
        bytes[at] = value;
        bytes
    };
    for (why, bytes) in [
        ("version 1", changed(0, 0x45)),
        ("not Ethernet", changed(3, 0x59)),
        ("IPv4", [&[0, 0, 8, 0, 0, 0, 5, 0][..], &[9; 60]].concat()),
        ("an option that ends behind the options", changed(BASE_LEN + 3, 5)),
        ("options that do not fill their room", changed(BASE_LEN + 3, 3)),
        ("options that are longer than the datagram", changed(0, 0x3f)),
        ("a critical option that is not known", datagram(5, &foreign(0x81, 1), &[9; 60])),
        (
            "a critical option behind ours",
            datagram(5, &[&METADATA.option()[..], &foreign(0xff, 0)].concat(), &[9; 60]),
        ),
    ] {
        assert_eq!(decapsulate(&bytes), Payload::Malformed, "{why}");
    }
    // The critical bit of the header alone says that there may be one: all options are looked at.
    assert!(matches!(decapsulate(&changed(1, 0x40)), Payload::Frame { .. }));
    assert_eq!(decapsulate(&changed(1, 0x80)), Payload::Control);
    assert!(matches!(decapsulate(&changed(1, 0x3f)), Payload::Frame { .. }), "reserved bits");
    assert!(matches!(decapsulate(&changed(7, 0xff)), Payload::Frame { .. }), "reserved byte");
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        vni in 0..=VNI_MAX, time_ns: u64, wire_len: u32, direction in 0_u16..3, ifindex: u32,
        frame in prop::collection::vec(any::<u8>(), 0..100),
        before in prop::collection::vec((0_u8..0x80, 0_u8..4), 0..3),
    ) {
        let metadata = Metadata { time_ns, wire_len, direction, ifindex };
        let mut options: Vec<u8> = before.iter().flat_map(|&(kind, words)| foreign(kind, words)).collect();
        options.extend(metadata.option());
        let bytes = datagram(vni, &options, &frame);
        let expected = Metadata { wire_len: wire_len.min(WIRE_LEN_MAX), ..metadata };
        prop_assert_eq!(
            decapsulate(&bytes),
            Payload::Frame { vni, metadata: Some(expected), frame: &frame }
        );
    }

    #[test]
    fn anything_may_come(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        match decapsulate(&bytes) {
            Payload::Frame { vni, frame, .. } => {
                prop_assert!(vni <= VNI_MAX);
                prop_assert!(bytes.ends_with(frame) && frame.len() + BASE_LEN <= bytes.len());
            }
            Payload::Control | Payload::Malformed => {}
        }
    }

    /// Mostly right, so that the options are reached.
    #[test]
    fn damage_anywhere_is_survived(
        at in 0..BASE_LEN + 3 * OPTION_LEN, value: u8, cut in 0..BASE_LEN + 3 * OPTION_LEN + 60
    ) {
        let options = [METADATA.option(), METADATA.option(), METADATA.option()].concat();
        let mut bytes = datagram(5, &options, &[9; 60]);
        bytes[at] = value;
        let _ = decapsulate(&bytes);
        let _ = decapsulate(&bytes[..cut]);
    }
}
