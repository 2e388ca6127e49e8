//! The segmenter of redirect mode: a VXLAN device of the agent's own. What the kernel's stack has left to the card is
//! done before the device gets a frame, since it offers none of it; and what leaves the device is routed as the host
//! routes, finds its neighbour, and is fragmented where it must be.

use std::{
    io, mem,
    net::{Ipv6Addr, UdpSocket},
    os::fd::AsRawFd as _,
};

use anyhow::{Context as _, Result, bail};
use futures_util::TryStreamExt as _;
use rtnetlink::{
    Handle, LinkUnspec, LinkVxlan,
    packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage},
};

use super::claim::{Claim, Refusal};

/// Agents with a segmenter in one network namespace.
const AGENTS_MAX: u32 = 64;

/// Devices are called so, with a number.
const NAME: &str = "mirror";

/// By which a device is known that a killed agent left behind.
const ALIAS: &str = "mirror-agent segmenter";

/// What the device itself takes: datagrams are fragmented behind it.
const MTU: u32 = 65_000;

/// The device. It goes with [`Self::remove`], or when the next agent finds it.
#[derive(Debug)]
pub struct Segmenter {
    /// Its number.
    pub ifindex: u32,
    /// Its name.
    pub name: String,
    /// The UDP port that it sends to, and listens on.
    pub port: u16,
    _claim: Claim,
}

impl Segmenter {
    /// Makes the device, and takes away one that a killed agent left.
    ///
    /// # Errors
    ///
    /// The kernel has no VXLAN devices, or refuses.
    pub async fn make(netlink: &Handle) -> Result<Self> {
        let (number, claim) = claim()?;
        let name = format!("{NAME}{number}");
        if let Some(old) = find(netlink, &name).await? {
            if !is_ours(&old) {
                bail!("there is an interface {name}, which is the name of the agent's own device: rename it");
            }
            netlink
                .link()
                .del(old.header.index)
                .execute()
                .await
                .with_context(|| format!("cannot remove {name}, which a killed agent left"))?;
        }
        // A port of its own, which nobody else has: every VXLAN device listens. The encapsulating program puts the
        // sensor's in its place.
        let port = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))
            .or_else(|_| UdpSocket::bind("0.0.0.0:0"))
            .and_then(|socket| socket.local_addr())
            .context("no UDP port is free")?
            .port();
        let device =
            LinkVxlan::new(&name, 0).collect_metadata(true).learning(false).port(port).mtu(MTU).build();
        netlink.link().add(device).execute().await.with_context(|| {
            format!("cannot make the VXLAN device {name}, which --mode redirect needs: use --mode ring")
        })?;
        let made = find(netlink, &name).await?.with_context(|| format!("{name} is gone"))?;
        let segmenter = Self { ifindex: made.header.index, name, port, _claim: claim };
        match segmenter.prepare(netlink).await {
            Ok(()) => Ok(segmenter),
            Err(error) => {
                segmenter.remove(netlink).await;
                Err(error)
            }
        }
    }

    async fn prepare(&self, netlink: &Handle) -> Result<()> {
        let name = &self.name;
        let alias = LinkUnspec::new_with_index(self.ifindex)
            .append_extra_attribute(LinkAttribute::IfAlias(ALIAS.into()))
            .build();
        netlink.link().set(alias).execute().await.with_context(|| format!("cannot name {name}"))?;
        offer_nothing(name).with_context(|| format!("cannot switch off the offloads of {name}"))?;
        Ok(())
    }

    /// Has it take frames, when its programs are in place.
    ///
    /// # Errors
    ///
    /// What netlink says.
    pub async fn start(&self, netlink: &Handle) -> Result<()> {
        let up = LinkUnspec::new_with_index(self.ifindex).up().build();
        netlink.link().set(up).execute().await.with_context(|| format!("cannot start {}", self.name))
    }

    /// Takes it away.
    pub async fn remove(self, netlink: &Handle) {
        if let Err(error) = netlink.link().del(self.ifindex).execute().await {
            log::debug!("removing {}: {error}", self.name);
        }
    }
}

fn claim() -> Result<(u32, Claim)> {
    for number in 0..AGENTS_MAX {
        match Claim::named(&format!("mirror-agent/segmenter/{number}")) {
            Ok(claim) => return Ok((number, claim)),
            Err(Refusal::Taken(_)) => {}
            Err(Refusal::Failed(error)) => return Err(error).context("cannot claim a device for this agent"),
        }
    }
    bail!("{AGENTS_MAX} agents redirect already here: use --mode ring")
}

async fn find(netlink: &Handle, name: &str) -> Result<Option<LinkMessage>> {
    let links: Vec<LinkMessage> =
        netlink.link().get().execute().try_collect().await.context("cannot list the host's interfaces")?;
    let has_name =
        |attribute: &LinkAttribute| matches!(attribute, LinkAttribute::IfName(found) if found == name);
    Ok(links.into_iter().find(|link| link.attributes.iter().any(has_name)))
}

/// Whether an interface is a segmenter, this agent's or another's. It has its alias only some time after its name.
#[must_use]
pub fn is_one(link: &LinkMessage, name: &str) -> bool {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let is_vxlan = |infos: &Vec<LinkInfo>| infos.contains(&LinkInfo::Kind(InfoKind::Vxlan));
    let has_kind =
        |attribute: &LinkAttribute| matches!(attribute, LinkAttribute::LinkInfo(infos) if is_vxlan(infos));
    is_ours(link) || name.strip_prefix(NAME).is_some_and(is_number) && link.attributes.iter().any(has_kind)
}

fn is_ours(link: &LinkMessage) -> bool {
    link.attributes
        .iter()
        .any(|attribute| matches!(attribute, LinkAttribute::IfAlias(alias) if alias == ALIAS))
}

/// Has the kernel cut, sum up and tag before the device gets a frame (ethtool(8), `-K NAME tx off tso off`; VXLAN
/// devices take no tags in the first place).
fn offer_nothing(name: &str) -> io::Result<()> {
    const SET_TX_CHECKSUMS: u32 = 0x17;
    const SET_TSO: u32 = 0x1f;
    let socket = UdpSocket::bind("0.0.0.0:0").or_else(|_| UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)))?;
    for command in [SET_TSO, SET_TX_CHECKSUMS] {
        // `struct ethtool_value` of linux/ethtool.h: the command, and 0 for off.
        let mut value = [command, 0_u32];
        // SAFETY: all-zero is a valid ifreq: an empty name, and zeros in every member of the union.
        let mut request: libc::ifreq = unsafe { mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(name.bytes().take(libc::IFNAMSIZ - 1)) {
            *to = from as libc::c_char;
        }
        request.ifr_ifru.ifru_data = (&raw mut value).cast();
        // SAFETY: SIOCETHTOOL reads an ifreq, and what its data points to, of the size that the command stands for.
        if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL as _, &raw mut request) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}
