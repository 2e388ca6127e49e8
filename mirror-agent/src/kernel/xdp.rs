//! Attaches the XDP program to an interface: in the driver where that runs it, else in front of the stack. Never in
//! the place of somebody else's, of which an interface has one.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use anyhow::{Context as _, Result, anyhow, bail};
use aya::{
    Ebpf,
    programs::{Xdp, XdpMode, loaded_programs, xdp::XdpLinkId},
};
use futures_util::TryStreamExt as _;
use rtnetlink::{
    Handle,
    packet_route::link::{LinkAttribute, LinkInfo, LinkMessage, LinkXdp},
};

use super::hooks::Manner;
use crate::{cli::XdpAttach, console::notice, links::Link};

/// How programs are to be attached.
#[derive(Clone, Copy, Debug)]
pub struct XdpHook {
    /// What was asked for.
    pub wanted: XdpAttach,
    /// Whether the kernel knows frames in several pieces.
    pub has_frags: bool,
}

impl XdpHook {
    /// The programs that may be attached.
    #[must_use]
    pub fn programs(self) -> &'static [&'static str] {
        const ALL: [&str; 3] = [WHOLE.program, GENERIC.program, FRAGS.program];
        if self.has_frags { &ALL } else { &ALL[..2] }
    }
}

/// A program at its place.
#[derive(Debug)]
pub struct Attachment {
    program: &'static str,
    id: XdpLinkId,
}

/// A program, and where it runs.
#[derive(Clone, Copy)]
struct Way {
    program: &'static str,
    mode: XdpMode,
    called: &'static str,
}

const WHOLE: Way = Way { program: "mirror_xdp", mode: XdpMode::Driver, called: "in the driver" };
const FRAGS: Way = Way {
    program: "mirror_xdp_frags",
    mode: XdpMode::Driver,
    called: "in the driver, with frames in several pieces",
};
const GENERIC: Way = Way { program: "mirror_xdp_skb", mode: XdpMode::Skb, called: "generic" };

/// What has to be known of an interface before.
struct Found {
    /// Its kind, where it is no card's: `veth`.
    kind: String,
    /// The program that is there already.
    occupant: Option<u32>,
}

/// Attaches to an interface, and says where, of one that was named aloud.
///
/// # Errors
///
/// Somebody else's program is there, or the kernel refuses every way.
pub async fn attach(
    ebpf: &mut Ebpf,
    netlink: &Handle,
    link: &Link,
    hook: XdpHook,
    manner: Manner,
) -> Result<Attachment> {
    let name = &link.name;
    let found = look(netlink, link).await?;
    if let Some(id) = found.occupant {
        bail!(
            "{name} has an XDP program already, {}, and takes one only: use --hook tc, which sees what that one \
             lets pass",
            name_of(id)
        );
    }
    // With frames in several pieces a veth pair goes on to hand over super-frames, which XDP could not cut: a program
    // without makes it cut them.
    let is_veth = found.kind == "veth";
    let native: &[Way] = match (is_veth, hook.has_frags) {
        (false, true) => &[FRAGS, WHOLE],
        _ => &[WHOLE],
    };
    let ways = match hook.wanted {
        XdpAttach::Auto => [native, &[GENERIC]].concat(),
        XdpAttach::Native => native.to_vec(),
        XdpAttach::Frags => vec![FRAGS],
        XdpAttach::Generic => vec![GENERIC],
    };
    let mut refusals: Vec<String> = Vec::new();
    for way in ways {
        match try_way(ebpf, link.ifindex, way) {
            Ok(id) => {
                let kind = if is_veth { " (veth)" } else { "" };
                let why = match refusals.last() {
                    Some(refusal) if way.mode == XdpMode::Skb => {
                        format!(", since the driver does not take it: {refusal}")
                    }
                    _ => String::new(),
                };
                let line = format_args!("{name}: XDP {}{kind}{why}", way.called);
                if manner == Manner::Named {
                    notice(line)
                } else {
                    log::info!("{line}")
                }
                return Ok(Attachment { program: way.program, id });
            }
            Err(error) => refusals.push(format!("{error:#}")),
        }
    }
    // Somebody may have come in between.
    if let Some(id) = look(netlink, link).await?.occupant {
        bail!("{name} has an XDP program now, {}: use --hook tc", name_of(id));
    }
    bail!("cannot attach an XDP program to {name}: {}: use --hook tc", refusals.join("; "))
}

