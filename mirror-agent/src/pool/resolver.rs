//! Looks up the names of sensors again and again, apart from everything else: an answer may take seconds.

use std::{
    io,
    net::SocketAddr,
    time::{Duration, Instant},
};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// The shortest time between two look-ups of one name.
const PAUSE: Duration = Duration::from_secs(1);

/// What a name stands for now.
#[derive(Debug)]
pub struct Answer {
    /// The number of the sensor with this name.
    pub sensor: usize,
    /// In the order in which the host's resolver gives them.
    pub addresses: io::Result<Vec<SocketAddr>>,
}

/// Asks, and hears.
#[derive(Debug)]
pub struct Resolver {
    interval: Duration,
    /// By the sensors' numbers; none where there is no name.
    names: Vec<Option<Name>>,
    sender: UnboundedSender<Answer>,
    answers: UnboundedReceiver<Answer>,
}

#[derive(Debug)]
struct Name {
    host: String,
    port: u16,
    asked: Instant,
    due: Instant,
    waits: bool,
}

impl Resolver {
    /// For these names and ports, by the sensors' numbers, which were looked up just now.
    pub fn new(names: impl Iterator<Item = Option<(String, u16)>>, interval: Duration) -> Self {
        let (sender, answers) = unbounded_channel();
        let asked = Instant::now();
        let due = asked + interval;
        let name = |(host, port)| Name { host, port, asked, due, waits: false };
        Self { interval, names: names.map(|named| named.map(name)).collect(), sender, answers }
    }

    /// When [`Self::ask`] is to be called; never, where there is no name.
    pub fn due(&self) -> Option<Instant> {
        self.names.iter().flatten().filter(|name| !name.waits).map(|name| name.due).min()
    }

    /// Has the sensor's name, if it has one, looked up soon.
    pub fn hurry(&mut self, sensor: usize) {
        if let Some(Some(name)) = self.names.get_mut(sensor) {
            name.due = name.due.min((name.asked + PAUSE).max(Instant::now()));
        }
    }

    /// Asks for the names that are due.
    pub fn ask(&mut self) {
        let now = Instant::now();
        for (sensor, name) in self.names.iter_mut().enumerate() {
            let Some(name) = name.as_mut().filter(|name| !name.waits && now >= name.due) else { continue };
            (name.waits, name.asked) = (true, now);
            let (sender, host, port) = (self.sender.clone(), name.host.clone(), name.port);
            tokio::spawn(async move {
                let addresses = tokio::net::lookup_host((host, port)).await.map(Iterator::collect);
                // Nobody hears any more once the agent stops.
                let _ = sender.send(Answer { sensor, addresses });
            });
        }
    }

    /// Waits for the next answer; for ever, where none is to come.
    pub async fn next(&mut self) -> Answer {
        // The sender beside it keeps the channel open.
        let Some(answer) = self.answers.recv().await else { return std::future::pending().await };
        if let Some(Some(name)) = self.names.get_mut(answer.sensor) {
            name.waits = false;
            name.due = Instant::now() + self.interval;
        }
        answer
    }
}

/// Which of `answers` to send to. The one in use, as long as it is among them: resolvers change their order, and a
/// connection is to stay where it is. Else the first one; where that in use does not answer, the one behind it.
#[must_use]
pub fn choose(current: SocketAddr, answers: &[SocketAddr], is_down: bool) -> SocketAddr {
    match answers.iter().position(|answer| *answer == current) {
        Some(_) if !is_down => current,
        Some(place) => answers.get(place + 1).or_else(|| answers.first()).copied().unwrap_or(current),
        None => answers.first().copied().unwrap_or(current),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_in_use_stays_while_the_name_has_it() {
        let address = |last| SocketAddr::from(([10, 0, 0, last], 4789));
        let [one, two, three] = [1, 2, 3].map(address);
        assert_eq!(choose(one, &[two, one], false), one);
        assert_eq!(choose(one, &[two, three], false), two);
        assert_eq!(choose(one, &[], false), one);
        assert_eq!(choose(one, &[one], true), one);
        assert_eq!(choose(one, &[one, two, three], true), two);
        assert_eq!(choose(three, &[one, two, three], true), one);
        assert_eq!(choose(three, &[two, one], true), two);
    }
}
