"""Writes a capture of varied frames: frames.py COUNT SEED FILE. The same arguments give the same file.

Frame number N has the time N seconds, so that it is known again in any part of the capture. scapy makes a few hundred
frames of all kinds; the others are made of them: cut, padded, tagged, with fields changed.
"""

import logging
import random
import struct
import sys

logging.getLogger("scapy").setLevel(logging.ERROR)
from scapy.all import (
    AH, ARP, BOOTP, DHCP, DNS, DNSQR, Dot1AD, Dot1Q, Dot3, ESP, Ether, GRE, ICMP, ICMPv6EchoRequest,
    ICMPv6ND_NA, ICMPv6ND_NS, ICMPv6ND_RA, IP, IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment, IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting, IPOption_NOP, LLC, PPPoE, PPPoED, Raw, SCTP, SNAP, STP, TCP, UDP, VXLAN, raw,
)
from scapy.contrib.geneve import GENEVE
from scapy.contrib.mpls import MPLS

PORTS = [0, 20, 22, 23, 25, 53, 67, 68, 80, 81, 85, 110, 143, 443, 445, 546, 547, 1000, 1024, 1049, 2905, 4789, 5353, 6081,
         8080, 49152, 65535]
FLAGS = ["S", "SA", "A", "PA", "FA", "R", "RA", "", "U", "SEC", "FPU", "E", "C"]


def main():
    count, seed, path = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    rng = random.Random(seed)
    base = [frame for _ in range(40) for frame in kinds(rng)]
    frames = list(base)
    while len(frames) < count:
        frame = changed(rng, rng.choice(base))
        if not leads_in_circles(frame):
            frames.append(frame)
    frames = frames[:count]
    rng.shuffle(frames)
    with open(path, "wb") as out:
        out.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262144, 1))
        for number, frame in enumerate(frames):
            out.write(struct.pack("<IIII", number, 0, len(frame), len(frame)) + frame)


