//! What tshark makes of a capture.

use std::{path::Path, process::Command};

use serde_json::Value;

use crate::command;

/// The chosen fields of every frame that `filter` lets through, one row a frame. Repeated fields
/// (`ip.src` of both IP headers) are joined with commas, outermost first.
///
/// # Panics
/// Where tshark fails.
#[must_use]
pub fn fields(capture: &Path, filter: &str, fields: &[&str], options: &[&str]) -> Vec<Vec<String>> {
    let mut tshark = Command::new("tshark");
    if !filter.is_empty() {
        tshark.args(["-Y", filter]);
    }
    rows(tshark, capture, fields, options)
}

/// As [`fields`], of every frame, with a rule such as `udp.port==99,vxlan`.
///
/// # Panics
/// Where tshark fails.
#[must_use]
pub fn fields_decoded_as(capture: &Path, rule: &str, fields: &[&str], options: &[&str]) -> Vec<Vec<String>> {
    let mut tshark = Command::new("tshark");
    tshark.args(["-d", rule]);
    rows(tshark, capture, fields, options)
}

fn rows(mut tshark: Command, capture: &Path, fields: &[&str], options: &[&str]) -> Vec<Vec<String>> {
    tshark.args(["-n", "-r"]).arg(capture).args(["-T", "fields", "-E", "separator=/t"]);
    for field in fields {
        tshark.args(["-e", field]);
    }
    for option in options {
        tshark.args(["-o", option]);
    }
    let output = command::run(&mut tshark);
    output.lines().map(|line| line.split('\t').map(str::to_owned).collect()).collect()
}

/// How many frames `filter` lets through.
///
/// # Panics
/// Where tshark fails.
#[must_use]
pub fn count(capture: &Path, filter: &str) -> usize {
    fields(capture, filter, &["frame.number"], &[]).len()
}

/// Writes `capture`, whatever its format, as a nanosecond pcap file.
///
/// # Panics
/// Where tshark cannot read it.
pub fn convert(capture: &Path, to: &Path) {
    let mut tshark = Command::new("tshark");
    command::run(tshark.arg("-r").arg(capture).args(["-F", "nsecpcap", "-w"]).arg(to));
}

/// The frames of a capture as they are on an Ethernet: what tshark finds behind other link layers, with an
/// Ethernet header from `destination` and, where the capture has none of six bytes, `source`.
///
/// # Panics
/// Where tshark cannot read it, or finds no network layer.
#[must_use]
pub fn as_ethernet(capture: &Path, destination: [u8; 6], source: [u8; 6]) -> Vec<Vec<u8>> {
    let mut tshark = Command::new("tshark");
    tshark.args(["-n", "-r"]).arg(capture).args(["-T", "json", "-x", "--no-duplicate-keys"]);
    // A datagram from pieces would be shown in place of its last one.
    tshark.args(["-o", "ip.defragment:FALSE", "-o", "ipv6.defragment:FALSE"]);
    let packets: Vec<Value> = serde_json::from_str(&command::run(&mut tshark)).expect("JSON of tshark");
    packets.iter().map(|packet| frame_of(&packet["_source"]["layers"], destination, source)).collect()
}

fn frame_of(layers: &Value, destination: [u8; 6], source: [u8; 6]) -> Vec<u8> {
    let frame = bytes(layers["frame_raw"][0].as_str().expect("frame_raw"));
    if layers.get("eth_raw").is_some() {
        return frame;
    }
    let starts = ["vlan_raw", "ip_raw", "ipv6_raw", "arp_raw"].into_iter().filter_map(|name| {
        let layer = layers.get(name)?;
        // Of a layer that is there twice: a list of such lists.
        layer[1].as_u64().or_else(|| layer[0][1].as_u64())
    });
    let packet = &frame[starts.min().unwrap_or_else(|| panic!("no network layer in {layers:#}")) as usize..];
    let cooked = &layers["sll"];
    // Of an address of another length: `field length invalid!`.
    let mac = cooked["sll.src.eth"].as_str().filter(|_| cooked["sll.halen"] == "6");
    let source = mac.map_or(source.to_vec(), |mac| bytes(&mac.replace(':', "")));
    let ethertype = match cooked["sll.etype"].as_str() {
        Some(ethertype) => u16::from_str_radix(ethertype.trim_start_matches("0x"), 16).expect("sll.etype"),
        None if packet[0] >> 4 == 6 => 0x86dd,
        None => 0x0800,
    };
    [&destination[..], &source, &ethertype.to_be_bytes(), packet].concat()
}

fn bytes(hex: &str) -> Vec<u8> {
    let (pairs, []) = hex.as_bytes().as_chunks::<2>() else { panic!("odd: {hex}") };
    let byte = |pair| u8::from_str_radix(std::str::from_utf8(pair).expect("hex"), 16).expect("hex");
    pairs.iter().map(|pair| byte(pair)).collect()
}

/// When each packet of a capture, whatever its format, was captured: nanoseconds since 1970.
///
/// # Panics
/// Where tshark cannot read it.
#[must_use]
pub fn times(capture: &Path) -> Vec<u64> {
    let rows = fields(capture, "", &["frame.time_epoch"], &[]);
    let time = |row: Vec<String>| {
        let (seconds, fraction) = row[0].split_once('.').expect("a time");
        assert_eq!(fraction.len(), 9, "nanoseconds: {row:?}");
        seconds.parse::<u64>().expect("seconds") * 1_000_000_000 + fraction.parse::<u64>().expect("ns")
    };
    rows.into_iter().map(time).collect()
}
