//! Messages for sendmmsg(2): headers and what follows them, gathered from where they lie.

use std::mem;

use arrayvec::ArrayVec;

use crate::source::BATCH;

/// Pieces of a message: outer headers, then a frame in the two parts that it lies in.
pub(super) type Pieces = [libc::iovec; 3];

/// The pieces at these places. The kernel only reads what it sends.
pub(super) fn pieces(pieces: [&[u8]; 3]) -> Pieces {
    pieces.map(|piece| libc::iovec { iov_base: piece.as_ptr().cast_mut().cast(), iov_len: piece.len() })
}

/// One message for each element of `pieces`, at most [`BATCH`]. They point to `pieces`, which is to stay as long as
/// they are used, and so is what the pieces point to.
pub(super) fn messages(pieces: &mut ArrayVec<Pieces, BATCH>) -> ArrayVec<libc::mmsghdr, BATCH> {
    pieces
        .iter_mut()
        .map(|pieces| {
            // SAFETY: all-zero is a valid mmsghdr: null pointers and zero lengths.
            let mut message: libc::mmsghdr = unsafe { mem::zeroed() };
            message.msg_hdr.msg_iov = pieces.as_mut_ptr();
            message.msg_hdr.msg_iovlen = pieces.len();
            message
        })
        .collect()
}
