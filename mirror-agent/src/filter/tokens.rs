//! The words of an expression, as scanner.l of libpcap takes it apart: to find host names before anybody is asked for
//! their address, and to say where a mistake is.

use std::{net::Ipv6Addr, ops::Range};

/// A word or a sign.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token<'a> {
    /// As it is written.
    pub text: &'a str,
    /// Where it begins, in bytes of the expression.
    pub at: usize,
}

impl Token<'_> {
    /// Its place in the expression.
    pub fn range(&self) -> Range<usize> {
        self.at..self.at + self.text.len()
    }
}

/// Signs of two characters; all others have one.
const PAIRS: [&str; 8] = ["<=", ">=", "!=", "==", "<<", ">>", "&&", "||"];

/// Takes an expression apart.
pub fn tokens(expression: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(first) = expression[at..].chars().next() {
        let rest = &expression[at..];
        if first.is_whitespace() {
            at += first.len_utf8();
            continue;
        }
        let len = address(rest)
            .or_else(|| word(rest))
            .or_else(|| PAIRS.iter().any(|pair| rest.starts_with(pair)).then_some(2))
            .unwrap_or(first.len_utf8());
        tokens.push(Token { text: &rest[..len], at });
        at += len;
    }
    tokens
}

/// Length of an address with colons in it at the beginning: an expression has colons of its own.
fn address(text: &str) -> Option<usize> {
    let len = text.find(|c: char| !c.is_ascii_hexdigit() && !matches!(c, ':' | '.')).unwrap_or(text.len());
    let address = &text[..len];
    let groups = || address.split(':');
    let is_mac = groups().count() == 6 && groups().all(|group| matches!(group.len(), 1 | 2));
    (address.contains(':') && (is_mac || address.parse::<Ipv6Addr>().is_ok())).then_some(len)
}

/// Length of a word at the beginning: a name, a number, an address with points, or anything behind a backslash.
fn word(text: &str) -> Option<usize> {
    if let Some(rest) = text.strip_prefix('\\') {
        let len = rest.find(|c: char| c.is_whitespace() || "!()".contains(c)).unwrap_or(rest.len());
        return (len > 0).then_some(1 + len);
    }
    let is_inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let start = if text.starts_with('$') { 1 } else { 0 };
    let len = text[start..].find(|c| !is_inner(c)).unwrap_or(text.len() - start);
    // It begins with a letter or digit, and ends with one, or with a point.
    let inner = &text[start..start + len];
    let len = inner.trim_end_matches(['-', '_']).len();
    (len > 0 && inner.starts_with(|c: char| c.is_ascii_alphanumeric())).then_some(start + len)
}

/// What a word is understood as, until another one says something else.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A host or a network.
    Place,
    /// A port, a protocol, or what belongs to a keyword of its own: found without a network.
    Other,
}

/// Words that say of what kind the names behind them are.
const PLACES: [&str; 3] = ["host", "net", "gateway"];
const OTHERS: [&str; 4] = ["port", "portrange", "proto", "protochain"];

/// Words that say something of the next word only: it is a name of theirs.
const LEADERS: [&str; 17] = [
    "llc",
    "ifname",
    "on",
    "rset",
    "ruleset",
    "reason",
    "action",
    "type",
    "subtype",
    "dir",
    "direction",
    "vpi",
    "vci",
    "rnr",
    "rulenum",
    "srnr",
    "subrulenum",
];

