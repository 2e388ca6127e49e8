//! Sends ready-made packets by a kernel program, many in one call.
//!
//! They take the interface's queue and egress hooks, as those of the host's programs do, and tcpdump on this host
//! sees them. No socket is behind them that would make the sender wait for a card: what a full queue drops is
//! known for the packet that it is dropped for only. So this is for interfaces that hand packets on at once
//! and keep no queue: veth, where it saves the most.

use std::{io, thread};

use arrayvec::ArrayVec;
use mirror_common::{
    own,
    transmit::{PACKET_MAX, SLOTS},
};

use super::{
    PAUSE, TRIES,
    books::{Books, Part},
    interface::Interface,
};
use crate::{
    encap::{
        encapsulation::Encapsulation,
        outer::{ETHERNET_LEN, Ids, Outer},
    },
    kernel::transmit::Transmitter,
};

/// The largest network packet that can be sent this way.
pub const MTU_MAX: usize = PACKET_MAX - ETHERNET_LEN;

/// A queue dropped the packet, or another one for it: include/linux/netdevice.h.
const NET_XMIT_DROP: i32 = 1;

/// A program that sends through one interface.
#[derive(Debug)]
pub struct ProgramSender {
    transmitter: Transmitter,
    ifindex: u32,
    mark: u32,
    staged: Box<ArrayVec<Part, SLOTS>>,
}

impl ProgramSender {
    /// Sends through the interface with number `ifindex`. `is_marked` says whether packets carry [`own::MARK`].
    #[must_use]
    pub fn new(transmitter: Transmitter, ifindex: u32, is_marked: bool) -> Self {
        let mark = if is_marked { own::MARK } else { 0 };
        Self { transmitter, ifindex, mark, staged: Box::default() }
    }

    /// The program, for another interface.
    #[must_use]
    pub fn into_transmitter(self) -> Transmitter {
        self.transmitter
    }

    /// Sends the frames of `books`, in order.
    ///
    /// # Errors
    ///
    /// The errno that says that the interface is down or gone, or EIO where the program does not run. The frames
    /// that `books` has not counted were not sent.
    pub fn send(
        &mut self,
        outer: &Outer,
        encapsulation: &mut Encapsulation,
        mtu: usize,
        ids: &mut Ids,
        books: &mut Books<'_>,
    ) -> Result<(), i32> {
        self.staged.clear();
        for (index, frame) in books.frames.iter().enumerate() {
            let headers = encapsulation.headers(frame);
            let Some(mut packets) = outer.packets(headers, frame.parts(), mtu.min(MTU_MAX), ids.draw())
            else {
                self.push_out(books)?;
                books.gave_up(Part { frame: index, is_last: true }, libc::EMSGSIZE);
                continue;
            };
            while let Some(packet) = packets.next() {
                if self.staged.is_full() {
                    self.push_out(books)?;
                }
                let part = Part { frame: index, is_last: packets.is_over() };
                let [head, bytes] = books.body(index, &packet);
                if self.transmitter.put(self.staged.len(), [packet.header(), head, bytes]) {
                    self.staged.push(part);
                } else {
                    debug_assert!(false, "longer than the MTU");
                    books.gave_up(part, libc::EMSGSIZE);
                }
            }
        }
        self.push_out(books)
    }

    fn push_out(&mut self, books: &mut Books<'_>) -> Result<(), i32> {
        let mut done = 0;
        let mut tries = 0;
        while let Some(&part) = self.staged.get(done) {
            if books.is_lost(part.frame) {
                // The fragments of a datagram that is lost are of no use.
                books.gave_up(part, 0);
                done += 1;
                continue;
            }
            let run = self.transmitter.run(done, self.staged.len(), self.ifindex, self.mark);
            let outcome = run.map_err(|error| {
                log::debug!("the transmitting program does not run: {error}");
                libc::EIO
            })?;
            if outcome.end > done {
                self.staged[done..outcome.end].iter().for_each(|&part| books.sent(part));
                done = outcome.end;
                tries = 0;
            }
            let (Some(&part), refusal) = (self.staged.get(done), outcome.refusal) else { break };
            is_up(self.ifindex).map_err(|error| error.raw_os_error().unwrap_or(libc::ENODEV))?;
            tries += 1;
            let is_full = matches!(-refusal, libc::ENOBUFS | libc::EAGAIN | libc::ENOMEM);
            // What was not tried is.
            if (refusal == NET_XMIT_DROP || is_full || refusal == 0) && tries < TRIES {
                thread::sleep(PAUSE);
                continue;
            }
            books.gave_up(part, if refusal < 0 { -refusal } else { libc::ENOBUFS });
            done += 1;
            tries = 0;
        }
        self.staged.clear();
        Ok(())
    }
}

/// Fails with what keeps an interface from sending: it is gone, or down.
fn is_up(ifindex: u32) -> io::Result<()> {
    let mut interface = Interface::find(ifindex)?;
    if interface.is_up()? { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::ENETDOWN)) }
}
