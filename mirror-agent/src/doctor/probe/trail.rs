//! How far a probe frame got.

use crate::doctor::finding::Finding;

/// The stations that it passed, and what became of it.
#[derive(Clone, Debug)]
pub struct Trail {
    about: String,
    passed: Vec<String>,
}

/// Why a frame that does not come out is bad for a mirror.
const WHY: &str = "what a mirror does with every frame, it did not do with this one: traffic stops there";

impl Trail {
    /// None passed yet. `about` says which frame it is.
    #[must_use]
    pub fn new(about: impl Into<String>) -> Self {
        Self { about: about.into(), passed: Vec::new() }
    }

    /// It passed this one.
    pub fn pass(&mut self, station: impl Into<String>) {
        self.passed.push(station.into());
    }

    /// It went all the way.
    #[must_use]
    pub fn arrived(&self) -> Finding {
        Finding::ok(self.text()).about(&self.about)
    }

    /// It went all the way that can be seen from here, and something is to be said of that.
    #[must_use]
    pub fn noted(&self, what: &str, why: &str) -> Finding {
        Finding::note(format!("{}; {what}", self.text()), why).about(&self.about)
    }

    /// It did not pass this station.
    #[must_use]
    pub fn stopped(&self, station: &str, reason: &str) -> Finding {
        let passed = if self.passed.is_empty() { String::new() } else { format!("{}; ", self.text()) };
        let reason = if reason.is_empty() { String::new() } else { format!(": {reason}") };
        Finding::fail(format!("{passed}stops: not {station}{reason}"), WHY).about(&self.about)
    }

    /// The same, where another check has found the reason, and the commands.
    #[must_use]
    pub fn stopped_by(&self, station: &str, reason: Finding) -> Finding {
        let Finding { found, .. } = self.stopped(station, &reason.found);
        Finding { about: Some(self.about.clone()), found, why: WHY.into(), ..reason }
    }

    fn text(&self) -> String {
        self.passed.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Status;

    #[test]
    fn the_first_station_that_was_not_reached_is_named() {
        let mut trail = Trail::new("eth0 egress");
        assert_eq!(trail.stopped("sent", "eth0 is down").found, "stops: not sent: eth0 is down");
        trail.pass("sent");
        trail.pass("seen by the hook");
        let stopped = trail.stopped("in the ring", "");
        assert_eq!(stopped.found, "sent, seen by the hook; stops: not in the ring");
        assert_eq!((stopped.status, stopped.about.as_deref()), (Status::Fail, Some("eth0 egress")));
        let reason = Finding::fail("a filter drops it", "x").mend("nft", "no nft");
        let stopped = trail.stopped_by("left", reason);
        assert_eq!(stopped.found, "sent, seen by the hook; stops: not left: a filter drops it");
        assert_eq!(
            (&stopped.fix[0], &stopped.undo[0], &*stopped.why),
            (&"nft".into(), &"no nft".into(), WHY)
        );
        assert_eq!(trail.arrived().found, "sent, seen by the hook");
    }
}
