//! The older place for programs: filters under the clsact qdisc, which stay when the agent is gone.

use aya::programs::tc::{self, NlOptions, TcError, TcHandle};
use futures_util::{StreamExt as _, TryStreamExt as _};
use mirror_common::record::Direction;
use rtnetlink::{
    Handle,
    packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload},
    packet_route::{
        RouteNetlinkMessage,
        tc::{TcAttribute, TcFilterBpfOption, TcHandle as QdiscHandle, TcMessage, TcOption},
    },
};

use super::{
    hooks::{LIMITED_PROGRAMS, PROGRAMS},
    load::REDIRECT_PROGRAMS,
};

/// Agents that send through one interface, at most.
pub const SENDERS_MAX: u16 = 16;

/// The agent's filters under whatever priority they get, so that nobody else's is ever taken for them.
const HANDLE: TcHandle = TcHandle::new(0x4d49, 0x5252);

/// Priorities to try, the first one first: a filter that ends the chain must not hide frames from the
/// agent. Only where somebody else's filter of another kind has a priority does the next one have to do.
/// (Asked for a priority of its own choice, the kernel takes 49152 and down, behind nearly everybody.)
pub const PRIORITIES: std::ops::RangeInclusive<u16> = 1..=32;

/// The agent's filter with one of the [`PRIORITIES`].
#[must_use]
pub fn filter(priority: u16) -> NlOptions {
    NlOptions { priority, handle: HANDLE, classid: None }
}

/// The filter of one of the agents that send through an interface, below [`SENDERS_MAX`].
pub fn senders_filter(sender: u16) -> impl Fn(u16) -> NlOptions {
    move |priority| NlOptions { priority, handle: senders_handle(sender), classid: None }
}

fn senders_handle(sender: u16) -> TcHandle {
    TcHandle::new(0x4d49, 0x5300 | sender)
}

/// Removes the filter that a killed agent left under the number `sender`, whose claim the caller holds. Returns
/// whether there was one.
///
/// # Errors
///
/// What netlink says.
pub async fn remove_senders_leftover(
    netlink: &Handle,
    ifindex: u32,
    sender: u16,
) -> Result<bool, rtnetlink::Error> {
    let mut any = false;
    for filter in filters(netlink, ifindex, Direction::Egress).await? {
        if is_ours(&filter, senders_handle(sender), REDIRECT_PROGRAMS[0]) {
            remove(netlink.clone(), filter).await?;
            any = true;
        }
    }
    Ok(any)
}

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
///
/// # Errors
///
/// What netlink says.
pub async fn remove_leftovers(netlink: &Handle, ifindex: u32) -> Result<bool, rtnetlink::Error> {
    let mut any = false;
    for direction in Direction::ALL {
        for filter in filters(netlink, ifindex, direction).await? {
            if is_a_hook(&filter, direction) {
                remove(netlink.clone(), filter).await?;
                any = true;
            }
        }
    }
    Ok(any)
}

/// Whether the agent's filter of a direction is there.
///
/// # Errors
///
/// What netlink says.
pub async fn has_filter(
    netlink: &Handle,
    ifindex: u32,
    direction: Direction,
) -> Result<bool, rtnetlink::Error> {
    let filters = filters(netlink, ifindex, direction).await?;
    Ok(filters.iter().any(|filter| is_a_hook(filter, direction)))
}

fn is_a_hook(filter: &TcMessage, direction: Direction) -> bool {
    let [whole, limited] = [PROGRAMS, LIMITED_PROGRAMS].map(|names| names[direction as usize]);
    is_ours(filter, HANDLE, whole) || is_ours(filter, HANDLE, limited)
}

/// All filters of a direction, whoever's they are, first to last. None where there is no qdisc to hold them.
///
/// # Errors
///
/// What netlink says.
pub async fn filters(
    netlink: &Handle,
    ifindex: u32,
    direction: Direction,
) -> Result<Vec<TcMessage>, rtnetlink::Error> {
    let request = netlink.traffic_filter(ifindex.cast_signed()).get();
    let request = match direction {
        Direction::Ingress => request.ingress(),
        Direction::Egress => request.egress(),
    };
    request.execute().try_collect().await
}

fn is_ours(filter: &TcMessage, handle: TcHandle, program: &str) -> bool {
    let named = |options: &TcOption| match options {
        TcOption::Bpf(TcFilterBpfOption::ProgName(name)) => name == program,
        _ => false,
    };
    u32::from(filter.header.handle) == u32::from(handle)
        && filter.attributes.iter().any(|attribute| match attribute {
            TcAttribute::Options(options) => options.iter().any(named),
            _ => false,
        })
}

async fn remove(mut netlink: Handle, mut filter: TcMessage) -> Result<(), rtnetlink::Error> {
    filter.attributes = vec![TcAttribute::Kind("bpf".into())];
    let mut request = NetlinkMessage::from(RouteNetlinkMessage::DelTrafficFilter(filter));
    request.header.flags = NLM_F_REQUEST | NLM_F_ACK;
    let mut answers = netlink.request(request)?;
    while let Some(answer) = answers.next().await {
        if let NetlinkPayload::Error(error) = answer.payload
            && error.code.is_some()
        {
            return Err(rtnetlink::Error::NetlinkError(error));
        }
    }
    Ok(())
}

/// Removes the qdisc if it has no filter left. It is the caller's to know that the agent made it.
///
/// # Errors
///
/// What netlink says.
pub async fn remove_empty_qdisc(netlink: &Handle, ifindex: u32) -> Result<(), rtnetlink::Error> {
    for direction in Direction::ALL {
        if !filters(netlink, ifindex, direction).await?.is_empty() {
            return Ok(());
        }
    }
    let mut request = netlink.qdisc().del(ifindex.cast_signed());
    let message = request.message_mut();
    message.header.parent = QdiscHandle::CLSACT;
    message.header.handle = QdiscHandle { major: 0xffff, minor: 0 };
    // Has the kernel refuse if another kind of qdisc took the place meanwhile.
    message.attributes.push(TcAttribute::Kind("clsact".into()));
    request.execute().await
}
