//! What a mirror adds to the host's own traffic: the time from a request of the client to the router's
//! answer, one at a time, both over the mirrored interface.

use std::{
    net::UdpSocket,
    time::{Duration, Instant},
};

use serde::Serialize;

use super::{interrupt, place, place::Place, systems, systems::System};
use crate::{
    lab::{CLIENT, ROUTER},
    packet_socket::pin,
};

/// Requests of one measurement, and those before it that are not counted.
const REQUESTS: u32 = 20_000;
const WARM_UP: u32 = 1_000;
/// Bytes of the request, and of the answer, behind their UDP headers.
const PAYLOAD: usize = 64;
/// Nothing is lost on a veth that carries one datagram at a time: whoever waits so long has a broken mirror.
const PATIENCE: Duration = Duration::from_secs(2);
/// Of both ends.
const PORT: u16 = 7;

/// Where the two ends wait for each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Ends {
    /// Both on the processor that frames are received on: nothing but the work on the way counts.
    #[serde(rename = "one processor")]
    Together,
    /// The router's end on the one that programs mirror on, so that it also shares that with them. Each
    /// processor is woken for each datagram.
    #[serde(rename = "two processors")]
    Apart,
}

/// One measurement.
#[derive(Debug, Clone, Copy)]
pub struct Latency {
    /// Microseconds that half of the requests, and 99 % of them, took at most.
    pub p50_us: f64,
    pub p99_us: f64,
    /// Share of the requests and answers that reached the sensor.
    pub arrived: Option<f64>,
}

impl Ends {
    /// Both, in the order of the table.
    pub const ALL: [Self; 2] = [Self::Together, Self::Apart];

    /// Its name in the table and in the results.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Together => "one processor",
            Self::Apart => "two processors",
        }
    }

    fn router(self) -> usize {
        match self {
            Self::Together => place::PROCESSOR,
            Self::Apart => systems::PROCESSOR.parse().expect("a processor"),
        }
    }
}

/// Measures.
///
/// # Panics
/// Where the mirror fails, or a datagram does not come back.
#[must_use]
pub fn measure(place: &Place, system: &'static System, ends: Ends) -> Latency {
    interrupt::check();
    let active = system.start(place);
    // Bound before the first request.
    let router = place.lab.router.within(|| open(ROUTER, CLIENT));
    let client = place.lab.client.within(|| open(CLIENT, ROUTER));
    let processor = ends.router();
    let answering = place.lab.router.thread("answers", move || {
        pin(processor);
        let mut buffer = [0; PAYLOAD];
        for _ in 0..WARM_UP + REQUESTS {
            let len = router.recv(&mut buffer).expect("no request");
            let _ = router.send(&buffer[..len]).expect("cannot answer");
        }
    });
    let before = place.sensor.received();
    let asking = place.lab.client.thread("requests", move || {
        pin(place::PROCESSOR);
        requests(&client)
    });
    let mut times = asking.join().expect("the client failed");
    answering.join().expect("the router failed");
    let expected = 2 * u64::from(WARM_UP + REQUESTS);
    let arrived = place.sensor.settle(before, expected).frames;
    let _ = active.stop();
    times.sort_unstable();
    let quantile = |percent: usize| times[times.len() * percent / 100].as_secs_f64() * 1e6;
    Latency {
        p50_us: quantile(50),
        p99_us: quantile(99),
        arrived: (!system.is_nothing()).then(|| arrived as f64 / expected as f64),
    }
}

/// Connected, so that each end takes only what the other sent.
fn open(address: &'static str, peer: &'static str) -> UdpSocket {
    let socket = UdpSocket::bind((address, PORT)).expect("cannot bind");
    socket.connect((peer, PORT)).expect("cannot connect");
    socket.set_read_timeout(Some(PATIENCE)).expect("cannot set a time limit");
    socket
}

fn requests(client: &UdpSocket) -> Vec<Duration> {
    let mut times = Vec::with_capacity(REQUESTS as usize);
    let mut buffer = [0; PAYLOAD];
    for number in 0..WARM_UP + REQUESTS {
        let mut request = [0x42; PAYLOAD];
        request[..4].copy_from_slice(&number.to_be_bytes());
        let start = Instant::now();
        let _ = client.send(&request).expect("cannot ask");
        let _ = client.recv(&mut buffer).expect("no answer");
        let time = start.elapsed();
        assert_eq!(buffer, request, "the answer to another request");
        if number >= WARM_UP {
            times.push(time);
        }
    }
    times
}
