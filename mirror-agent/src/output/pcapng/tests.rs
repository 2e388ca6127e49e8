#![allow(clippy::unwrap_used)]

use pcap_file::pcapng::{Block, PcapNgReader, blocks::enhanced_packet::EnhancedPacketOption};
use proptest::prelude::*;

use super::*;

/// A frame as it is read back, or is to be: interface name, time, direction bits, original length, bytes.
type Seen = (String, u64, Option<u32>, u32, Vec<u8>);

fn read_back(bytes: &[u8]) -> Vec<Seen> {
    let mut reader = PcapNgReader::new(bytes).unwrap();
    let mut seen = Vec::new();
    while let Some(block) = reader.next_block() {
        let (block, state) = block.unwrap();
        let Block::EnhancedPacket(packet) = block else {
            continue;
        };
        let interface = &state.interfaces()[packet.interface_id as usize];
        assert_eq!(interface.linktype, DataLink::ETHERNET);
        assert_eq!(interface.snaplen, 0);
        let name = interface.options.iter().find_map(|option| match option {
            InterfaceDescriptionOption::IfName(name) => Some(name.to_string()),
            _ => None,
        });
        let flags = packet.options.iter().find_map(|option| match option {
            EnhancedPacketOption::Flags(flags) => Some(*flags),
            _ => None,
        });
        let time_ns = u64::try_from(packet.timestamp.as_nanos()).unwrap();
        seen.push((name.unwrap(), time_ns, flags, packet.original_len, packet.data.to_vec()));
    }
    seen
}

fn capture() -> CaptureWriter<Vec<u8>> {
    CaptureWriter::new(Vec::new()).unwrap()
}

fn bytes(mut capture: CaptureWriter<Vec<u8>>) -> Vec<u8> {
    capture.flush().unwrap();
    capture.blocks.get_ref().get_ref().clone()
}

fn frame<'a>(data: &'a [&'a [u8]]) -> Frame<'a> {
    Frame { interface: 0, time_ns: 1, direction: None, original_len: 60, data }
}

#[test]
fn a_frame_in_parts_is_one_block() {
    let mut capture = capture();
    assert_eq!(capture.add_interface(Some("eth0")).unwrap(), 0);
    let header = bytes(capture).len();

    let mut capture = self::capture();
    capture.add_interface(Some("eth0")).unwrap();
    let sent = Frame {
        interface: 0,
        time_ns: 0x0102_0304_0506_0708,
        direction: Some(Direction::Outbound),
        original_len: 1514,
        data: &[b"ab", b"", b"cde"],
    };
    capture.write_frame(&sent).unwrap();
    #[rustfmt::skip]
    let block = [
        6, 0, 0, 0, 52, 0, 0, 0, 0, 0, 0, 0, // type, length, interface
        4, 3, 2, 1, 8, 7, 6, 5, // time, high half first
        5, 0, 0, 0, 0xea, 5, 0, 0, // captured, original
        b'a', b'b', b'c', b'd', b'e', 0, 0, 0,
        2, 0, 4, 0, 2, 0, 0, 0, 0, 0, 0, 0, // epb_flags: outbound
        52, 0, 0, 0,
    ];
    assert_eq!(bytes(capture)[header..], block);
}

#[test]
fn interfaces_may_come_after_frames() {
    let mut capture = capture();
    capture.add_interface(Some("first")).unwrap();
    capture.write_frame(&frame(&[b"one"])).unwrap();
    let second = capture.add_interface(Some("second")).unwrap();
    capture.write_frame(&Frame { interface: second, ..frame(&[b"two"]) }).unwrap();
    let seen = read_back(&bytes(capture));
    assert_eq!(seen[0], ("first".into(), 1, None, 60, b"one".to_vec()));
    assert_eq!(seen[1], ("second".into(), 1, None, 60, b"two".to_vec()));
}

#[test]
fn what_no_reader_would_take_is_refused_and_nothing_written() {
    let mut capture = capture();
    let refused = |result: io::Result<()>| result.unwrap_err().kind() == io::ErrorKind::InvalidInput;
    assert!(refused(capture.write_frame(&frame(&[b"no interface yet"]))));
    capture.add_interface(Some("eth0")).unwrap();
    assert!(refused(capture.write_frame(&frame(&[&[0; 61]]))), "more captured than there was");
    assert!(refused(capture.add_interface(Some(&"x".repeat(70_000))).map(drop)));
    assert_eq!(capture.interface_count(), 1);
    capture.write_frame(&frame(&[b"good"])).unwrap();
    assert_eq!(read_back(&bytes(capture)).len(), 1);
}

#[test]
fn a_full_disk_is_reported_by_flush() {
    let mut capture = CaptureWriter::new(File::create("/dev/full").unwrap()).unwrap();
    capture.add_interface(Some("eth0")).unwrap();
    capture.write_frame(&frame(&[b"data"])).unwrap();
    assert_eq!(capture.flush().unwrap_err().kind(), io::ErrorKind::StorageFull);
}

#[test]
fn a_closed_pipe_is_reported_as_such() {
    let (reader, writer) = io::pipe().unwrap();
    drop(reader);
    let mut capture = CaptureWriter::new(writer).unwrap();
    assert_eq!(capture.flush().unwrap_err().kind(), io::ErrorKind::BrokenPipe);
}

prop_compose! {
    fn any_frame()(
        interface in 0..3_u32,
        time_ns in any::<u64>(),
        direction in prop_oneof![Just(None), Just(Some(Direction::Inbound)), Just(Some(Direction::Outbound))],
        data in prop::collection::vec(any::<u8>(), 0..200),
        cut_off in 0..2000_u32,
        split in any::<prop::sample::Index>(),
    ) -> (u32, u64, Option<Direction>, Vec<u8>, u32, usize) {
        let split = split.index(data.len() + 1);
        (interface, time_ns, direction, data, cut_off, split)
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(frames in prop::collection::vec(any_frame(), 0..20)) {
        let names = ["eth0", "vxlan4242", "grün"];
        let write = || {
            let mut capture = capture();
            for name in names {
                capture.add_interface(Some(name)).unwrap();
            }
            for (interface, time_ns, direction, data, cut_off, split) in &frames {
                let (head, tail) = data.split_at(*split);
                let original_len = data.len() as u32 + cut_off;
                let (interface, time_ns, direction) = (*interface, *time_ns, *direction);
                capture.write_frame(&Frame { interface, time_ns, direction, original_len, data: &[head, tail] }).unwrap();
            }
            bytes(capture)
        };
        let expected = frames.iter().map(|(interface, time_ns, direction, data, cut_off, _)| {
            let flags = direction.map(|direction| if direction == Direction::Inbound { 1 } else { 2 });
            (names[*interface as usize].to_owned(), *time_ns, flags, data.len() as u32 + cut_off, data.clone())
        });
        prop_assert_eq!(read_back(&write()), expected.collect::<Vec<Seen>>());
        prop_assert_eq!(write(), write(), "the same frames give the same bytes");
    }
}
