//! What Prometheus reads. docs/metrics.md says what each metric means; the names are the contract with whoever has
//! dashboards and alerts.

pub mod host;

use prometheus::{
    TextEncoder,
    proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType},
};

use crate::{
    ledger::Ledger,
    status::{HostStatus, Status},
    timings::Reading,
};

/// What the text form is called in HTTP.
pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

/// Everything about a run at one moment. What the host counts is not in it.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// What is told of it.
    pub status: Status,
    /// What was seen, by interface and direction.
    pub seen: Vec<Seen>,
    /// What each ring's reader has measured.
    pub timings: Vec<RingTimings>,
    /// Interfaces that are mirrored at this moment.
    pub attached: usize,
}

/// What was seen of one interface in one direction.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// The interface's name, or a capture's.
    pub iface: String,
    /// `ingress`, `egress`, or `none` of a capture.
    pub direction: &'static str,
    /// Frames.
    pub frames: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What a ring's reader has measured.
#[derive(Clone, Debug, Default)]
pub struct RingTimings {
    /// In 1024ths of the ring.
    pub occupancy: Reading,
    /// In nanoseconds.
    pub delay: Reading,
}

/// The frames that were seen and not sent, by why.
fn not_sent(frames: &Ledger) -> [(&'static str, u64); 8] {
    [
        ("filtered", frames.filtered),
        ("sampled_out", frames.sampled_out),
        ("rate_limited", frames.rate_limited),
        ("own", frames.own),
        ("ring_full", frames.ring_full),
        ("copy_failed", frames.copy_failed),
        ("too_big", frames.too_big),
        ("send_failed", frames.send_failed),
    ]
}

/// The text of `/metrics`.
///
/// # Errors
///
/// None that is known.
pub fn exposition(snapshot: &Snapshot, host: &HostStatus) -> Result<String, prometheus::Error> {
    let Snapshot { status, seen, timings, attached } = snapshot;
    let report = &status.report;
    let mut page = Page::default();
    page.gauge(
        "mirror_build_info",
        "The agent's version; always 1.",
        [(vec![("version", &*status.version)], 1.0)],
    );
    page.gauge(
        "mirror_run_info",
        "How frames are mirrored: by which mode, at which hook, in which encapsulation; always 1.",
        [(vec![("mode", &*report.mode), ("hook", &report.hook), ("encap", &report.encap)], 1.0)],
    );
    page.gauge(
        "mirror_start_time_seconds",
        "When the run began, in seconds since 1970.",
        [(vec![], status.started)],
    );
    page.gauge(
        "mirror_ready",
        "1 where all hooks are attached and a sensor is reachable, else 0: /readyz says why.",
        [(vec![], f64::from(u8::from(status.ready)))],
    );
    page.gauge("mirror_interfaces", "Interfaces that are mirrored now.", [(vec![], *attached as f64)]);
    page.counter(
        "mirror_frames_seen_total",
        "Frames that the hooks saw, or that were taken from captures.",
        seen.iter().map(|seen| (vec![("iface", &*seen.iface), ("direction", seen.direction)], seen.frames)),
    );
    page.counter(
        "mirror_bytes_seen_total",
        "Bytes of the frames that the hooks saw.",
        seen.iter().map(|seen| (vec![("iface", &*seen.iface), ("direction", seen.direction)], seen.bytes)),
    );
    page.counter(
        "mirror_frames_sent_total",
        "Frames handed to the network, or written.",
        [(vec![], report.frames.sent)],
    );
    page.counter(
        "mirror_frames_dropped_total",
        "Frames seen and not sent, by the ledger's name of why. Not wanted: filtered, sampled_out, rate_limited, own. \
         Lost: ring_full, copy_failed, too_big, send_failed.",
        not_sent(&report.frames).map(|(reason, count)| (vec![("reason", reason)], count)),
    );
    page.counter(
        "mirror_frames_truncated_total",
        "Frames sent with fewer bytes than they had.",
        [(vec![], report.truncated)],
    );
    page.counter(
        "mirror_segments_sent_total",
        "Frames of the wire that the sent ones are, after the segmentation that was left to the card.",
        [(vec![], report.segments)],
    );
    page.counter(
        "mirror_datagrams_sent_total",
        "Datagrams handed to the network, by sensor.",
        status.destinations.iter().map(|dest| (vec![("dest", dest.label())], dest.datagrams)),
    );
    page.counter(
        "mirror_bytes_sent_total",
        "UDP payload of the datagrams handed to the network, by sensor.",
        status.destinations.iter().map(|dest| (vec![("dest", dest.label())], dest.bytes)),
    );
    page.gauge(
        "mirror_destination_up",
        "0 where a sensor is taken to be down, else 1.",
        status
            .destinations
            .iter()
            .map(|dest| (vec![("dest", dest.label())], f64::from(u8::from(!dest.is_down)))),
    );
    page.counter(
        "mirror_send_errors_total",
        "Refusals by the kernel or by the network, by the name of the error.",
        report.send_errors.iter().map(|(errno, count)| (vec![("errno", &**errno)], *count)),
    );
    let rings: Vec<String> = status.rings.iter().map(|ring| ring.index.to_string()).collect();
    let of_rings = || rings.iter().map(|ring| vec![("ring", &**ring)]);
    page.gauge(
        "mirror_ring_used_bytes",
        "Bytes of a ring that hold frames which are not sent yet.",
        of_rings().zip(status.rings.iter().map(|ring| ring.used as f64)),
    );
    page.gauge(
        "mirror_ring_size_bytes",
        "Bytes of a ring.",
        of_rings().zip(status.rings.iter().map(|ring| ring.size as f64)),
    );
    page.histogram(
        "mirror_ring_occupancy_ratio",
        "What part of a ring was taken, each time that a batch of frames was read from it.",
        1024.0,
        of_rings().zip(timings.iter().map(|timings| &timings.occupancy)),
    );
    page.histogram(
        "mirror_capture_to_send_seconds",
        "From a frame's capture to the end of the call that sent it, of one frame in 64 or more, at most one a batch.",
        1e9,
        of_rings().zip(timings.iter().map(|timings| &timings.delay)),
    );
    page.counter(
        "mirror_reloads_total",
        "Readings of the configuration that SIGHUP asked for, by what became of them.",
        [
            (vec![("result", "done")], status.reloads.done),
            (vec![("result", "failed")], status.reloads.failed),
        ],
    );
    page.counter(
        "mirror_host_udp_send_buffer_errors_total",
        "Datagrams of all programs of this host that UDP sockets' send buffers had no room for.",
        [(vec![], host.udp_send_buffer_errors)],
    );
    page.counter(
        "mirror_host_softnet_dropped_total",
        "Packets of this host that processors' queues had no room for.",
        [(vec![], host.softnet_dropped)],
    );
    page.counter(
        "mirror_host_iface_dropped_total",
        "Packets that an interface dropped, received and sent together.",
        host.iface_dropped.iter().map(|(name, count)| (vec![("iface", &**name)], *count)),
    );
    TextEncoder::new().encode_to_string(&page.0)
}

/// A metric's labels.
type Labels<'a> = Vec<(&'static str, &'a str)>;

/// The metrics of one answer.
#[derive(Default)]
struct Page(Vec<MetricFamily>);

impl Page {
    fn counter<'a>(&mut self, name: &str, help: &str, values: impl IntoIterator<Item = (Labels<'a>, u64)>) {
        let metric = |(labels, value): (Labels<'a>, u64)| {
            let mut counter = Counter::default();
            // Exact up to 2^53.
            counter.set_value(value as f64);
            let mut metric = labelled(&labels);
            metric.set_counter(counter);
            metric
        };
        self.add(name, help, MetricType::COUNTER, values.into_iter().map(metric).collect());
    }

    fn gauge<'a>(&mut self, name: &str, help: &str, values: impl IntoIterator<Item = (Labels<'a>, f64)>) {
        let metric = |(labels, value): (Labels<'a>, f64)| {
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            let mut metric = labelled(&labels);
            metric.set_gauge(gauge);
            metric
        };
        self.add(name, help, MetricType::GAUGE, values.into_iter().map(metric).collect());
    }

    /// `per_unit`: so many of what the readings' numbers count are one of the metric's unit.
    fn histogram<'a>(
        &mut self,
        name: &str,
        help: &str,
        per_unit: f64,
        readings: impl IntoIterator<Item = (Labels<'a>, &'a Reading)>,
    ) {
        let scaled = |number: u64| number as f64 / per_unit;
        let metric = |(labels, reading): (Labels<'a>, &'a Reading)| {
            let mut below = 0;
            let bucket = |(bound, count): (&u64, &u64)| {
                below += count;
                let mut bucket = Bucket::default();
                bucket.set_upper_bound(scaled(*bound));
                bucket.set_cumulative_count(below);
                bucket
            };
            let mut histogram = Histogram::default();
            histogram.set_bucket(reading.bounds.iter().zip(&reading.counts).map(bucket).collect());
            histogram.set_sample_count(reading.count());
            histogram.set_sample_sum(scaled(reading.sum));
            let mut metric = labelled(&labels);
            metric.set_histogram(histogram);
            metric
        };
        self.add(name, help, MetricType::HISTOGRAM, readings.into_iter().map(metric).collect());
    }

    fn add(&mut self, name: &str, help: &str, kind: MetricType, metrics: Vec<Metric>) {
        if metrics.is_empty() {
            // The encoder takes no family without members.
            return;
        }
        let mut family = MetricFamily::default();
        family.set_name(name.into());
        family.set_help(help.into());
        family.set_field_type(kind);
        family.set_metric(metrics);
        self.0.push(family);
    }
}