/// The language's own words, from scanner.l of libpcap 1.10.
const KEYWORDS: &[&str] = &[
    "aarp",
    "action",
    "addr1",
    "addr2",
    "addr3",
    "addr4",
    "address1",
    "address2",
    "address3",
    "address4",
    "ah",
    "and",
    "arp",
    "atalk",
    "bcc",
    "broadcast",
    "byte",
    "carp",
    "clnp",
    "connectmsg",
    "csnp",
    "decnet",
    "dir",
    "direction",
    "dpc",
    "dst",
    "es-is",
    "esis",
    "esp",
    "ether",
    "fddi",
    "fisu",
    "gateway",
    "geneve",
    "greater",
    "hdpc",
    "hfisu",
    "hlssu",
    "hmsu",
    "hopc",
    "host",
    "hsio",
    "hsls",
    "icmp",
    "icmp6",
    "ifindex",
    "ifname",
    "igmp",
    "igrp",
    "iih",
    "ilmic",
    "inbound",
    "ip",
    "ip6",
    "ipx",
    "is-is",
    "isis",
    "iso",
    "l1",
    "l2",
    "lane",
    "lat",
    "len",
    "less",
    "link",
    "llc",
    "lsp",
    "lssu",
    "lsu",
    "mask",
    "metac",
    "metaconnect",
    "mopdl",
    "moprc",
    "mpls",
    "msu",
    "multicast",
    "net",
    "netbeui",
    "not",
    "oam",
    "oamf4",
    "oamf4ec",
    "oamf4sc",
    "on",
    "opc",
    "or",
    "outbound",
    "pim",
    "port",
    "portrange",
    "ppp",
    "pppoed",
    "pppoes",
    "proto",
    "protochain",
    "psnp",
    "ra",
    "radio",
    "rarp",
    "reason",
    "rnr",
    "rset",
    "ruleset",
    "rulenum",
    "sc",
    "sca",
    "sctp",
    "sio",
    "slip",
    "sls",
    "snp",
    "src",
    "srnr",
    "stp",
    "subrulenum",
    "subtype",
    "ta",
    "tcp",
    "tr",
    "type",
    "udp",
    "vci",
    "vlan",
    "vpi",
    "vrrp",
    "wlan",
];

/// Names of numbers: fields, types and flags.
fn is_constant(text: &str) -> bool {
    text.starts_with("icmp-")
        || text.starts_with("icmp6-")
        || text.starts_with("tcp-")
        || matches!(text, "icmptype" | "icmpcode" | "icmp6type" | "icmp6code" | "tcpflags")
}

/// The first word that libpcap would take for the name of a host or a network.
pub fn host_name<'t, 'a>(tokens: &'t [Token<'a>]) -> Option<&'t Token<'a>> {
    let mut kind = Kind::Place;
    // A word that qualifies begins anew, where a name, or what stands for it, came before.
    let mut is_qualified = false;
    let mut previous = "";
    let mut brackets = 0_usize;
    for token in tokens {
        let text = token.text;
        match text {
            "[" => brackets += 1,
            "]" => brackets = brackets.saturating_sub(1),
            _ => {}
        }
        let is_keyword = KEYWORDS.contains(&text);
        let follows_leader = LEADERS.contains(&previous) && !is_keyword;
        previous = text;
        if !text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '\\')
            || brackets > 0
            || follows_leader
        {
            continue;
        }
        match text {
            "and" | "or" | "not" => is_qualified = false,
            _ if is_keyword || is_constant(text) => {
                if !is_qualified {
                    kind = Kind::Place;
                }
                is_qualified = true;
                if PLACES.contains(&text) {
                    kind = Kind::Place;
                } else if OTHERS.contains(&text) {
                    kind = Kind::Other;
                }
            }
            _ => {
                if kind == Kind::Place && is_name(text) {
                    return Some(token);
                }
                is_qualified = false;
            }
        }
    }
    None
}

/// The first word that asks for what is not in a frame's bytes. libpcap would have the kernel's packet sockets answer.
pub fn of_metadata<'t, 'a>(tokens: &'t [Token<'a>]) -> Option<&'t Token<'a>> {
    tokens.iter().find(|token| matches!(token.text, "inbound" | "outbound" | "ifindex"))
}