/// Takes the program away.
///
/// # Errors
///
/// It is gone already, with its interface as a rule.
pub fn detach(ebpf: &mut Ebpf, attachment: Attachment) -> Result<()> {
    Ok(program(ebpf, attachment.program)?.detach(attachment.id)?)
}

/// Has the hook run what the program of its name is now.
///
/// # Errors
///
/// It is gone already, with its interface as a rule.
pub fn replace(ebpf: &mut Ebpf, attachment: Attachment) -> Result<Attachment> {
    let name = attachment.program;
    let program = program(ebpf, name)?;
    let link = program.take_link(attachment.id)?;
    Ok(Attachment { program: name, id: program.attach_to_link(link)? })
}

/// Whether the program that an attachment stands for is still there.
pub async fn is_in_place(ebpf: &mut Ebpf, netlink: &Handle, link: &Link, attachment: &Attachment) -> bool {
    let own = program(ebpf, attachment.program).ok().and_then(|program| program.info().ok());
    let found = look(netlink, link).await.ok().and_then(|found| found.occupant);
    own.is_some_and(|own| found == Some(own.id()))
}

fn try_way(ebpf: &mut Ebpf, ifindex: u32, way: Way) -> Result<XdpLinkId> {
    let program = program(ebpf, way.program)?;
    program.attach_to_if_index(ifindex, way.mode).map_err(|error| match error {
        aya::programs::ProgramError::SyscallError(error) => anyhow!(error.io_error),
        error => anyhow!(error),
    })
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    Ok(ebpf.program_mut(name).with_context(|| format!("the object has no program {name}"))?.try_into()?)
}

async fn look(netlink: &Handle, link: &Link) -> Result<Found> {
    let messages: Vec<LinkMessage> = netlink
        .link()
        .get()
        .match_index(link.ifindex)
        .execute()
        .try_collect()
        .await
        .with_context(|| format!("cannot ask whether {} has an XDP program", link.name))?;
    let attributes = messages.iter().flat_map(|message| &message.attributes);
    let mut found = Found { kind: String::new(), occupant: None };
    for attribute in attributes {
        match attribute {
            LinkAttribute::LinkInfo(infos) => {
                if let Some(kind) = infos.iter().find_map(|info| match info {
                    LinkInfo::Kind(kind) => Some(kind.to_string()),
                    _ => None,
                }) {
                    found.kind = kind;
                }
            }
            LinkAttribute::Xdp(facts) => found.occupant = occupant(facts),
            _ => {}
        }
    }
    Ok(found)
}

/// The number of the program that an interface has, by what netlink tells of it: one of a place of its own where there are
/// several.
pub(crate) fn occupant(facts: &[LinkXdp]) -> Option<u32> {
    facts.iter().find_map(|fact| match fact {
        LinkXdp::ProgId(id) | LinkXdp::DrvProgId(id) | LinkXdp::SkbProgId(id) | LinkXdp::HwProgId(id) => {
            (*id != 0).then_some(*id)
        }
        _ => None,
    })
}

/// A program for people: its name, if it has one and this may be asked for, and its number. To list programs takes
/// CAP_SYS_ADMIN, which is given up after the start: the answer stays the same, so that nothing is told twice.
fn name_of(id: u32) -> String {
    static KNOWN: Mutex<BTreeMap<u32, String>> = Mutex::new(BTreeMap::new());
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let name = known.entry(id).or_insert_with(|| {
        let found = loaded_programs().filter_map(Result::ok).find(|program| program.id() == id);
        found.and_then(|program| program.name_as_str().map(str::to_owned)).unwrap_or_default()
    });
    if name.is_empty() { format!("number {id}") } else { format!("{name} (number {id})") }
}
