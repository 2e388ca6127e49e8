//! Reads a frame's headers, from Ethernet down to the ports: one parser for the kernel and for user space.
//!
//! It is a struct in which every field always has a value, filled step by step by functions of which the long ones are
//! not inlined. That is for the kernel's verifier, which follows every path: what a function has written to
//! memory is one unknown number to its caller, and no longer a case for each way that led there. With all of them
//! inlined, the same lines take it more than the million steps that it has. Those that every frame comes by are inlined:
//! a call costs more than what it does.

use crate::{bytes::Bytes, ethernet, ip, udp};

/// How much of a datagram a packet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Part {
    /// All of it.
    Whole,
    /// Its beginning, which alone of all fragments has the ports.
    First,
    /// A later fragment.
    Later,
}

/// What the headers say.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headers {
    /// Sender: an IP address, IPv4 mapped into IPv6; the MAC address in a frame with no IP packet.
    pub source: ip::Address,
    /// Receiver, in the same way.
    pub destination: ip::Address,
    /// The number that a sender gives to all fragments of one datagram, 16 bits wide in IPv4; 0 in a
    /// whole one.
    pub fragment_id: u32,
    /// Offset of what has not been read: in the end the transport header of an IP packet, the end of the
    /// Ethernet header else.
    pub at: u32,
    /// Ports in host order; both 0 where the protocol has none, or this fragment does not carry them.
    pub source_port: u16,
    /// See `source_port`.
    pub destination_port: u16,
    /// The type behind the VLAN tags, in host order; below 0x600 it is a length, and 0 means that the
    /// frame ends inside its Ethernet header.
    pub ethertype: u16,
    /// The protocol behind the last IPv6 extension header that was looked through.
    pub protocol: u8,
    /// Whether there is a whole IP header.
    pub is_ip: bool,
    /// Whole, or which fragment.
    pub part: Part,
}

impl Headers {
    /// Nothing read.
    pub const NONE: Self = Self {
        source: [0; 4],
        destination: [0; 4],
        fragment_id: 0,
        at: 0,
        source_port: 0,
        destination_port: 0,
        ethertype: 0,
        protocol: 0,
        is_ip: false,
        part: Part::Whole,
    };

    /// The headers of an Ethernet frame.
    #[must_use]
    pub fn of<B: Bytes>(frame: B) -> Self {
        let mut headers = Self::NONE;
        headers.read(frame);
        headers
    }

    /// Reads the headers of an Ethernet frame into `self`, which is [`Self::NONE`].
    #[inline(always)]
    pub fn read<B: Bytes>(&mut self, frame: B) {
        self.read_ethernet(frame);
        match self.ethertype {
            ethernet::IPV4 => self.read_v4(frame),
            ethernet::IPV6 => self.read_v6(frame),
            _ => {}
        }
        if self.is_ip {
            self.read_ports(frame);
        } else {
            self.read_stations(frame);
        }
    }

    /// Offset of the header that an ICMP error quotes: the start of what could not be delivered (RFC 792,
    /// RFC 4443 section 3), 8 bytes into the message and of the same version. 0 where none is quoted.
    #[inline(always)]
    pub fn quote<B: Bytes>(&self, frame: B) -> u32 {
        const INTO_MESSAGE: u32 = 8;
        if !matches!(self.protocol, ip::ICMP | ip::ICMPV6) || self.part == Part::Later {
            return 0;
        }
        let Some(kind) = frame.byte(self.at) else {
            return 0;
        };
        let is_error = match self.protocol {
            // Destination unreachable, source quench, redirect, time exceeded, parameter problem.
            ip::ICMP => matches!(kind, 3 | 4 | 5 | 11 | 12),
            // Destination unreachable, packet too big, time exceeded, parameter problem.
            _ => matches!(kind, 1..=4),
        };
        if is_error { self.at + INTO_MESSAGE } else { 0 }
    }

    /// Reads the headers of the packet that is quoted at offset `at` into `self`, which is that of the
    /// ICMP error. `false` where there is no whole IP header.
    #[inline(always)]
    pub fn read_quoted<B: Bytes>(&mut self, frame: B, at: u32) -> bool {
        let is_v4 = self.protocol == ip::ICMP;
        *self = Self::NONE;
        self.at = at;
        if is_v4 {
            self.read_v4(frame);
        } else {
            self.read_v6(frame);
        }
        if self.is_ip {
            self.read_ports(frame);
        }
        self.is_ip
    }

    /// Whether the frame begins or ends a TCP connection: SYN, FIN or RST is set (RFC 9293 section 3.1). Fragments do
    /// not, nor does what an ICMP error quotes.
    #[inline(always)]
    pub fn begins_or_ends<B: Bytes>(&self, frame: B) -> bool {
        const FIN_SYN_RST: u8 = 0b111;
        // Quoted headers have no type in front.
        self.is_ip
            && self.protocol == ip::TCP
            && self.part == Part::Whole
            && self.ethertype != 0
            && frame.byte(self.at + 13).is_some_and(|flags| flags & FIN_SYN_RST != 0)
    }

