//! Sends to a sensor: through the host's stack at first, straight to the card once it is known how datagrams
//! leave, and through the stack again where that fails or may have changed.

use std::{
    hash::{BuildHasher as _, RandomState},
    io,
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::{
    Output, PAUSE,
    books::Books,
    card::Card,
    interface::Interface,
    learn::{Learner, Lesson},
    oversize::Fit,
    program::ProgramSender,
    stack::Stack,
    story::{Story, Told, name},
};
pub use super::{sighting::Refusal, story::Way};
use crate::{
    cli::{Oversize, Transmit},
    config::Delivery,
    encap::outer::{Ids, Outer, Version},
    kernel::{own_paths::OwnPaths, transmit::Transmitter},
    ledger::OutputCounters,
    source::Frame,
};

/// Longest time to wait until what went one way has left, before a frame goes the other way.
const ORDER_TIME: Duration = Duration::from_millis(10);

/// The longest such time, where it was waited for in vain before.
const ORDER_TIME_MAX: Duration = Duration::from_millis(160);

/// How soon a change of ways is tried again.
const RETRY_TIME: Duration = Duration::from_millis(100);

/// How soon another frame is looked for to learn from, where all were too long.
const NEXT_FRAME_TIME: Duration = Duration::from_millis(5);

/// How often AF_XDP is tried again where a packet socket is in use.
const XSK_PERIOD: Duration = Duration::from_secs(10);

/// Datagrams in a row that were not seen, before that is worth telling.
const UNSEEN_TO_TELL: u32 = 4;

/// One thread's way to a sensor: through the host's stack until the outer headers are learnt, then straight
/// to the card.
///
/// What goes straight passes by the host's IP stack and packet filters; whether it passes by queue disciplines,
/// egress hooks and tcpdump as well depends on the [`Card`].
pub struct SensorOutput {
    raw: Stack,
    sensor: SocketAddr,
    delivery: Delivery,
    own_paths: Option<OwnPaths>,
    fit: Fit,
    learner: Learner,
    /// Whether there may be another way than through the stack.
    learns: bool,
    straight: Option<Straight>,
    /// Where AF_XDP turned out not to work.
    no_xsk: Option<u32>,
    /// A program that sends, loaded beforehand: that takes tens of milliseconds. None where it is in use, is not to
    /// be had, or did not work.
    transmitter: Option<Transmitter>,
    /// Whether the last frame went straight.
    was_straight: bool,
    /// Before then, the stack is not left again.
    switch: Instant,
    /// How long to wait for what went straight, before the next frame to learn from.
    patience: Duration,
    /// Why the sensor cannot be reached straight.
    refusal: Option<(Refusal, u32)>,
    ids: Ids,
    story: Story,
}

/// A way past the host's stack.
struct Straight {
    ifindex: u32,
    card: Card,
    mtu: usize,
    /// When the card was opened, or AF_XDP was last tried for it.
    opened: Instant,
    /// `None` while it is not known, or no longer.
    outer: Option<Outer>,
}

impl SensorOutput {
    /// Puts the other ways beside `raw`, which is open to `sensor`.
    /// `own_paths` is for hooks that must know the datagrams.
    ///
    /// # Errors
    ///
    /// No room for another thread.
    pub fn open(
        raw: Stack,
        sensor: SocketAddr,
        delivery: Delivery,
        own_paths: Option<OwnPaths>,
    ) -> Result<Self> {
        if delivery.oversize != Oversize::Fragment {
            raw.forbid_fragments().context("cannot forbid fragments")?;
        }
        let (ring, rings) = raw.ring();
        // Past the stack nothing is sent by who may not see how its datagrams leave.
        let learns = raw.is_raw() && delivery.transmit != Transmit::Udp;
        let start = RandomState::new().hash_one(ring) as u32;
        let fit = Fit::new(delivery.oversize, Version::of(sensor.ip()), raw.encapsulation().encap());
        Ok(Self {
            raw,
            sensor,
            delivery,
            own_paths,
            fit,
            learner: Learner::new(sensor, learns).context("cannot start a thread")?,
            learns,
            straight: None,
            no_xsk: None,
            transmitter: learns.then(load_transmitter).flatten(),
            was_straight: false,
            switch: Instant::now(),
            patience: ORDER_TIME,
            refusal: None,
            ids: Ids::new(ring, rings, start),
            story: Story::default(),
        })
    }

    /// Without the way by a program in the kernel, for tests of the others.
    #[must_use]
    pub fn without_program(self) -> Self {
        Self { transmitter: None, ..self }
    }

    /// Which way the last frame took.
    #[must_use]
    pub fn way(&self) -> Way {
        match &self.straight {
            Some(straight) if self.was_straight => straight.way(),
            _ => Way::Stack,
        }
    }

    /// Learns from one of `frames`, if one fits. Returns those that are still to be sent.
    fn learn<'a, 'b>(
        &mut self,
        frames: &'a [Frame<'b>],
        counters: &OutputCounters,
        now: Instant,
    ) -> io::Result<&'a [Frame<'b>]> {
        let changes = self.raw.address_changes();
        let Ok(mtu) = self.raw.path_mtu() else {
            // No route: the raw socket's errors say so.
            self.forget();
            self.learner.put_off(now, RETRY_TIME, changes);
            return Ok(frames);
        };
        let headers_len = Version::of(self.sensor.ip()).header_len() + self.raw.encapsulation().headers_len();
        let fits = |frame: &Frame<'_>| headers_len + frame.captured_len() <= mtu;
        let Some(index) = frames.iter().position(fits) else {
            self.learner.put_off(now, NEXT_FRAME_TIME, changes);
            return Ok(frames);
        };
        let (before, rest) = frames.split_at(index);
        self.pass_on(before, counters)?;
        if !self.wait_for_card(self.patience) {
            self.patience = (self.patience * 2).min(ORDER_TIME_MAX);
            self.learner.put_off(now, RETRY_TIME, changes);
            return Ok(rest);
        }
        self.patience = ORDER_TIME;
        let Some((&frame, rest)) = rest.split_first() else { return Ok(rest) };
        self.was_straight = false;
        let lesson = self.learner.learn(&mut self.raw, frame, counters)?;
        self.apply(lesson, mtu);
        Ok(rest)
    }

    fn apply(&mut self, lesson: Lesson, mtu: usize) {
        self.refusal = None;
        match lesson {
            Lesson::Template(outer, ifindex) => {
                if let Err(error) = self.follow(outer, ifindex, mtu) {
                    log::debug!("cannot send to {} past the host's stack: {error:#}", self.sensor);
                    self.forget();
                }
            }
            Lesson::Refused(refusal, ifindex) => {
                self.close_card();
                self.refusal = Some((refusal, ifindex));
                self.story.tell(self.sensor, Told::Refused(refusal, ifindex));
            }
            Lesson::Unseen => {
                self.forget();
                if self.learner.unseen() >= UNSEEN_TO_TELL {
                    self.story.tell(self.sensor, Told::Unseen);
                }
            }
        }
    }

    /// Sends like `outer` from now on, through the interface with number `ifindex`.
    fn follow(&mut self, outer: Outer, ifindex: u32, mtu: usize) -> Result<()> {
        // The source may be another than the raw socket's: NAT.
        let source = outer.source();
        let current = self.straight.as_ref().and_then(|straight| straight.outer.as_ref());
        if current.is_none_or(|current| current.source() != source)
            && let Some(paths) = &self.own_paths
        {
            paths.add(source, self.sensor)?;
        }
        let mut interface = Interface::find(ifindex)?;
        let mtu = mtu.min(interface.mtu()?);
        let mac = outer.destination_mac();
        let is_marked = self.raw.is_marked();
        let is_watched = self.own_paths.as_ref().is_some_and(|paths| paths.is_watched(ifindex));
        let try_xsk = self.no_xsk != Some(ifindex);
        let kept = self.straight.take_if(|straight| {
            straight.ifindex == ifindex
                && straight.card.takes(mtu)
                && (straight.card.is_seen() || !is_watched)
        });
        self.close_card();
        let mut straight = match kept {
            Some(kept) => kept,
            None => {
                let transmitter = self.transmitter.take_if(|_| Card::suits_program(&mut interface, mtu));
                let card = match transmitter {
                    Some(program) => Card::Program(ProgramSender::new(program, ifindex, is_marked)),
                    None => self.learner.open(move || {
                        Card::open(&mut Interface::find(ifindex)?, mtu, is_marked, is_watched, try_xsk)
                    })?,
                };
                Straight { ifindex, card, mtu, outer: None, opened: Instant::now() }
            }
        };
        // Whoever had the queue may be gone.
        if try_xsk && straight.way() == Way::PacketSocket && straight.opened.elapsed() >= XSK_PERIOD {
            straight.opened = Instant::now();
            let opened =
                self.learner.open(move || Ok(Card::open_xsk(&mut Interface::find(ifindex)?, mtu, is_marked)));
            if let Ok(Some(faster)) = opened {
                self.learner.close(std::mem::replace(&mut straight.card, faster));
            }
        }
        (straight.outer, straight.mtu) = (Some(outer), mtu);
        let way = self.straight.insert(straight).way();
        self.story.tell(self.sensor, Told::Straight { way, ifindex, mtu, source, mac });
        Ok(())
    }

    /// Sends `frames` the way that is in force, in order.
    fn pass_on(&mut self, frames: &[Frame<'_>], counters: &OutputCounters) -> io::Result<()> {
        if frames.is_empty() {
            return Ok(());
        }
        let mut rest = frames;
        if self.may_go_straight()
            && let Some(Straight { card, mtu, outer: Some(outer), .. }) = &mut self.straight
        {
            self.was_straight = true;
            let encapsulation = self.raw.encapsulation_mut();
            encapsulation.look_at_clock();
            let mut books = Books::new(frames, counters, encapsulation.encap().header_len());
            let Err(errno) = card.send(outer, encapsulation, *mtu, &mut self.ids, &mut books) else {
                if books.has_refusals() {
                    // The link may have lost its carrier, and the host another way; or packets have to be shorter.
                    let now = Instant::now();
                    self.learner.put_off(now, Duration::ZERO, self.raw.address_changes());
                    self.fit.make_due(now);
                }
                return Ok(());
            };
            rest = &frames[books.counted()..];
            self.lost_card(errno);
        }
        if rest.is_empty() {
            return Ok(());
        }
        // Where it is not drained in time, it is an interface that is gone.
        self.wait_for_card(ORDER_TIME);
        self.was_straight = false;
        self.raw.send(rest, counters)
    }

    /// Whether the next frame may go straight: it is known how, and all that went through the stack has
    /// left.
    fn may_go_straight(&mut self) -> bool {
        if self.straight.as_ref().is_none_or(|straight| straight.outer.is_none()) {
            return false;
        }
        if self.was_straight {
            return true;
        }
        let now = Instant::now();
        if now < self.switch {
            return false;
        }
        let is_drained = wait_until(|| self.raw.is_drained(), ORDER_TIME);
        if !is_drained {
            self.switch = now + RETRY_TIME;
        }
        is_drained
    }

    /// Waits until all that went straight has left.
    fn wait_for_card(&mut self, time: Duration) -> bool {
        match &mut self.straight {
            Some(straight) if self.was_straight => wait_until(|| straight.card.is_drained(), time),
            _ => true,
        }
    }

    /// The interface is down or gone.
    fn lost_card(&mut self, errno: i32) {
        let error = io::Error::from_raw_os_error(errno);
        log::debug!("cannot send to {} past the host's stack any more: {error}", self.sensor);
        if errno == libc::EIO {
            match &self.straight {
                // Its program is not to be used again.
                Some(Straight { card: Card::Program(_), .. }) => self.straight = None,
                straight => self.no_xsk = straight.as_ref().map(|straight| straight.ifindex),
            }
        }
        self.wait_for_card(ORDER_TIME);
        self.forget();
        // An interface that is down comes back as the same; its queue would be busy for a while if it were
        // given up.
        if errno != libc::ENETDOWN {
            self.close_card();
        }
        self.learner.put_off(Instant::now(), Duration::ZERO, self.raw.address_changes());
    }

    fn forget(&mut self) {
        if let Some(straight) = &mut self.straight {
            straight.outer = None;
        }
    }

    fn close_card(&mut self) {
        match self.straight.take().map(|straight| straight.card) {
            Some(Card::Program(sender)) => self.transmitter = Some(sender.into_transmitter()),
            Some(card) => self.learner.close(card),
            None => {}
        }
    }
}