/// Whether a word that is none of the language's is a name, and no number or address.
fn is_name(text: &str) -> bool {
    let text = text.strip_prefix('\\').unwrap_or(text);
    // One number, or up to four with points between them; libpcap has hexadecimal ones too.
    let is_digits = |digits: &str, is_digit: fn(&u8) -> bool| {
        !digits.is_empty() && digits.as_bytes().iter().all(is_digit)
    };
    let is_number = |text: &str| match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => is_digits(digits, u8::is_ascii_hexdigit),
        None => is_digits(text, u8::is_ascii_digit),
    };
    let is_dotted = text.split('.').count() <= 4 && text.split('.').all(is_number);
    // Addresses of Ethernet, in the three ways that have no colon.
    let is_hex = |group: &str, max: usize| {
        (1..=max).contains(&group.len()) && group.bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    let groups = |sign: char, count: usize, max: usize| {
        text.split(sign).count() == count && text.split(sign).all(|group| is_hex(group, max))
    };
    let is_mac =
        groups('-', 6, 2) || groups('.', 6, 2) || groups('.', 3, 4) || text.len() == 12 && is_hex(text, 12);
    !(text.contains(':') || is_dotted || is_mac)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn texts(expression: &str) -> Vec<&str> {
        tokens(expression).iter().map(|token| token.text).collect()
    }

    #[test]
    fn expressions_come_apart_as_libpcap_has_it() {
        assert_eq!(
            texts("tcp[2:2]>=80&&!udp"),
            ["tcp", "[", "2", ":", "2", "]", ">=", "80", "&&", "!", "udp"]
        );
        assert_eq!(texts("ether host 0:1:2:aa:bb:cc"), ["ether", "host", "0:1:2:aa:bb:cc"]);
        assert_eq!(texts("net 10.0.0.0/8"), ["net", "10.0.0.0", "/", "8"]);
        assert_eq!(
            texts("net fd00::/8 or ip6 host ::1"),
            ["net", "fd00::", "/", "8", "or", "ip6", "host", "::1"]
        );
        assert_eq!(texts("ether[0:4]=1"), ["ether", "[", "0", ":", "4", "]", "=", "1"]);
        assert_eq!(texts("portrange 1-2"), ["portrange", "1-2"]);
        assert_eq!(texts(r"ip proto \tcp)"), ["ip", "proto", r"\tcp", ")"]);
        assert_eq!(texts("tcp-syn|tcp-"), ["tcp-syn", "|", "tcp", "-"]);
        assert_eq!(texts("é ü"), ["é", "ü"]);
        assert!(texts("  ").is_empty());
    }

    #[test]
    fn names_of_hosts_and_networks_are_found() {
        for (expression, name) in [
            ("host www.example.org", Some("www.example.org")),
            ("host 10.0.0.1 or sensor", Some("sensor")),
            ("tcp port 80 and host gate-1", Some("gate-1")),
            ("net loopback", Some("loopback")),
            ("src foo and port 80", Some("foo")),
            ("tpc port 80", Some("tpc")),
            ("ether host box", Some("box")),
            ("gateway box", Some("box")),
            ("port 80 and src foo", Some("foo")),
            (r"host \host", Some(r"\host")),
            ("port http", None),
            ("tcp port http or https", None),
            ("portrange ftp-data-ftp", None),
            (r"ip proto \tcp or icmp", None),
            ("ip6 protochain ospf", None),
            ("tcp[tcpflags] & (tcp-syn|tcp-fin) != 0", None),
            ("icmp[icmptype] = icmp-echo", None),
            ("ether host 0-1-2-3-4-5 or ether host 0011.2233.4455 or ether host 001122334455", None),
            ("ether proto 0x88cc and less 100", None),
            ("wlan type mgt subtype beacon", None),
            ("host 10.1 or 0xa000001", None),
            ("llc ui and host box", Some("box")),
            ("llc and src box", Some("box")),
            ("host 1.2.3.4.5", Some("1.2.3.4.5")),
        ] {
            let tokens = tokens(expression);
            assert_eq!(host_name(&tokens).map(|token| token.text), name, "{expression}");
        }
    }
}