fn labelled(labels: &Labels<'_>) -> Metric {
    let pair = |(name, value): &(&str, &str)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).into());
        pair.set_value((*value).into());
        pair
    };
    Metric::from_label(labels.iter().map(pair).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::{
        status::{DestinationStatus, RingStatus},
        timings::Timings,
    };

    #[test]
    fn text_is_as_documented() {
        let mut snapshot = Snapshot::default();
        let status = &mut snapshot.status;
        status.version = "1.2.3".into();
        status.report.frames = Ledger { seen: 1 << 40, sent: 9, ring_full: 3, ..Ledger::default() };
        status.report.send_errors.insert("ENOBUFS".into(), 4);
        status.rings = vec![RingStatus { index: 0, size: 4096, used: 1024 }];
        status.destinations = vec![DestinationStatus {
            address: "10.0.0.2:4789".into(),
            name: Some("sen\"sor:4789".into()),
            datagrams: 5,
            is_down: true,
            ..DestinationStatus::default()
        }];
        let timings = Timings::default();
        timings.occupancy.observe(512);
        timings.delay.observe(20_000);
        timings.delay.observe(u64::from(u32::MAX));
        snapshot.timings =
            vec![RingTimings { occupancy: timings.occupancy.read(), delay: timings.delay.read() }];
        snapshot.seen = vec![Seen { iface: "eth0".into(), direction: "ingress", frames: 1 << 40, bytes: 7 }];
        let text = exposition(&snapshot, &HostStatus::default()).unwrap();
        for line in [
            "mirror_build_info{version=\"1.2.3\"} 1",
            "# TYPE mirror_frames_seen_total counter",
            "mirror_frames_seen_total{iface=\"eth0\",direction=\"ingress\"} 1099511627776",
            "mirror_frames_dropped_total{reason=\"ring_full\"} 3",
            "mirror_frames_dropped_total{reason=\"own\"} 0",
            "mirror_datagrams_sent_total{dest=\"sen\\\"sor:4789\"} 5",
            "mirror_destination_up{dest=\"sen\\\"sor:4789\"} 0",
            "mirror_send_errors_total{errno=\"ENOBUFS\"} 4",
            "mirror_ring_used_bytes{ring=\"0\"} 1024",
            "mirror_ring_occupancy_ratio_bucket{ring=\"0\",le=\"0.375\"} 0",
            "mirror_ring_occupancy_ratio_bucket{ring=\"0\",le=\"0.5\"} 1",
            "mirror_ring_occupancy_ratio_sum{ring=\"0\"} 0.5",
            "mirror_capture_to_send_seconds_bucket{ring=\"0\",le=\"0.00001\"} 0",
            "mirror_capture_to_send_seconds_bucket{ring=\"0\",le=\"0.000025\"} 1",
            "mirror_capture_to_send_seconds_bucket{ring=\"0\",le=\"2.5\"} 1",
            "mirror_capture_to_send_seconds_bucket{ring=\"0\",le=\"+Inf\"} 2",
            "mirror_capture_to_send_seconds_count{ring=\"0\"} 2",
        ] {
            assert!(text.lines().any(|found| found == line), "no `{line}` in:\n{text}");
        }
        // Without rings there is nothing to measure.
        let text = exposition(&Snapshot::default(), &HostStatus::default()).unwrap();
        assert!(!text.contains("ring_occupancy") && !text.contains("capture_to_send"), "{text}");
    }
}