def kinds(rng):
    """One frame of each kind, with random fields."""
    def mac():
        return rng.choice(["02:00:00:00:00:0%d" % rng.randint(1, 4), "ff:ff:ff:ff:ff:ff", "33:33:00:00:00:01",
                           "01:00:5e:00:00:01", "0a:bc:de:f0:12:34"])

    def v4():
        if rng.random() < 0.4:
            return "10.0.0.%d" % rng.randint(1, 4)
        return rng.choice(["192.168.1.7", "10.0.0.200", "172.16.9.9", "224.0.0.1",
                           "255.255.255.255", "10.%d.%d.%d" % (rng.randint(0, 60), rng.randint(0, 6), rng.randint(0, 60)),
                           "128.1.2.3"])

    def v6():
        return rng.choice(["fd00::%d" % rng.randint(1, 3), "fe80::1", "ff02::1", "2001:db8:0:1::5", "::ffff:10.0.0.1"])

    def ether(**kw):
        return Ether(src="02:00:00:00:00:0%d" % rng.randint(1, 4), dst=mac(), **kw)

    def port():
        return rng.choice([53, 80, 443]) if rng.random() < 0.4 else rng.choice(PORTS)

    def payload():
        text = rng.choice([b"", b"GET / HTTP/1.1\r\n", b"HTTP/1.1 200 OK", b"\x00" * 30, b"a" * rng.randint(1, 1400)])
        return Raw(text)

    def ip(**kw):
        options = [IPOption_NOP()] * 4 if rng.random() < 0.2 else []
        return IP(src=v4(), dst=v4(), ttl=rng.choice([1, 6, 63, 64, 128, 255]), tos=rng.choice([0, 0xB8, 2]),
                  id=rng.randint(0, 65535), options=options, **kw)

    def ip6(**kw):
        return IPv6(src=v6(), dst=v6(), hlim=rng.choice([1, 64, 255]), tc=rng.choice([0, 0x3F]), **kw)

    def tcp():
        options = [("NOP", None)] * 4 if rng.random() < 0.3 else []
        return TCP(sport=port(), dport=port(), flags=rng.choice(FLAGS), seq=rng.getrandbits(32),
                   ack=rng.choice([0, rng.getrandbits(32)]), window=rng.choice([0, 500, 65535]), options=options)

    def udp():
        return UDP(sport=port(), dport=port())

    def dns():
        return UDP(sport=rng.choice([53, 40000]), dport=rng.choice([53, 5353])) / DNS(
            qr=rng.randint(0, 1), qd=DNSQR(qname="example.org"))

    def icmp():
        return ICMP(type=rng.choice([0, 3, 3, 4, 5, 8, 8, 8, 9, 10, 11, 12, 13, 17]), code=rng.choice([0, 1, 3]), seq=7)

    def transport():
        return rng.choice([tcp, udp, dns, icmp])() / payload()

    def packet():
        return rng.choice([lambda: ip() / transport(), lambda: ip6() / tcp() / payload(), lambda: ip6() / udp() / payload()])()

    def any_tag():
        return Dot1Q(vlan=rng.choice([0, 5, 100, 4095]), prio=rng.randint(0, 7))

    made = [
        ether() / ip() / tcp() / payload(),
        ether() / ip() / tcp() / payload(),
        ether() / ip() / udp() / payload(),
        ether() / ip() / dns(),
        ether() / ip() / icmp() / payload(),
        ether() / ip(flags="MF", frag=0) / tcp() / payload(),
        ether() / ip(frag=rng.randint(1, 100)) / Raw(b"\x00P" * 30),
        ether() / ip6() / tcp() / payload(),
        ether() / ip6() / udp() / payload(),
        ether() / ip6() / dns(),
        ether() / ip6() / ICMPv6EchoRequest(),
        ether() / ip6() / ICMPv6ND_NS() / Raw(b"\x00" * 8),
        ether() / ip6() / ICMPv6ND_NA(),
        ether() / ip6() / ICMPv6ND_RA(),
        ether() / ip6() / IPv6ExtHdrHopByHop() / udp() / payload(),
        ether() / ip6() / IPv6ExtHdrDestOpt() / IPv6ExtHdrRouting() / tcp() / payload(),
        ether() / ip6() / IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / IPv6ExtHdrDestOpt() / udp() / payload(),
        ether() / ip6() / IPv6ExtHdrFragment(m=1) / udp() / payload(),
        ether() / ip6(nh=59) / payload(),
        ether() / ip6() / IPv6ExtHdrDestOpt(nh=60) / Raw(bytes([17, 0, 1, 4, 0, 0, 0, 0]) + raw(udp())),
        ether() / ip() / AH(nh=6, payloadlen=4, icv=b"\x00" * 12) / tcp() / payload(),
        ether() / ip() / ESP(spi=1, data=b"x" * 40),
        ether() / ip6() / ESP(spi=2, data=b"x" * 40),
        ether() / ip(proto=47) / GRE() / ip() / tcp(),
        ether() / ip() / SCTP(sport=rng.choice([80, 2905]), dport=2905) / payload(),
        ether() / ip(proto=2) / Raw(bytes([rng.choice([0x16, 0x11]), 0, 0, 0, 224, 0, 0, 1])),
        ether() / ip(proto=103) / Raw(b"\x20\x00\x00\x00"),
        ether() / ip(proto=112) / Raw(b"\x21\x01\x64\x01"),
        ether() / ip(proto=9) / Raw(b"\x00" * 8),
        ether() / ip(proto=rng.randint(0, 255)) / payload(),
        ether() / IP(src="0.0.0.0", dst="255.255.255.255") / UDP(sport=68, dport=67) / BOOTP() / DHCP(options=["end"]),
        ether() / ARP(op=rng.choice([1, 2]), psrc=v4(), pdst=v4()),
        ether() / ARP(op=1, psrc="10.0.0.1", pdst=v4()),
        ether(type=0x8035) / ARP(op=3, psrc=v4(), pdst="10.0.0.1"),
        ether() / any_tag() / packet(),
        ether() / any_tag() / packet(),
        ether() / any_tag() / ARP(op=1, psrc=v4(), pdst=v4()),
        ether() / Dot1Q(vlan=100) / Dot1Q(vlan=rng.choice([5, 6])) / packet(),
        ether() / Dot1AD(vlan=rng.choice([5, 100])) / any_tag() / packet(),
        ether() / Dot1Q(vlan=1) / Dot1Q(vlan=2) / Dot1Q(vlan=3) / packet(),
        ether() / any_tag() / ip6() / IPv6ExtHdrHopByHop() / udp() / payload(),
        ether() / MPLS(label=rng.choice([16, 1000, 100000]), s=1) / packet(),
        ether() / MPLS(label=1000, s=0) / MPLS(label=rng.choice([2000, 3000]), s=1) / packet(),
        ether() / any_tag() / MPLS(label=1000, s=1) / packet(),
        ether(type=0x8863) / PPPoED(code=9, sessionid=0),
        ether(type=0x8864) / PPPoE(sessionid=rng.choice([1, 17])) / Raw(b"\x00\x21" + raw(ip() / transport())),
        ether(type=0x8864) / PPPoE(sessionid=17) / Raw(b"\x00\x57" + raw(ip6() / tcp() / payload())),
        ether(type=0x8100) / Raw(
            struct.pack(">HH", 5, 0x8864) + raw(PPPoE(sessionid=1) / Raw(b"\x00\x21" + raw(ip() / tcp())))),
        ether() / ip() / UDP(sport=7000, dport=6081) / GENEVE(vni=rng.choice([100, 200])) / ether() / packet(),
        ether() / ip6() / UDP(sport=7000, dport=6081) / GENEVE(vni=100) / ether() / ARP(),
        ether() / ip() / UDP(sport=7000, dport=4789) / VXLAN(vni=100) / ether() / packet(),
        Dot3(src="02:00:00:00:00:01", dst="01:80:c2:00:00:00") / LLC(dsap=0x42, ssap=0x42, ctrl=3) / STP(),
        Dot3(src="02:00:00:00:00:02", dst=mac()) / LLC(dsap=0xAA, ssap=0xAA, ctrl=3) / SNAP(OUI=0x080007, code=0x809B) /
        Raw(b"\x00" * 40),
        Dot3(src="02:00:00:00:00:02", dst=mac()) / LLC(dsap=0xE0, ssap=0xE0, ctrl=3) / Raw(b"\x00" * 40),
        Dot3(src="02:00:00:00:00:03", dst=mac()) / LLC(dsap=0xF0, ssap=0xF0, ctrl=rng.choice([3, 0xAF, 0xE3, 1, 5, 0, 2])) /
        Raw(b"\x00" * 30),
        Dot3(src="02:00:00:00:00:03", dst=mac()) / LLC(dsap=0xFE, ssap=0xFE, ctrl=3) /
        Raw(bytes([rng.choice([0x81, 0x82, 0x83]), 0, 0, 0, 16]) + b"\x00" * 40),
        ether(type=0x88CC) / Raw(b"\x02\x07\x04" + b"\x00" * 40),
        ether(type=rng.choice([0x6004, 0x6003, 0x809B, 0x80F3, 0x8137, 0x6001, 0x6002])) / Raw(b"\x00" * 46),
        ether(type=rng.randint(0x0600, 0xFFFF)) / payload(),
    ]
    return [raw(frame) for frame in made]


