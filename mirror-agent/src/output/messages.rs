//! Messages for sendmmsg(2): a header and what follows it, gathered from where they lie.

use std::mem;

use arrayvec::ArrayVec;

use crate::source::BATCH;

/// The two pieces of a message. The kernel only reads what it sends.
pub(super) fn pieces(header: &[u8], body: &[u8]) -> [libc::iovec; 2] {
    [header, body]
        .map(|piece| libc::iovec { iov_base: piece.as_ptr().cast_mut().cast(), iov_len: piece.len() })
}

/// One message for each pair of pieces, at most [`BATCH`]. They point to `pieces`, which is to stay as long as
/// they are used, and so is what the pieces point to.
pub(super) fn messages(pieces: &mut ArrayVec<[libc::iovec; 2], BATCH>) -> ArrayVec<libc::mmsghdr, BATCH> {
    pieces
        .iter_mut()
        .map(|pair| {
            // SAFETY: all-zero is a valid mmsghdr: null pointers and zero lengths.
            let mut message: libc::mmsghdr = unsafe { mem::zeroed() };
            message.msg_hdr.msg_iov = pair.as_mut_ptr();
            message.msg_hdr.msg_iovlen = pair.len();
            message
        })
        .collect()
}
