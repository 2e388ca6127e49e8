//! Finds fields of the kernel's structs, and constants of its enums, in its BTF (Documentation/bpf/btf.rst in the kernel's source): aya reads
//! BTF to load programs by, and does not say where a field is.

use std::str;

use anyhow::{Context as _, Result, bail};

/// The types of a kernel.
pub struct Btf<'a> {
    /// All types, one behind the other; each begins with [`TYPE_LEN`] bytes.
    types: &'a [u8],
    strings: &'a [u8],
    /// Where each type begins, by its number. Number 0 is `void`, which has no place.
    starts: Vec<usize>,
}

/// A field's place in its struct.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// In bits from the struct's beginning, counted as the byte order of the machine has them.
    pub offset: u32,
    /// Its size in bits.
    pub bits: u32,
}

/// A type's number.
#[derive(Clone, Copy, Debug)]
pub struct Struct(u32);

/// `btf_header.magic` in the machine's byte order.
const MAGIC: u16 = 0xeb9f;

/// Bytes of `struct btf_type`: name, info, and size or type.
const TYPE_LEN: usize = 12;
const MEMBER_LEN: usize = 12;
const ENUM_LEN: usize = 8;
const ENUM64_LEN: usize = 12;

/// `BTF_KIND_*` of include/uapi/linux/btf.h.
mod kind {
    pub const INT: u32 = 1;
    pub const PTR: u32 = 2;
    pub const ARRAY: u32 = 3;
    pub const STRUCT: u32 = 4;
    pub const UNION: u32 = 5;
    pub const ENUM: u32 = 6;
    pub const FWD: u32 = 7;
    pub const TYPEDEF: u32 = 8;
    pub const VOLATILE: u32 = 9;
    pub const CONST: u32 = 10;
    pub const RESTRICT: u32 = 11;
    pub const FUNC: u32 = 12;
    pub const FUNC_PROTO: u32 = 13;
    pub const VAR: u32 = 14;
    pub const DATASEC: u32 = 15;
    pub const FLOAT: u32 = 16;
    pub const DECL_TAG: u32 = 17;
    pub const TYPE_TAG: u32 = 18;
    pub const ENUM64: u32 = 19;
}

/// Names for types that lead to another, and structs in structs: more of them is no kernel's.
const DEPTH_MAX: u32 = 16;

/// `struct btf_type`.
#[derive(Clone, Copy)]
struct Type {
    name: u32,
    info: u32,
    size_or_type: u32,
}

impl Type {
    /// The bits above the 16 that there were at first have been 0 before they were used.
    const fn count(self) -> usize {
        (self.info & 0x00ff_ffff) as usize
    }

    const fn kind(self) -> u32 {
        self.info >> 24 & 0x7f
    }

    /// Whether the members say how many bits they have.
    const fn kind_flag(self) -> bool {
        self.info >> 31 != 0
    }

    /// How many bytes follow; `None` for a kind that is not known.
    const fn extra(self) -> Option<usize> {
        match self.kind() {
            kind::INT | kind::VAR | kind::DECL_TAG => Some(4),
            kind::ARRAY => Some(12),
            kind::STRUCT | kind::UNION => Some(self.count() * MEMBER_LEN),
            kind::ENUM => Some(self.count() * ENUM_LEN),
            kind::ENUM64 => Some(self.count() * ENUM64_LEN),
            kind::FUNC_PROTO => Some(self.count() * 8),
            kind::DATASEC => Some(self.count() * 12),
            kind::PTR
            | kind::FWD
            | kind::TYPEDEF
            | kind::VOLATILE
            | kind::CONST
            | kind::RESTRICT
            | kind::FUNC
            | kind::FLOAT
            | kind::TYPE_TAG => Some(0),
            _ => None,
        }
    }
}

impl<'a> Btf<'a> {
    /// Walks through the types in `bytes`.
    ///
    /// # Errors
    ///
    /// It is no BTF, is cut, or has a kind of type that is not known.
    pub fn parse(bytes: &'a [u8]) -> Result<Self> {
        let half: Option<[u8; 2]> = bytes.first_chunk().copied();
        if half.map(u16::from_ne_bytes) != Some(MAGIC) {
            bail!("no BTF of this machine's byte order");
        }
        let word = |at| word(bytes, at).context("cut in its header");
        let (header_len, types_at, types_len) = (word(4)?, word(8)?, word(12)?);
        let (strings_at, strings_len) = (word(16)?, word(20)?);
        let section = |at: u32, len: u32| {
            let start = (header_len as usize).checked_add(at as usize)?;
            bytes.get(start..start.checked_add(len as usize)?)
        };
        let types = section(types_at, types_len).context("its types are cut")?;
        let strings = section(strings_at, strings_len).context("its strings are cut")?;
        let mut btf = Self { types, strings, starts: vec![usize::MAX] };
        let mut at = 0;
        while at < types.len() {
            let one = btf.type_at(at).context("its last type is cut")?;
            btf.starts.push(at);
            let extra = one.extra().with_context(|| format!("type of unknown kind {}", one.kind()))?;
            at += TYPE_LEN + extra;
        }
        Ok(btf)
    }

