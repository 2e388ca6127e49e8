//! Which news of neighbours are any: the kernel tells of each confirmation too, of which there are many.

use std::{collections::HashMap, net::IpAddr};

use rtnetlink::packet_route::{
    AddressFamily,
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState},
};

/// Neighbours remembered at most; then all are forgotten, and each is news again.
const MAX: usize = 4096;

/// The MAC address of each neighbour; empty where it is not known, or does not answer.
#[derive(Debug, Default)]
pub(super) struct Neighbours(HashMap<(u32, IpAddr), Vec<u8>>);

impl Neighbours {
    /// Whether a neighbour is another than before.
    pub(super) fn is_news(&mut self, message: &NeighbourMessage, is_gone: bool) -> bool {
        // Of a bridge's own table, where there are no network addresses.
        if !matches!(message.header.family, AddressFamily::Inet | AddressFamily::Inet6) {
            return false;
        }
        let (mut address, mut mac) = (None, Vec::new());
        for attribute in &message.attributes {
            match attribute {
                NeighbourAttribute::Destination(NeighbourAddress::Inet(found)) => {
                    address = Some(IpAddr::V4(*found))
                }
                NeighbourAttribute::Destination(NeighbourAddress::Inet6(found)) => {
                    address = Some(IpAddr::V6(*found))
                }
                NeighbourAttribute::LinkLayerAddress(found) => mac = found.clone(),
                _ => {}
            }
        }
        let Some(address) = address else { return true };
        if is_gone || matches!(message.header.state, NeighbourState::Failed | NeighbourState::Incomplete) {
            mac.clear();
        }
        if self.0.len() >= MAX {
            self.0.clear();
        }
        let before = self.0.insert((message.header.ifindex, address), mac.clone());
        before.as_ref() != Some(&mac)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn message(state: NeighbourState, mac: &[u8]) -> NeighbourMessage {
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.ifindex = 3;
        message.header.state = state;
        message.attributes = vec![
            NeighbourAttribute::Destination(NeighbourAddress::Inet(Ipv4Addr::new(10, 0, 0, 2))),
            NeighbourAttribute::LinkLayerAddress(mac.to_vec()),
        ];
        message
    }

    #[test]
    fn another_address_is_news_and_a_confirmation_is_none() {
        let mut neighbours = Neighbours::default();
        let mut is_news = |state, mac: &[u8]| neighbours.is_news(&message(state, mac), false);
        assert!(is_news(NeighbourState::Incomplete, &[]));
        assert!(is_news(NeighbourState::Reachable, &[2; 6]));
        assert!(!is_news(NeighbourState::Stale, &[2; 6]));
        assert!(!is_news(NeighbourState::Reachable, &[2; 6]));
        assert!(is_news(NeighbourState::Reachable, &[4; 6]));
        assert!(is_news(NeighbourState::Failed, &[4; 6]));
        assert!(is_news(NeighbourState::Reachable, &[4; 6]));
        assert!(neighbours.is_news(&message(NeighbourState::Reachable, &[4; 6]), true), "deleted");
    }

    #[test]
    fn a_bridges_table_is_none() {
        let mut bridge = message(NeighbourState::Reachable, &[2; 6]);
        bridge.header.family = AddressFamily::Bridge;
        assert!(!Neighbours::default().is_news(&bridge, false));
    }
}
