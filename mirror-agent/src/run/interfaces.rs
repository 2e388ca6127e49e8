//! Follows the interfaces of a live run: what is mirrored are those that are meant, as they come and go, and change
//! their names.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow};
use nix::net::if_::if_nametoindex;

use super::{Run, origin::Origin};
use crate::{
    kernel::hooks::{Hooks, Manner},
    links::{Change, Link, Links},
    redirect::Redirect,
    wanted::Wanted,
};

/// How often it is looked whether something is to be put in order, or tried again.
const PERIOD: Duration = Duration::from_secs(1);

/// Interfaces that come so soon after another are probably some of many.
const BURST: Duration = Duration::from_millis(100);

/// The interfaces, as far as they are known, and what is to be done about them.
#[derive(Debug)]
pub struct Interfaces {
    wanted: Wanted,
    known: BTreeMap<u32, Link>,
    /// To be attached to. One that is no more, or not meant any more, may be among them.
    waiting: VecDeque<u32>,
    /// Why not, of those that are meant and could not be attached to.
    refused: BTreeMap<u32, String>,
    /// When one that came was last attached to.
    attached: Option<Instant>,
    /// When it was last looked whether something is to be put in order.
    tidied: Instant,
}

impl Interfaces {
    /// Has those of `links` wait that are meant: first those that are named, in the order of their names.
    ///
    /// # Errors
    ///
    /// There is no interface of a name.
    pub fn new(wanted: Wanted, links: Vec<Link>) -> Result<Self> {
        let mut waiting = VecDeque::new();
        for name in wanted.names() {
            let link = links.iter().find(|link| link.name == name).ok_or_else(|| {
                let here: Vec<_> = links.iter().map(|link| link.name.as_str()).collect();
                anyhow!("there is no interface {name} here: there are {}", here.join(", "))
            })?;
            waiting.push_back(link.ifindex);
        }
        let is_matched = |link: &&Link| wanted.find(link).is_some() && !wanted.is_named(&link.name);
        waiting.extend(links.iter().filter(is_matched).map(|link| link.ifindex));
        let known = links.into_iter().map(|link| (link.ifindex, link)).collect();
        Ok(Self { wanted, known, waiting, refused: BTreeMap::new(), attached: None, tidied: Instant::now() })
    }

    /// Others are meant from now on.
    pub async fn want(&mut self, wanted: Wanted, hooks: &mut Hooks) {
        self.wanted = wanted;
        self.refused.clear();
        let known: Vec<Link> = self.known.values().cloned().collect();
        for link in known {
            match (hooks.name_of(link.ifindex).is_some(), self.manner(&link)) {
                (true, None) => {
                    hooks.forget(link.ifindex, false).await;
                    log::info!("{} is mirrored no more", link.name);
                }
                (false, Some(_)) => self.waiting.push_back(link.ifindex),
                _ => {}
            }
        }
        for name in self.wanted.names() {
            if !self.known.values().any(|link| link.name == name) {
                log::warn!("there is no interface {name} here: it will be mirrored when it comes");
            }
        }
    }

    /// Attaches to all that wait.
    ///
    /// # Errors
    ///
    /// One that is named could not be attached to. Of the others that is only told.
    pub async fn attach_all(&mut self, hooks: &mut Hooks) -> Result<()> {
        hooks.suspect(self.known.keys().copied());
        while let Some((link, manner)) = self.next(hooks) {
            match hooks.attach(&link, manner).await {
                Err(error) if manner == Manner::Named => return Err(error),
                result => self.note(&link, manner, result),
            }
        }
        Ok(())
    }

    /// Whether [`Self::attach_next`] has something to do.
    #[must_use]
    pub fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Attaches to one of those that wait.
    pub async fn attach_next(&mut self, hooks: &mut Hooks) {
        let Some((link, manner)) = self.next(hooks) else { return };
        let result = hooks.attach(&link, manner).await;
        self.attached = Some(Instant::now());
        if result.is_ok() {
            match manner {
                Manner::Named => log::warn!("{} is back: mirroring it again", link.name),
                Manner::Matched { .. } => log::info!("mirroring {} too", link.name),
            }
        }
        self.note(&link, manner, result);
    }

    fn next(&mut self, hooks: &Hooks) -> Option<(Link, Manner)> {
        while let Some(ifindex) = self.waiting.pop_front() {
            if hooks.name_of(ifindex).is_none()
                && let Some(link) = self.known.get(&ifindex)
                && let Some(manner) = self.manner(link)
            {
                return Some((link.clone(), manner));
            }
        }
        None
    }

    /// How an interface would be mirrored, if it is meant.
    fn manner(&self, link: &Link) -> Option<Manner> {
        let is_named = self.wanted.is_named(&link.name);
        let in_hurry = self.attached.is_some_and(|last| last.elapsed() < BURST);
        let manner = if is_named { Manner::Named } else { Manner::Matched { in_hurry } };
        self.wanted.find(link).map(|_| manner)
    }

