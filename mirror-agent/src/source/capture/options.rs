//! Options of pcapng blocks, draft-ietf-opsawg-pcapng section 3.5: code, length, and a value padded to
//! 4 bytes.

use mirror_common::record::Direction;
use pcap_file::Endianness;

use super::fields::{halves, words};

/// Code of the option that ends them.
const END: u16 = 0;

/// Code of epb_flags, and of pack_flags in the obsolete packet block.
const FLAGS: u16 = 2;

/// The options in `rest`, up to their end.
pub(super) struct Options<'a> {
    rest: &'a [u8],
    order: Endianness,
}

impl<'a> Options<'a> {
    pub(super) fn new(rest: &'a [u8], order: Endianness) -> Self {
        Self { rest, order }
    }
}

impl<'a> Iterator for Options<'a> {
    /// The code, and the value; for the last one, no value where it does not fit into its block.
    type Item = (u16, Option<&'a [u8]>);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let [code, len] = halves(self.rest, self.order)?;
        if code == END {
            return None;
        }
        let (len, behind) = (usize::from(len), &self.rest[4..]);
        // The last one's padding may be missing.
        self.rest = behind.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((code, behind.get(..len)))
    }
}

/// The direction that a packet block's `options` tell: the two lowest bits of their flags. Options that are
/// damaged are none: the packet is whole without them, and so is what follows its block.
#[inline]
pub(super) fn direction(options: &[u8], order: Endianness) -> Option<Direction> {
    if options.is_empty() {
        return None;
    }
    let (_, flags) = Options::new(options, order).find(|(code, _)| *code == FLAGS)?;
    let [flags] = words(flags?, order)?;
    match flags & 3 {
        1 => Some(Direction::Ingress),
        2 => Some(Direction::Egress),
        _ => None,
    }
}
