//! The UDP header, RFC 768.

/// Bytes of a UDP header.
pub const HEADER_LEN: usize = 8;

/// The largest payload over IPv4: 65,535 bytes of datagram less the IP and UDP headers.
pub const PAYLOAD_MAX_V4: usize = 65_535 - 20 - HEADER_LEN;

/// The largest payload over IPv6 without jumbograms: its length field leaves the IP header out.
pub const PAYLOAD_MAX_V6: usize = 65_535 - HEADER_LEN;

/// A header in wire order with no checksum. `payload_len` is at most [`PAYLOAD_MAX_V6`].
///
/// RFC 7348 section 5 wants the checksum of an outer header over IPv4 to be zero; over IPv6 whoever
/// puts the IP header in front fills it in.
#[must_use]
pub const fn header(source_port: u16, destination_port: u16, payload_len: usize) -> [u8; HEADER_LEN] {
    let [a, b] = source_port.to_be_bytes();
    let [c, d] = destination_port.to_be_bytes();
    let [e, f] = ((HEADER_LEN + payload_len) as u16).to_be_bytes();
    [a, b, c, d, e, f, 0, 0]
}
