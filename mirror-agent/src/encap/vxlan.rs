//! VXLAN (RFC 7348) in UDP, as one header of 16 bytes.

use mirror_common::{flow, udp, vxlan};

/// Bytes in front of the inner frame: UDP and VXLAN.
pub const HEADERS_LEN: usize = udp::HEADER_LEN + vxlan::HEADER_LEN;

/// The outer headers from UDP on, of one destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encapsulation {
    port: u16,
    vxlan: [u8; vxlan::HEADER_LEN],
}

impl Encapsulation {
    /// To `port` of the sensor, in network `vni`.
    #[must_use]
    pub fn new(port: u16, vni: u32) -> Self {
        Self { port, vxlan: vxlan::header(vni) }
    }

    /// The headers for a frame of `frame_len` bytes, which belongs to the flow with this hash.
    #[must_use]
    pub fn headers(&self, flow_hash: u32, frame_len: usize) -> [u8; HEADERS_LEN] {
        let mut headers = [0; HEADERS_LEN];
        let (udp, vxlan) = headers.split_at_mut(udp::HEADER_LEN);
        udp.copy_from_slice(&udp::header(
            flow::source_port(flow_hash),
            self.port,
            vxlan::HEADER_LEN + frame_len,
        ));
        vxlan.copy_from_slice(&self.vxlan);
        headers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_in_wire_order() {
        let headers = Encapsulation::new(4789, 4242).headers(0x1_0003, 60);
        assert_eq!(
            headers,
            [0xc0, 0x03, 0x12, 0xb5, 0, 76, 0, 0, 0x08, 0, 0, 0, 0, 0x10, 0x92, 0],
            "source port 49155, port 4789, 8 + 8 + 60 bytes, no checksum, VNI 4242"
        );
    }
}