    /// Bytes of all headers up to TCP's or UDP's, which each segment of a super-frame has; with another protocol up
    /// to that one's.
    #[inline(always)]
    pub fn len<B: Bytes>(&self, frame: B) -> u32 {
        self.at
            + match self.protocol {
                // The upper half of the byte at 12 has the header's length in words.
                ip::TCP => frame.byte(self.at + 12).map_or(0, |byte| u32::from(byte >> 4) * 4),
                ip::UDP => udp::HEADER_LEN as u32,
                _ => 0,
            }
    }

    #[inline(always)]
    fn read_ethernet<B: Bytes>(&mut self, frame: B) {
        let mut at = ethernet::ADDRESSES_LEN;
        for _ in 0..=ethernet::TAGS_MAX {
            let Some(ethertype) = frame.half(at) else {
                self.ethertype = 0;
                return;
            };
            self.ethertype = ethertype;
            self.at = at + 2;
            if !matches!(ethertype, ethernet::VLAN | ethernet::SERVICE_VLAN | ethernet::OLD_QINQ) {
                return;
            }
            // Two bytes of control information, and then the type of what follows.
            at += ethernet::TAG_LEN;
        }
    }

    #[inline(never)]
    fn read_stations<B: Bytes>(&mut self, frame: B) {
        if self.ethertype == 0 {
            return;
        }
        let [a, b, c] = frame.words(0).unwrap_or([0; 3]);
        self.destination = [0, 0, a, b >> 16];
        self.source = [0, 0, b << 16 | c >> 16, c & 0xffff];
    }

    #[inline(always)]
    fn read_v4<B: Bytes>(&mut self, frame: B) {
        let Some([start, place, time_and_protocol, source, destination]) = frame.words(self.at) else {
            return;
        };
        let words = start >> 24 & 0x0f;
        if start >> 28 != 4 || words < 5 {
            return;
        }
        self.is_ip = true;
        self.source = ip::mapped(source);
        self.destination = ip::mapped(destination);
        self.protocol = (time_and_protocol >> 16) as u8;
        self.at += words * 4;
        const MORE_FRAGMENTS: u32 = 0x2000;
        const OFFSET: u32 = 0x1fff;
        if place & (MORE_FRAGMENTS | OFFSET) != 0 {
            self.fragment_id = place >> 16;
            self.part = if place & OFFSET == 0 { Part::First } else { Part::Later };
        }
    }

    #[inline(always)]
    fn read_v6<B: Bytes>(&mut self, frame: B) {
        self.read_v6_header(frame);
        if !self.is_ip {
            return;
        }
        for _ in 0..ip::EXTENSIONS_MAX {
            if !self.skip_extension(frame) {
                return;
            }
        }
    }

    #[inline(never)]
    fn read_v6_header<B: Bytes>(&mut self, frame: B) {
        let Some([start, length_and_next, a, b, c, d, e, f, g, h]) = frame.words(self.at) else {
            return;
        };
        if start >> 28 != 6 {
            return;
        }
        self.is_ip = true;
        self.source = [a, b, c, d];
        self.destination = [e, f, g, h];
        self.protocol = (length_and_next >> 8) as u8;
        self.at += 40;
    }

    /// Looks through one IPv6 extension header. `false` where there is none, or nothing behind it.
    #[inline(never)]
    fn skip_extension<B: Bytes>(&mut self, frame: B) -> bool {
        match self.protocol {
            ip::FRAGMENT => {
                let Some([next_and_place, id]) = frame.words(self.at) else {
                    return false;
                };
                const OFFSET: u32 = 0xfff8;
                const MORE_FRAGMENTS: u32 = 1;
                // With neither it is an atomic fragment, a whole datagram (RFC 6946).
                if next_and_place & (OFFSET | MORE_FRAGMENTS) != 0 {
                    self.fragment_id = id;
                    self.part = if next_and_place & OFFSET == 0 { Part::First } else { Part::Later };
                }
                self.protocol = (next_and_place >> 24) as u8;
                self.at += 8;
                self.part != Part::Later
            }
            ip::HOP_BY_HOP
            | ip::ROUTING
            | ip::DESTINATION_OPTIONS
            | ip::MOBILITY
            | ip::HOST_IDENTITY
            | ip::SHIM6
            | ip::AUTHENTICATION => {
                let Some(next_and_length) = frame.half(self.at) else {
                    return false;
                };
                let length = u32::from(next_and_length & 0xff);
                self.at += if self.protocol == ip::AUTHENTICATION {
                    // RFC 4302 section 2.2 counts in words, less two.
                    (length + 2) * 4
                } else {
                    // RFC 8200 section 4 counts in units of 8 octets, less the first.
                    (length + 1) * 8
                };
                self.protocol = (next_and_length >> 8) as u8;
                true
            }
            _ => false,
        }
    }

    #[inline(always)]
    fn read_ports<B: Bytes>(&mut self, frame: B) {
        let has_ports = matches!(self.protocol, ip::TCP | ip::UDP | ip::SCTP | ip::DCCP | ip::UDP_LITE);
        if self.part == Part::Later || !has_ports {
            return;
        }
        let [ports] = frame.words(self.at).unwrap_or([0]);
        self.source_port = (ports >> 16) as u16;
        self.destination_port = ports as u16;
    }
}
