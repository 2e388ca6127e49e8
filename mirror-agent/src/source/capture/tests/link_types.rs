use super::{
    written::{COOKED, COOKED_2, ETHERNET, LOOP, NULL, RAW, Written, cooked, cooked_2},
    *,
};

const IPV4: [u8; 20] = [0x45, 0, 0, 20, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
const IPV6: [u8; 4] = [0x60, 1, 2, 3];
const MAC: [u8; 6] = [0, 1, 2, 3, 4, 5];

/// One packet, 1000 bytes longer on the wire than it was captured.
fn seen(big: bool, link_type: u32, data: &[u8]) -> Seen {
    let mut capture = Written::pcap(big, false, link_type);
    capture.record(1, 2, data.len() as u32 + 1000, data);
    packets(&capture.bytes).remove(0)
}

fn header(destination: [u8; 6], source: [u8; 6], ethertype: u16) -> Vec<u8> {
    [&destination[..], &source, &ethertype.to_be_bytes()].concat()
}

/// The header that packets without one get.
fn synthetic(ethertype: u16) -> Vec<u8> {
    header([2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 1], ethertype)
}

/// Asserts that `data` becomes `frame`, and that what was not captured is neither more nor less than before.
fn assert_frame(link_type: u32, data: &[u8], frame: &[u8]) {
    let seen = seen(false, link_type, data);
    assert_eq!(seen.frame.as_deref(), Ok(frame), "link type {link_type}");
    assert_eq!(seen.original_len as usize, frame.len() + 1000);
}

fn unplayable(link_type: u32, data: &[u8]) -> Unplayable {
    let seen = seen(false, link_type, data);
    assert_eq!(seen.original_len as usize, data.len() + 1000);
    seen.frame.unwrap_err()
}

#[test]
fn ethernet_stays_as_it_is() {
    assert_frame(ETHERNET, &[7; 14], &[7; 14]);
    assert_eq!(unplayable(ETHERNET, &[7; 13]), Unplayable::TooShort { captured: 13, header: 14 });
    for link_type in [ETHERNET, RAW, NULL, COOKED, COOKED_2] {
        assert_eq!(unplayable(link_type, &[]), Unplayable::Empty);
    }
    // The bits for the check sequence are none of the link type.
    assert_frame(0x2400_0001, &[7; 14], &[7; 14]);
}

#[test]
fn raw_ip() {
    for link_type in [RAW, 12, 14, 228] {
        assert_frame(link_type, &IPV4, &[synthetic(0x0800), IPV4.to_vec()].concat());
    }
    for link_type in [RAW, 12, 14, 229] {
        assert_frame(link_type, &IPV6, &[synthetic(0x86dd), IPV6.to_vec()].concat());
    }
    assert_eq!(unplayable(RAW, &[0x50]), Unplayable::IpVersion(5));
    assert_eq!(unplayable(RAW, &[0x50]).to_string(), "IP version 5 is neither 4 nor 6");
}

#[test]
fn bsd_loopback() {
    let with = |family: [u8; 4], payload: &[u8]| [&family[..], payload].concat();
    let v4 = [synthetic(0x0800), IPV4.to_vec()].concat();
    for big in [false, true] {
        for family in [[2, 0, 0, 0], [0, 0, 0, 2]] {
            let seen = seen(big, NULL, &with(family, &IPV4));
            assert_eq!(seen.frame.as_ref(), Ok(&v4));
            assert_eq!(seen.original_len as usize, v4.len() + 1000);
        }
    }
    assert_frame(LOOP, &with([0, 0, 0, 2], &IPV4), &v4);
    for family in [10, 24, 28, 30] {
        let v6 = [synthetic(0x86dd), IPV6.to_vec()].concat();
        assert_frame(NULL, &with([family, 0, 0, 0], &IPV6), &v6);
        assert_frame(LOOP, &with([0, 0, 0, family], &IPV6), &v6);
    }
    assert_eq!(unplayable(NULL, &[7, 0, 0, 0]), Unplayable::UnknownFamily(7));
    assert_eq!(unplayable(NULL, &[0, 0, 0, 7]), Unplayable::UnknownFamily(7));
    assert_eq!(unplayable(LOOP, &[2, 0, 0, 0]), Unplayable::UnknownFamily(0x0200_0000));
    assert_eq!(unplayable(NULL, &[2, 0]), Unplayable::TooShort { captured: 2, header: 4 });
}

/// Both versions of a cooked packet, with their link types.
fn both(
    packet_type: u8,
    hardware: u16,
    address: &[u8],
    protocol: u16,
    payload: &[u8],
) -> [(u32, Vec<u8>); 2] {
    [
        (COOKED, cooked(packet_type.into(), hardware, address, protocol, payload)),
        (COOKED_2, cooked_2(packet_type, hardware, address, protocol, payload)),
    ]
}

#[test]
fn cooked_packets() {
    let destination = [2, 0, 0, 0, 0, 2];
    for (link_type, data) in both(0, 1, &MAC, 0x0800, &IPV4) {
        assert_frame(link_type, &data, &[header(destination, MAC, 0x0800), IPV4.to_vec()].concat());
    }
    for (link_type, data) in both(1, 1, &MAC, 0x0806, &[1; 28]) {
        assert_frame(link_type, &data, &[header([0xff; 6], MAC, 0x0806), vec![1; 28]].concat());
    }
    // A point-to-point interface has no addresses, InfiniBand has long ones.
    for (link_type, data) in
        both(0, 65534, &[], 0x86dd, &IPV6).into_iter().chain(both(0, 32, &[9; 8], 0x86dd, &IPV6))
    {
        assert_frame(link_type, &data, &[synthetic(0x86dd), IPV6.to_vec()].concat());
    }
    // A VLAN tag goes on by itself.
    for (link_type, data) in both(0, 1, &MAC, 0x8100, &[0, 5, 0x08, 0, 0x45]) {
        assert_frame(link_type, &data, &[header(destination, MAC, 0x8100), vec![0, 5, 8, 0, 0x45]].concat());
    }
}

#[test]
fn cooked_packets_know_their_direction() {
    for (packet_type, expected) in [
        (0, Direction::Ingress),
        (1, Direction::Ingress),
        (2, Direction::Ingress),
        (3, Direction::Ingress),
        (4, Direction::Egress),
    ] {
        for (link_type, data) in both(packet_type, 1, &MAC, 0x0800, &IPV4) {
            assert_eq!(seen(true, link_type, &data).direction, Some(expected));
        }
    }
    // The flags of the block are nearer to the interface.
    let mut capture = Written::pcapng(false);
    let flags = capture.flags(1);
    capture.interface(COOKED, 0, &[]).enhanced(0, 1, 36, &cooked(4, 1, &MAC, 0x0800, &IPV4), &[flags]);
    assert_eq!(packets(&capture.bytes)[0].direction, Some(Direction::Ingress));
}

#[test]
fn cooked_packets_of_ieee_802_3() {
    for protocol in [0x0001, 0x0004] {
        for (link_type, data) in both(0, 1, &MAC, protocol, &[0x42; 38]) {
            // The length is that on the wire.
            assert_frame(link_type, &data, &[header([2, 0, 0, 0, 0, 2], MAC, 1038), vec![0x42; 38]].concat());
        }
        for (link_type, data) in both(0, 1, &MAC, protocol, &[0x42; 501]) {
            assert_eq!(unplayable(link_type, &data), Unplayable::TooLongForLength(1501));
        }
    }
}

#[test]
fn cooked_packets_that_ethernet_does_not_carry() {
    for (link_type, data) in both(0, 280, &[], 0x000c, &[1; 16]) {
        assert_eq!(unplayable(link_type, &data), Unplayable::ProtocolWithoutEthertype(12));
        assert_eq!(unplayable(link_type, &data).to_string(), "protocol 0x000c has no Ethernet type");
    }
    for (link_type, data) in both(0, 824, &[], 0x0800, &[1; 16]) {
        assert_eq!(unplayable(link_type, &data), Unplayable::HardwareWithoutEthertype(824));
    }
    for (link_type, header) in [(COOKED, 16), (COOKED_2, 20)] {
        let data = vec![0; header as usize - 1];
        assert_eq!(unplayable(link_type, &data), Unplayable::TooShort { captured: header - 1, header });
    }
}