    /// The struct of this name.
    #[must_use]
    pub fn structure(&self, name: &str) -> Option<Struct> {
        (1..self.starts.len() as u32)
            .find(|&id| {
                self.by_id(id).is_some_and(|(_, one)| {
                    one.kind() == kind::STRUCT && one.count() > 0 && self.name(one.name) == Some(name)
                })
            })
            .map(Struct)
    }

    /// The field of this name in a struct, or in a struct or union in it that has no name.
    #[must_use]
    pub fn field(&self, structure: Struct, name: &str) -> Option<Field> {
        self.find(structure.0, name, DEPTH_MAX)
    }

    /// Bytes of a struct.
    #[must_use]
    pub fn size(&self, structure: Struct) -> Option<u32> {
        self.by_id(structure.0).map(|(_, one)| one.size_or_type)
    }

    /// The value of an enum's constant, cut to 32 bits, whatever the enum's name.
    #[must_use]
    pub fn constant(&self, name: &str) -> Option<u32> {
        (1..self.starts.len() as u32).find_map(|id| {
            let (at, one) = self.by_id(id)?;
            let len = match one.kind() {
                kind::ENUM => ENUM_LEN,
                kind::ENUM64 => ENUM64_LEN,
                _ => return None,
            };
            (0..one.count()).find_map(|index| {
                let at = at + TYPE_LEN + index * len;
                // The lower half of a value is the first.
                (self.name(word(self.types, at)?)? == name).then(|| word(self.types, at + 4))?
            })
        })
    }

    fn find(&self, id: u32, name: &str, depth: u32) -> Option<Field> {
        let depth = depth.checked_sub(1)?;
        let (at, one) = self.by_id(id)?;
        if !matches!(one.kind(), kind::STRUCT | kind::UNION) {
            return None;
        }
        (0..one.count()).find_map(|index| {
            let at = at + TYPE_LEN + index * MEMBER_LEN;
            let member_name = self.name(word(self.types, at)?)?;
            let member_type = word(self.types, at + 4)?;
            let place = word(self.types, at + 8)?;
            let (offset, bits) =
                if one.kind_flag() { (place & 0x00ff_ffff, place >> 24) } else { (place, 0) };
            if member_name.is_empty() {
                let field = self.find(member_type, name, depth)?;
                return Some(Field { offset: offset.checked_add(field.offset)?, bits: field.bits });
            }
            if member_name != name {
                return None;
            }
            if bits != 0 {
                return Some(Field { offset, bits });
            }
            let (into_type, bits) = self.extent(member_type)?;
            Some(Field { offset: offset.checked_add(into_type)?, bits })
        })
    }

    /// Where in a type's bytes its value is, and of how many bits.
    fn extent(&self, mut id: u32) -> Option<(u32, u32)> {
        for _ in 0..DEPTH_MAX {
            let (at, one) = self.by_id(id)?;
            match one.kind() {
                kind::TYPEDEF | kind::VOLATILE | kind::CONST | kind::RESTRICT | kind::TYPE_TAG => {
                    id = one.size_or_type;
                }
                // A bit field in the older way is a type of its own.
                kind::INT => {
                    let encoding = word(self.types, at + TYPE_LEN)?;
                    return Some((encoding >> 16 & 0xff, encoding & 0xff));
                }
                kind::PTR => return Some((0, usize::BITS)),
                kind::ENUM | kind::ENUM64 => return Some((0, one.size_or_type.checked_mul(8)?)),
                _ => return None,
            }
        }
        None
    }

    fn by_id(&self, id: u32) -> Option<(usize, Type)> {
        let at = *self.starts.get(id as usize)?;
        Some((at, self.type_at(at)?))
    }

    fn type_at(&self, at: usize) -> Option<Type> {
        // `void`, which is nowhere.
        let end = at.checked_add(TYPE_LEN)?;
        let bytes = self.types.get(at..end)?;
        Some(Type { name: word(bytes, 0)?, info: word(bytes, 4)?, size_or_type: word(bytes, 8)? })
    }

    fn name(&self, at: u32) -> Option<&str> {
        let rest = self.strings.get(at as usize..)?;
        let end = rest.iter().position(|&byte| byte == 0)?;
        str::from_utf8(&rest[..end]).ok()
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().copied().map(u32::from_ne_bytes)
}

#[cfg(test)]
mod tests;
