//! What is wrong with an expression, and where.
//!
//! libpcap says what, and never where. So it is asked again, with the first words only: the mistake is in the first word
//! that no continuation can make good, or that brings about the same message.

use std::fmt;

use super::{libpcap::Compiler, tokens::Token};

/// A wrong expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    expression: String,
    /// Where the wrong word begins, in bytes; the end of the expression where something is missing.
    at: usize,
    message: String,
}

/// What libpcap calls anything that is not of its language.
const SYNTAX: &str = "syntax error";

/// What may follow the first words of an expression, so that it is one. Among them is something for each place in
/// libpcap's grammar where a name, a number or an operator is wanted.
const CONTINUATIONS: &[&str] = &[
    "",
    "1",
    "1.2.3.4",
    "port 1",
    "host 1.2.3.4",
    "net 1.0.0.0",
    "tcp",
    "ip",
    ":1",
    "[0]",
    "[0] = 1",
    "= 1",
    "0] = 1",
    "/ 8",
    "0:1:2:3:4:5",
    "::1",
    "mask 255.0.0.0",
    "or tcp",
    "proto 6",
    "broadcast",
    "1-2",
    "a",
];

impl Mistake {
    /// A name that nobody is to be asked about.
    pub(super) fn host_name(expression: &str, name: &Token<'_>) -> Self {
        Self {
            expression: expression.to_owned(),
            at: name.at,
            message: format!(
                "{:?} is none of the language's words, and host names are not looked up: use an address",
                name.text
            ),
        }
    }

    /// What is not in a frame's bytes.
    pub(super) fn of_metadata(expression: &str, word: &Token<'_>) -> Self {
        let option = if word.text == "ifindex" { "--iface" } else { "--direction" };
        Self {
            expression: expression.to_owned(),
            at: word.at,
            message: format!("{} is not in a frame, and no filter of one: use {option}", word.text),
        }
    }

    /// Finds the place where `message`, which is libpcap's, comes from.
    pub(super) fn find(expression: &str, tokens: &[Token<'_>], message: String, compiler: &Compiler) -> Self {
        let wrong = if message == SYNTAX {
            tokens.iter().position(|token| !can_go_on(&expression[..token.range().end], compiler))
        } else {
            tokens.iter().position(|token| says(&expression[..token.range().end], &message, compiler))
        };
        let at = match wrong {
            Some(index) => tokens[index].at,
            None if message == SYNTAX => expression.trim_end().len(),
            None => tokens.last().map_or(0, |token| token.at),
        };
        let message = match wrong {
            None if message == SYNTAX => format!("{message}: something is missing at the end"),
            _ => message,
        };
        Self { expression: expression.to_owned(), at, message }
    }
}

/// Whether any continuation makes an expression of `start`.
fn can_go_on(start: &str, compiler: &Compiler) -> bool {
    CONTINUATIONS.iter().any(|continuation| {
        closings(&format!("{start} {continuation}"))
            .iter()
            .any(|whole| compiler.compile(whole).err().is_none_or(|message| message != SYNTAX))
    })
}

/// Whether `start` alone brings about `message`, but for brackets that are still open.
fn says(start: &str, message: &str, compiler: &Compiler) -> bool {
    closings(start).iter().any(|whole| compiler.compile(whole).err().is_some_and(|error| error == message))
}

/// Ways to close what is open: parentheses may be around a condition, or around a number.
fn closings(start: &str) -> Vec<String> {
    let mut open = String::new();
    for sign in start.chars() {
        match sign {
            '(' => open.insert(0, ')'),
            '[' => open.insert(0, ']'),
            ')' | ']' if open.starts_with(sign) => drop(open.remove(0)),
            _ => {}
        }
    }
    let mut ways = vec![format!("{start} {open}")];
    // The comparison comes where the innermost number has ended, or further out.
    for at in 0..=open.len() {
        let (inner, outer) = open.split_at(at);
        ways.push(format!("{start} {inner} = 1 {outer}"));
    }
    ways
}

/// The message, the line with the mistake, and a caret below it.
impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let begin = self.expression[..self.at].rfind('\n').map_or(0, |at| at + 1);
        let line = self.expression[begin..].lines().next().unwrap_or_default();
        let number = self.expression[..begin].matches('\n').count() + 1;
        let place = if self.expression.contains('\n') { format!("line {number}: ") } else { String::new() };
        // Tabs stay, so that the caret is below its word whatever their width.
        let blank = |c: char| if c == '\t' { '\t' } else { ' ' };
        let indent: String = self.expression[begin..self.at].chars().map(blank).collect();
        write!(f, "wrong filter: {place}{}\n    {line}\n    {indent}^", self.message)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use crate::filter::Filter;

    /// The word below which the caret is, and the message.
    fn mistake(expression: &str) -> (String, String) {
        let mistake = Filter::compile(expression).unwrap_err();
        let rest = &expression[mistake.at..];
        let word = rest.split_whitespace().next().unwrap_or_default();
        (word.to_owned(), mistake.message)
    }

    #[test]
    fn the_place_is_found() {
        for (expression, word, message) in [
            ("tcp prot 80", "prot", "\"prot\""),
            ("tcp port", "", "missing at the end"),
            ("(tcp port 80", "", "missing at the end"),
            ("tcp port 80)", ")", "syntax error"),
            ("tcp and and udp", "and udp", "syntax error"),
            ("port 80 or or udp", "or udp", "syntax error"),
            ("tcp port 70000", "70000", "70000"),
            ("tcp port nosuchservice and udp", "nosuchservice", "nosuchservice"),
            ("udp or tcp[0:3] = 1", "3]", "size"),
            ("tcp[0", "", "missing at the end"),
            ("tcp host 1.2.3.4", "1.2.3.4", "host"),
            ("host 1.2.3.4.5", "1.2.3.4.5", ""),
            ("net 10.0.0.1/8", "8", "non-network bits"),
            ("ip[0] = ", "", "missing at the end"),
            ("icmp[0] @ 3", "@", ""),
            ("gateway 1.2.3.4", "1.2.3.4", "gateway"),
            ("portrange 5-x", "5-x", "5-x"),
            ("vlan 5000", "5000", "5000"),
            ("ether host 1.2.3.4", "1.2.3.4", "link layer address"),
            ("ip proto nosuchproto", "nosuchproto", "nosuchproto"),
            ("tcp[tcpflags] & tcp-foo != 0", "tcp-foo", ""),
            ("less", "", "missing at the end"),
            ("not", "", "missing at the end"),
            ("tcp 80", "80", ""),
            ("tcp and inbound", "inbound", "use --direction"),
            ("ifindex 3 or tcp", "ifindex", "use --iface"),
        ] {
            let (found, said) = mistake(expression);
            println!("{}\n", Filter::compile(expression).unwrap_err());
            assert!(
                word.starts_with(&found) && (word.is_empty() == found.is_empty()),
                "{expression}: {found:?}: {said}"
            );
            assert!(said.contains(message), "{expression}: {said}");
        }
    }

    #[test]
    fn a_file_has_lines() {
        let mistake = Filter::compile("tcp port 80\n\tor udp prot 53\nor icmp").unwrap_err();
        let text = mistake.to_string();
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[0].contains("line 2: "), "{text}");
        assert_eq!(lines[1..], ["    \tor udp prot 53", "    \t       ^"]);
    }
}