def changed(rng, frame):
    """A frame like this one."""
    frame = bytearray(frame)
    for _ in range(rng.choice([0, 1, 1, 2, 4])):
        at = rng.choice([rng.randrange(14), rng.randrange(12, 60), rng.randrange(len(frame))]) % len(frame)
        frame[at] = rng.choice([0, 1, 5, 6, 17, 0x45, 0x60, 0x81, 0xFF, rng.randrange(256), frame[at] ^ (1 << rng.randrange(8))])
    what = rng.random()
    if what < 0.15:
        frame = frame[:rng.randint(14, max(14, min(len(frame), 80)))]
    elif what < 0.25:
        frame = frame[:rng.randint(14, len(frame))]
    elif what < 0.35:
        frame += bytes(max(0, 60 - len(frame)))
    elif what < 0.45:
        frame[12:12] = struct.pack(">HH", rng.choice([0x8100, 0x8100, 0x88A8, 0x9100]), rng.choice([0, 5, 100, 0xA005, 0xFFFF]))
    elif what < 0.5:
        frame += rng.randbytes(rng.randint(1, 200))
    frame = frame[:1514]
    return bytes(frame)


def leads_in_circles(frame):
    """Whether `protochain` never ends: libpcap, and so tcpdump, follows an authentication header to where its length
    says, counted from the beginning of the packet, which may be before it."""
    return any(circles(frame, at, is_v6) for at in (14, 18) for is_v6 in (False, True))


def circles(frame, at, is_v6):
    try:
        kind, x = (frame[at + 6], 40) if is_v6 else (frame[at + 9], (frame[at] & 15) * 4)
        for _ in range(190):
            if is_v6 and kind in (0, 43, 44, 60):
                kind, x = frame[at + x], x + (frame[at + x + 1] + 1) * 8
            elif kind == 51:
                kind, x = frame[at + x], (frame[at + x + 1] + 2) * 4
            else:
                return False
        return True
    except IndexError:
        return False


if __name__ == "__main__":
    main()