    /// Says once why an interface is not mirrored.
    fn note(&mut self, link: &Link, manner: Manner, result: Result<()>) {
        let Err(error) = result else {
            self.refused.remove(&link.ifindex);
            return;
        };
        let why = format!("{error:#}");
        if if_nametoindex(link.name.as_str()) != Ok(link.ifindex) && manner != Manner::Named {
            // Gone again, or about to be told under another name.
            log::debug!("{why}");
        } else if self.refused.get(&link.ifindex) != Some(&why) {
            log::warn!("{why}");
        }
        self.refused.insert(link.ifindex, why);
    }

    /// What is meant and not mirrored, and why.
    #[must_use]
    pub fn missing(&self, hooks: &Hooks) -> Vec<String> {
        let is_there = |name: &str| self.known.values().any(|link| link.name == name);
        let names = self.wanted.names().filter(|name| !is_there(name));
        let mut missing: Vec<String> = names.map(|name| format!("there is no interface {name}")).collect();
        missing.extend(self.refused.values().cloned());
        let is_yet_to_come = |ifindex: &&u32| {
            let link = self.known.get(ifindex);
            hooks.name_of(**ifindex).is_none()
                && !self.refused.contains_key(ifindex)
                && link.is_some_and(|link| self.wanted.find(link).is_some())
        };
        let waiting = self.waiting.iter().filter(is_yet_to_come).count();
        if waiting > 0 {
            missing.push(format!("{waiting} interfaces are yet to be attached to"));
        }
        missing
    }

    /// When [`Self::tidy`] is to be called; never, where there is nothing to do.
    #[must_use]
    pub fn due(&self, hooks: &Hooks) -> Option<Instant> {
        (!self.refused.is_empty() || hooks.is_untidy()).then(|| self.tidied + PERIOD)
    }

    /// Tries again what was refused, and has the hooks put themselves in order.
    pub async fn tidy(&mut self, hooks: &mut Hooks) {
        self.tidied = Instant::now();
        self.waiting.extend(self.refused.keys());
        hooks.tidy().await;
    }

    /// Takes note of an interface as it is now.
    async fn see(&mut self, link: Link, hooks: &mut Hooks) {
        let ifindex = link.ifindex;
        if let Some(name) = hooks.name_of(ifindex) {
            if name != link.name {
                let name = name.to_owned();
                self.see_renamed(&link, &name, hooks).await;
            }
        } else if self.wanted.find(&link).is_some() {
            self.waiting.push_back(ifindex);
        }
        self.known.insert(ifindex, link);
    }

    async fn see_renamed(&mut self, link: &Link, old: &str, hooks: &mut Hooks) {
        let Some(manner) = self.manner(link) else {
            hooks.forget(link.ifindex, false).await;
            return self.tell_gone(old);
        };
        match hooks.rename(link.ifindex, &link.name, manner) {
            Ok(()) => {
                self.tell_gone(old);
                if manner == Manner::Named {
                    log::warn!("{} is back: mirroring it again", link.name);
                }
            }
            Err(error) => log::warn!("{error:#}"),
        }
    }

    /// Takes note that an interface is gone.
    async fn lose(&mut self, ifindex: u32, hooks: &mut Hooks) {
        self.known.remove(&ifindex);
        self.refused.remove(&ifindex);
        let name = hooks.name_of(ifindex).map(str::to_owned);
        hooks.forget(ifindex, true).await;
        if let Some(name) = name {
            self.tell_gone(&name);
        }
    }

    fn tell_gone(&self, name: &str) {
        if self.wanted.is_named(name) {
            log::warn!("{name} is gone: it will be mirrored again when it is back");
        } else {
            log::info!("{name} is gone");
        }
    }

    /// Compares everything with what there is: messages were lost.
    async fn look_anew(&mut self, links: &Links, hooks: &mut Hooks) -> Result<()> {
        let now = links.all().await?;
        let is_there = |ifindex: &u32| now.iter().any(|link| link.ifindex == *ifindex);
        let gone: Vec<u32> = self.known.keys().copied().filter(|ifindex| !is_there(ifindex)).collect();
        for ifindex in gone {
            self.lose(ifindex, hooks).await;
        }
        for link in now {
            if hooks.name_of(link.ifindex).is_some() && !hooks.is_in_place(&link).await {
                self.lose(link.ifindex, hooks).await;
            }
            self.see(link, hooks).await;
        }
        Ok(())
    }
}

impl Run {
    /// Takes note of what netlink tells. What is to be attached to waits for its turn.
    pub(super) async fn follow_changes(&mut self, links: &Links, changes: Vec<Change>) {
        let Origin::Live { hooks, redirect, interfaces, .. } = &mut self.origin else { return };
        for change in changes {
            tell(redirect.as_deref_mut(), &change);
            match change {
                Change::Gone(ifindex) => interfaces.lose(ifindex, hooks).await,
                Change::Link(link) => interfaces.see(link, hooks).await,
                Change::Lost => {
                    if let Err(error) = interfaces.look_anew(links, hooks).await {
                        log::warn!("{error:#}");
                    }
                }
                Change::Way => {}
            }
        }
    }
}

/// Where datagrams leave may have changed.
fn tell(redirect: Option<&mut Redirect>, change: &Change) {
    let Some(redirect) = redirect else { return };
    match change {
        Change::Gone(ifindex) => redirect.forget(*ifindex),
        Change::Link(link) => redirect.hurry_for(link.ifindex),
        Change::Lost | Change::Way => redirect.hurry(),
    }
}
