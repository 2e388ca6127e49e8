#![allow(clippy::unwrap_used, reason = "tests")]
use proptest::prelude::*;

use super::*;

/// Writes BTF.
#[derive(Default)]
struct Writer {
    types: Vec<u8>,
    strings: Vec<u8>,
    count: u32,
}

impl Writer {
    fn new() -> Self {
        Self { strings: vec![0], ..Self::default() }
    }

    fn string(&mut self, text: &str) -> u32 {
        if text.is_empty() {
            return 0;
        }
        let at = self.strings.len() as u32;
        self.strings.extend_from_slice(text.as_bytes());
        self.strings.push(0);
        at
    }

    fn add(&mut self, name: &str, info: u32, size_or_type: u32, extra: &[u32]) -> u32 {
        let name = self.string(name);
        for word in [name, info, size_or_type].iter().chain(extra) {
            self.types.extend(word.to_ne_bytes());
        }
        self.count += 1;
        self.count
    }

    fn int(&mut self, name: &str, bytes: u32) -> u32 {
        self.add(name, kind::INT << 24, bytes, &[bytes * 8])
    }

    /// Members are name, type, and place.
    fn structure(&mut self, name: &str, kind: u32, kind_flag: bool, members: &[(&str, u32, u32)]) -> u32 {
        let extra: Vec<u32> = members
            .iter()
            .flat_map(|&(name, member_type, place)| [self.string(name), member_type, place])
            .collect();
        let info = u32::from(kind_flag) << 31 | kind << 24 | members.len() as u32;
        self.add(name, info, 0, &extra)
    }

    /// Constants are a name and a value.
    fn constants(&mut self, kind: u32, constants: &[(&str, u64)]) {
        let mut extra = Vec::new();
        for &(name, value) in constants {
            extra.extend([self.string(name), value as u32]);
            if kind == kind::ENUM64 {
                extra.push((value >> 32) as u32);
            }
        }
        self.add("", kind << 24 | constants.len() as u32, 8, &extra);
    }

    fn finish(self) -> Vec<u8> {
        let mut bytes = MAGIC.to_ne_bytes().to_vec();
        bytes.extend([1, 0]);
        let types = self.types.len() as u32;
        for word in [24, 0, types, types, self.strings.len() as u32] {
            bytes.extend(u32::to_ne_bytes(word));
        }
        bytes.extend(self.types);
        bytes.extend(self.strings);
        bytes
    }
}

fn example() -> Vec<u8> {
    let mut writer = Writer::new();
    let byte = writer.int("unsigned char", 1);
    let half = writer.int("unsigned short", 2);
    let alias = writer.add("__u16", kind::TYPEDEF << 24, half, &[]);
    let pointer = writer.add("", kind::PTR << 24, byte, &[]);
    // As compilers wrote a bit field before members said it: an integer of 2 bits, 5 bits in.
    let old_bits = writer.add("", kind::INT << 24, 1, &[5 << 16 | 2]);
    let bits = writer.structure("", kind::STRUCT, true, &[("a", byte, 5 << 24), ("b", byte, 2 << 24 | 5)]);
    let union = writer.structure("", kind::UNION, false, &[("", bits, 0), ("named", bits, 0)]);
    writer.constants(kind::ENUM, &[("ONE", 1), ("HIGHEST", 1 << 31)]);
    writer.constants(kind::ENUM64, &[("BEYOND", 1 << 32), ("SEVEN", 7)]);
    writer.structure(
        "example",
        kind::STRUCT,
        false,
        &[("first", pointer, 0), ("", union, 64), ("half", alias, 80), ("old", old_bits, 96)],
    );
    writer.finish()
}

#[test]
fn fields_are_found_where_they_are() {
    let bytes = example();
    let btf = Btf::parse(&bytes).unwrap();
    let example = btf.structure("example").unwrap();
    let field = |name| btf.field(example, name);
    assert_eq!(field("first"), Some(Field { offset: 0, bits: usize::BITS }));
    assert_eq!(field("b"), Some(Field { offset: 69, bits: 2 }), "two structs without a name further in");
    assert_eq!(field("half"), Some(Field { offset: 80, bits: 16 }), "through a typedef");
    assert_eq!(field("old"), Some(Field { offset: 101, bits: 2 }), "bit field in the older way");
    assert_eq!(field("missing"), None);
    assert!(btf.structure("missing").is_none());
}

#[test]
fn constants_are_found_by_name() {
    let bytes = example();
    let btf = Btf::parse(&bytes).unwrap();
    let names = ["ONE", "HIGHEST", "SEVEN", "EIGHT", ""];
    assert_eq!(names.map(|name| btf.constant(name)), [Some(1), Some(1 << 31), Some(7), None, None]);
}

#[test]
fn types_that_contain_themselves_come_to_an_end() {
    let mut writer = Writer::new();
    writer.structure("itself", kind::STRUCT, false, &[("", 1, 0)]);
    let alias = writer.add("loop", kind::TYPEDEF << 24, 2, &[]);
    writer.structure("other", kind::STRUCT, false, &[("field", alias, 0)]);
    let bytes = writer.finish();
    let btf = Btf::parse(&bytes).unwrap();
    assert_eq!(btf.field(btf.structure("itself").unwrap(), "field"), None);
    assert_eq!(btf.field(btf.structure("other").unwrap(), "field"), None);
}

#[test]
fn unknown_kinds_are_named() {
    let mut writer = Writer::new();
    writer.add("new", 100 << 24, 0, &[]);
    let error = Btf::parse(&writer.finish()).err().unwrap();
    assert!(error.to_string().contains("unknown kind 100"), "{error}");
}

proptest! {
    #[test]
    fn damage_does_no_harm(at: prop::sample::Index, value: u8, cut: prop::sample::Index) {
        let mut bytes = example();
        let at = at.index(bytes.len());
        bytes[at] = value;
        let cut = cut.index(bytes.len() + 1);
        for bytes in [&bytes[..], &bytes[..cut]] {
            if let Ok(btf) = Btf::parse(bytes)
                && let Some(example) = btf.structure("example")
            {
                for name in ["first", "b", "half", "old"] {
                    let _ = btf.field(example, name);
                }
                let _ = btf.constant("SEVEN");
            }
        }
    }
}
