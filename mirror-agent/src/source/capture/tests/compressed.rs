use super::{
    written::{ETHERNET, Written, gzip, zstd, zstd_skippable},
    *,
};

fn capture() -> Vec<u8> {
    let mut capture = Written::pcap(false, false, ETHERNET);
    for number in 0..20_u8 {
        // Not compressible, so that what is cut off has packets in it.
        let data: Vec<u8> =
            (0..60_u8).map(|at| at.wrapping_mul(97).wrapping_add(number.wrapping_mul(at))).collect();
        capture.record(number.into(), 2, 60, &data);
    }
    capture.bytes
}

#[test]
fn members_and_frames_are_one_capture() {
    let capture = capture();
    let expected = packets(&capture);
    assert_eq!(expected.len(), 20);
    let (start, end) = capture.split_at(777);
    assert_eq!(packets(&gzip(&capture)), expected);
    assert_eq!(packets(&[gzip(start), gzip(&[]), gzip(end)].concat()), expected);
    assert_eq!(packets(&zstd(&capture)), expected);
    let skipped = zstd_skippable(&[1; 100]);
    assert_eq!(
        packets(&[skipped.clone(), zstd(start), skipped.clone(), zstd(end), skipped].concat()),
        expected
    );
}

#[test]
fn compressed_nothing() {
    assert_eq!(damage(&gzip(&[])).1, "at byte 0: the input is empty");
    assert_eq!(damage(&zstd(&[])).1, "at byte 0: the input is empty");
    assert_eq!(damage(&zstd_skippable(&[1, 2, 3])).1, "at byte 0: the input is empty");
    assert_eq!(
        damage(&zstd(b"hello")).1,
        "at byte 0: the input is not a capture: it starts with 68 65 6c 6c"
    );
    // Compressed once, and not twice.
    assert_eq!(
        damage(&gzip(&gzip(b"hello"))).1,
        "at byte 0: the input is not a capture: it starts with 1f 8b 08 00"
    );
}

#[test]
fn compressed_data_that_ends_in_the_middle() {
    let capture = capture();
    let cut = gzip(&capture);
    let (count, end) = damage(&cut[..cut.len() - 200]);
    assert!((5..20).contains(&count), "{count}");
    assert!(end.ends_with("the gzip data ends in the middle"), "{end}");
    let (count, end) = damage(&cut[..cut.len() - 1]);
    assert_eq!(count, 20);
    let at = capture.len();
    assert_eq!(end, format!("at byte {at}: the gzip data ends in the middle"));
    assert_eq!(damage(&cut[..2]), (0, "at byte 0: the gzip data ends in the middle".into()));

    let cut = [zstd(&capture[..777]), zstd(&capture[777..])].concat();
    let (count, end) = damage(&cut[..cut.len() - 1]);
    assert!((9..=20).contains(&count), "{count}");
    assert!(end.ends_with("the zstd data ends in the middle"), "{end}");
    assert_eq!(damage(&cut[..5]), (0, "at byte 0: the zstd data ends in the middle".into()));
}

#[test]
fn compressed_data_that_is_wrong() {
    // A capture of 200 times 76 bytes.
    let mut capture = Written::pcap(false, false, ETHERNET);
    for _ in 0..200 {
        capture.record(1, 2, 60, &[7; 60]);
    }
    for (compressed, name) in [(gzip(&capture.bytes), "gzip"), (zstd(&capture.bytes), "zstd")] {
        // The check sum, which comes last.
        let mut wrong = compressed.clone();
        let at = wrong.len() - if name == "gzip" { 8 } else { 1 };
        wrong[at] ^= 1;
        let (packets, _, end) = read_in_parts(&wrong, usize::MAX, READ_LEN);
        // All but what one step may lose.
        assert!(packets.len() >= 200 - 4096 / 76 - 1, "{}", packets.len());
        let end = end.unwrap();
        assert!(end.contains(&format!("the {name} data is wrong: ")), "{end}");
        // Something else behind it.
        let (count, end) = damage(&[&compressed[..], b"something else"].concat());
        assert_eq!(count, 200);
        assert!(end.contains(&format!("the {name} data is wrong: ")), "{end}");
    }
}

#[test]
fn a_zstd_window_beyond_the_limit() {
    let frame = |log: u8| [&[0x28, 0xb5, 0x2f, 0xfd, 0, (log - 10) << 3][..], &[1, 0, 0]].concat();
    assert_eq!(damage(&frame(27)).1, "at byte 0: the input is empty");
    let (_, end) = damage(&frame(28));
    assert!(end.starts_with("at byte 0: the zstd data is wrong: "), "{end}");
    assert!(end.contains("too much memory"), "{end}");
}

/// A pcapng capture of one block that is skipped, far longer than the memory for it.
#[test]
fn a_bomb_does_not_need_memory() {
    const LEN: usize = 64 << 20;
    let mut capture = Written::pcapng(false);
    capture.block(0xbad, &vec![0; LEN]).interface(ETHERNET, 0, &[]).enhanced(0, 1, 60, &[7; 60], &[]);
    let bomb = zstd(&capture.bytes);
    drop(capture);
    assert!(bomb.len() < 16 << 10);
    let mut reader = CaptureReader::from_reader(Box::new(Cursor::new(bomb)), READ_LEN);
    let packet = reader.next().unwrap().unwrap();
    assert_eq!(packet.position, 28 + 12 + LEN as u64 + 20);
    assert!(reader.next().unwrap().is_none());
    assert_eq!(reader.buffer_capacity(), READ_LEN);
}
