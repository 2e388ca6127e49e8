//! The older place for programs: filters under the clsact qdisc, which stay when the agent is gone.

use aya::programs::{
    TcAttachType,
    tc::{self, NlOptions, TcError, TcHandle},
};
use futures_util::TryStreamExt as _;
use rtnetlink::{
    Handle,
    packet_route::tc::{TcAttribute, TcHandle as QdiscHandle},
};

use super::hooks::{PROGRAMS, attach_type};
use mirror_common::record::Direction;

/// The agent's filters under whatever priority they get, so that nobody else's is ever taken for them.
const HANDLE: TcHandle = TcHandle::new(0x4d49, 0x5252);

/// A priority that the kernel picks: just before the first filter that is there, so that a filter which
/// ends the chain does not hide frames from the agent.
pub const FIRST: NlOptions = NlOptions { priority: 0, handle: HANDLE, classid: None };

/// Makes the qdisc. Returns whether it was not there before.
///
/// # Errors
///
/// The kernel has no clsact qdisc, or the interface is gone.
pub fn add_qdisc(interface: &str) -> Result<bool, TcError> {
    match tc::qdisc_add_clsact(interface) {
        Ok(()) => Ok(true),
        Err(TcError::NetlinkError(error)) if error.raw_os_error() == Some(libc::EEXIST) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Removes the filters of an agent that was killed. The caller holds the interface's claim, so no
/// running agent uses them. Returns whether there were any.
pub fn remove_leftovers(interface: &str) -> bool {
    let mut any = false;
    for (direction, program) in Direction::ALL.into_iter().zip(PROGRAMS) {
        // The error is "not found" on nearly every start.
        any |= tc::qdisc_detach_program(interface, attach_type(direction), program).is_ok();
    }
    any
}

/// Removes the qdisc if it has no filter left. It is the caller's to know that the agent made it.
///
/// # Errors
///
/// What netlink says.
pub async fn remove_empty_qdisc(netlink: &Handle, ifindex: u32) -> Result<(), rtnetlink::Error> {
    let index = ifindex.cast_signed();
    let filters = |attach: TcAttachType| {
        let request = netlink.traffic_filter(index).get();
        match attach {
            TcAttachType::Egress => request.egress(),
            _ => request.ingress(),
        }
        .execute()
    };
    for direction in Direction::ALL {
        if std::pin::pin!(filters(attach_type(direction))).try_next().await?.is_some() {
            return Ok(());
        }
    }
    let mut request = netlink.qdisc().del(index);
    let message = request.message_mut();
    message.header.parent = QdiscHandle::CLSACT;
    message.header.handle = QdiscHandle { major: 0xffff, minor: 0 };
    // Has the kernel refuse if another kind of qdisc took the place meanwhile.
    message.attributes.push(TcAttribute::Kind("clsact".into()));
    request.execute().await
}