impl Straight {
    fn way(&self) -> Way {
        self.card.way()
    }
}

impl Output for SensorOutput {
    fn send(&mut self, frames: &[Frame<'_>], counters: &OutputCounters) -> io::Result<()> {
        let now = Instant::now();
        self.fit.look_up(&mut self.raw, now);
        let in_use = self.straight.as_ref().filter(|straight| straight.outer.is_some());
        let longest = self.fit.longest(in_use.map_or(usize::MAX, |straight| straight.mtu));
        let fit = self.fit;
        fit.send(frames, longest, counters, |frames| self.send_fitted(frames, counters, now))
    }

    fn flush(&mut self, counters: &OutputCounters) -> io::Result<()> {
        self.raw.flush(counters)
    }
}

impl SensorOutput {
    fn send_fitted(
        &mut self,
        frames: &[Frame<'_>],
        counters: &OutputCounters,
        now: Instant,
    ) -> io::Result<()> {
        if !self.learns {
            return self.raw.send(frames, counters);
        }
        self.raw.count_batch(counters);
        if self.raw.has_shorter_path() {
            self.raw.note_path();
            self.learner.put_off(now, Duration::ZERO, self.raw.address_changes());
        }
        let mut rest = frames;
        if !frames.is_empty() && self.learner.is_due(now, self.raw.address_changes()) {
            rest = self.learn(frames, counters, now)?;
        }
        if self.delivery.transmit == Transmit::Packet
            && let Some((refusal, ifindex)) = self.refusal
        {
            rest.iter().for_each(|frame| counters.wire_frame_failed(frame));
            return Err(io::Error::other(format!(
                "--transmit packet cannot reach {}: datagrams leave through {}, {refusal}: use --transmit auto",
                self.sensor,
                name(ifindex)
            )));
        }
        self.pass_on(rest, counters)
    }
}

fn load_transmitter() -> Option<Transmitter> {
    match Transmitter::load() {
        Ok(transmitter) => Some(transmitter),
        Err(error) => {
            log::debug!("no program sends: {error:#}");
            None
        }
    }
}

/// Waits until `is_over`, at most for `time`. Returns whether it is.
fn wait_until(mut is_over: impl FnMut() -> bool, time: Duration) -> bool {
    if is_over() {
        return true;
    }
    let deadline = Instant::now() + time;
    loop {
        thread::sleep(PAUSE);
        if is_over() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
    }
}
