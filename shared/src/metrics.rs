//! What is counted, and how it is told: Prometheus' text format, version 0.0.4.
//!
//! Counting is a few relaxed atomic additions, into a place that whoever counts holds already; everything else
//! happens when somebody asks. What a daemon has to tell is left to its own `metrics` module.

use std::collections::{HashMap, HashSet};
use std::fmt::{self, Display, Write};
use std::fs;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use crate::mapping::MappingId;
use crate::threads::lock;

/// `Content-Type` of what [`Page`] makes.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
/// Mappings with series of their own; those beyond share one. Each costs some twenty lines.
const MOST_ROWS: usize = 1000;
/// Upper bounds of the buckets for durations, in microseconds.
const BOUNDS: [u64; 12] = [
    1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 10_000_000,
];
/// Status classes, from `1xx`.
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// A number that rises.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// A counter for a `static`.
    pub const fn new() -> Counter {
        Counter(AtomicU64::new(0))
    }

    /// Adds.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Relaxed);
    }

    /// How many until now.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Durations, by bucket.
#[derive(Debug, Default)]
pub struct Durations {
    /// Those within each bound and beyond the one before; those beyond all bounds last.
    buckets: [AtomicU64; BOUNDS.len() + 1],
    micros: AtomicU64,
}

impl Durations {
    /// Counts one.
    pub fn count(&self, micros: u64) {
        let bucket = BOUNDS.partition_point(|bound| *bound < micros);
        self.buckets[bucket].fetch_add(1, Relaxed);
        self.micros.fetch_add(micros, Relaxed);
    }
}

/// A request that is over.
#[derive(Clone, Copy, Debug)]
pub struct Done {
    /// Status that the visitor got.
    pub status: u16,
    /// It could not be answered, or not to the end.
    pub failed: bool,
    /// From the visitor, without head.
    pub bytes_in: u64,
    /// To the visitor, without head.
    pub bytes_out: u64,
    /// From its head to the end of the answer.
    pub micros: u64,
}

/// The requests of one mapping.
#[derive(Debug, Default)]
pub struct Requests {
    classes: [AtomicU64; CLASSES.len()],
    failed: AtomicU64,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    durations: Durations,
}

impl Requests {
    /// Counts one.
    pub fn count(&self, done: Done) {
        let class = usize::from(done.status / 100).saturating_sub(1);
        self.classes[class.min(CLASSES.len() - 1)].fetch_add(1, Relaxed);
        if done.failed {
            self.failed.fetch_add(1, Relaxed);
        }
        self.bytes_in.fetch_add(done.bytes_in, Relaxed);
        self.bytes_out.fetch_add(done.bytes_out, Relaxed);
        // An upgraded connection lasts as long as the visitor stays.
        if done.status != 101 {
            self.durations.count(done.micros);
        }
    }
}

/// The counters of all mappings there are. A mapping keeps its own while it is changed, and loses them when it is
/// deleted.
#[derive(Debug, Default)]
pub struct Registry(Mutex<HashMap<MappingId, Arc<Requests>>>);

impl Registry {
    /// The counters of a mapping, to be held by whoever serves it.
    pub fn of(&self, id: MappingId) -> Arc<Requests> {
        Arc::clone(lock(&self.0).entry(id).or_default())
    }

    /// Forgets all mappings but these.
    pub fn keep(&self, ids: &HashSet<MappingId>) {
        lock(&self.0).retain(|id, _| ids.contains(id));
    }
}

/// A mapping and its counters.
#[derive(Debug)]
pub struct Row {
    /// Its id.
    pub mapping: String,
    /// Its host name.
    pub host: String,
    /// Its counters.
    pub requests: Arc<Requests>,
}

/// Mappings that are told together.
struct Group<'r> {
    labels: [(&'static str, &'r str); 2],
    of: Vec<Arc<Requests>>,
}

impl Group<'_> {
    fn total(&self, value: impl Fn(&Requests) -> &AtomicU64) -> u64 {
        self.of.iter().map(|row| value(row).load(Relaxed)).sum()
    }
}

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only rises, until the daemon is started again.
    Counter,
    /// Rises and falls.
    Gauge,
    /// Buckets of durations.
    Histogram,
}

impl Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        })
    }
}

/// Names and values that tell series of a metric apart.
pub type Labels<'l> = [(&'l str, &'l str)];

/// The text as it grows. All series of a metric follow its head, as the format asks.
#[derive(Debug, Default)]
pub struct Page {
    text: String,
    name: &'static str,
}

impl Page {
    /// Begins a metric. A counter's name ends in `_total`.
    pub fn metric(&mut self, name: &'static str, kind: Kind, help: &str) -> &mut Page {
        debug_assert_eq!(kind == Kind::Counter, name.ends_with("_total"), "{name}");
        self.name = name;
        self.line(format_args!("# HELP {name} {help}"));
        self.line(format_args!("# TYPE {name} {kind}"));
        self
    }

    /// A series of the metric.
    pub fn series(&mut self, labels: &Labels<'_>, value: impl Display) -> &mut Page {
        let name = self.name;
        self.line(format_args!("{name}{} {value}", Braces(labels, None)))
    }

    /// A metric with one series.
    pub fn one(&mut self, name: &'static str, kind: Kind, help: &str, value: impl Display) -> &mut Page {
        self.metric(name, kind, help).series(&[], value)
    }

    fn durations(&mut self, labels: &Labels<'_>, rows: &[&Durations]) {
        let name = self.name;
        let sum = |value: &dyn Fn(&Durations) -> u64| rows.iter().map(|row| value(row)).sum::<u64>();
        let mut count = 0;
        for place in 0..=BOUNDS.len() {
            count += sum(&|row| row.buckets[place].load(Relaxed));
            let bound = BOUNDS.get(place).map_or("+Inf".to_owned(), |bound| seconds(*bound).to_string());
            self.line(format_args!("{name}_bucket{} {count}", Braces(labels, Some(&bound))));
        }
        let micros = sum(&|row| row.micros.load(Relaxed));
        self.line(format_args!("{name}_sum{} {}", Braces(labels, None), seconds(micros)));
        self.line(format_args!("{name}_count{} {count}", Braces(labels, None)));
    }

    fn line(&mut self, text: fmt::Arguments<'_>) -> &mut Page {
        self.text.write_fmt(text).expect("a string takes everything");
        self.text.push('\n');
        self
    }

    /// The text.
    pub fn finish(self) -> String {
        self.text
    }

    /// What every process can say of itself.
    pub fn process(&mut self, component: &str, version: &str, uptime_seconds: u64) {
        let labels = [("component", component), ("version", version)];
        self.metric("octoporty_build_info", Kind::Gauge, "Always 1; the labels say what runs.")
            .series(&labels, 1);
        self.one(
            "octoporty_uptime_seconds",
            Kind::Gauge,
            "Seconds since the daemon was started.",
            uptime_seconds,
        );
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let field = |name: &str| -> Option<u64> {
            let value = status.lines().find_map(|line| line.strip_prefix(name))?;
            value.split_ascii_whitespace().next()?.parse().ok()
        };
        if let Some(kib) = field("VmRSS:") {
            self.one("process_resident_memory_bytes", Kind::Gauge, "Resident memory in bytes.", kib * 1024);
        }
        if let Some(threads) = field("Threads:") {
            self.one("process_threads", Kind::Gauge, "Threads.", threads);
        }
        // Minus the one that lists them.
        if let Ok(list) = fs::read_dir("/proc/self/fd") {
            let open = list.count().saturating_sub(1);
            self.one("process_open_fds", Kind::Gauge, "Open file descriptors.", open);
        }
    }

    /// The requests of all mappings: labels and counters. Those beyond the first thousand (by their labels) are told
    /// together, with `other` for their names.
    pub fn requests(&mut self, mut rows: Vec<Row>) {
        rows.sort_by(|a, b| (&a.host, &a.mapping).cmp(&(&b.host, &b.mapping)));
        let rest = rows.split_off(rows.len().min(MOST_ROWS));
        let group = |rows: &'_ [Row], mapping, host| Group {
            labels: [("mapping", mapping), ("host", host)],
            of: rows.iter().map(|row| Arc::clone(&row.requests)).collect(),
        };
        let mut groups: Vec<_> =
            rows.iter().map(|row| group(std::slice::from_ref(row), &*row.mapping, &*row.host)).collect();
        if !rest.is_empty() {
            groups.push(group(&rest, "other", "other"));
        }
        self.metric(
            "octoporty_requests_total",
            Kind::Counter,
            "Requests that are over, by mapping and class of status.",
        );
        for group in &groups {
            for (class, name) in CLASSES.iter().enumerate() {
                let [mapping, host] = group.labels;
                self.series(&[mapping, host, ("class", name)], group.total(|row| &row.classes[class]));
            }
        }
        type Value = fn(&Requests) -> &AtomicU64;
        let more: [(&'static str, &str, Value); 3] = [
            (
                "octoporty_requests_failed_total",
                "Requests that could not be answered, or not to the end.",
                |row| &row.failed,
            ),
            ("octoporty_request_bytes_total", "Bytes of bodies from visitors.", |row| &row.bytes_in),
            ("octoporty_response_bytes_total", "Bytes of bodies to visitors.", |row| &row.bytes_out),
        ];
        for (name, help, value) in more {
            self.metric(name, Kind::Counter, help);
            for group in &groups {
                self.series(&group.labels, group.total(value));
            }
        }
        let help = "From the head of a request to the end of its answer; without upgraded connections.";
        self.metric("octoporty_request_duration_seconds", Kind::Histogram, help);
        for group in &groups {
            self.durations(&group.labels, &group.of.iter().map(|row| &row.durations).collect::<Vec<_>>());
        }
    }
}

fn seconds(micros: u64) -> f64 {
    micros as f64 / 1e6
}

/// Labels as they stand in a line; nothing when there are none.
struct Braces<'l>(&'l Labels<'l>, Option<&'l str>);

impl Display for Braces<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bound = self.1.map(|bound| ("le", bound));
        let mut separator = '{';
        for (name, value) in self.0.iter().copied().chain(bound) {
            write!(f, "{separator}{name}=\"")?;
            for c in value.chars() {
                match c {
                    '\\' => f.write_str("\\\\")?,
                    '"' => f.write_str("\\\"")?,
                    '\n' => f.write_str("\\n")?,
                    c => f.write_char(c)?,
                }
            }
            f.write_char('"')?;
            separator = ',';
        }
        if separator == ',' { f.write_char('}') } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done(status: u16, micros: u64) -> Done {
        Done { status, failed: status == 502, bytes_in: 1, bytes_out: 10, micros }
    }

    fn row(host: &str, requests: Arc<Requests>) -> Row {
        Row { mapping: "7".into(), host: host.into(), requests }
    }

    fn page(rows: Vec<Row>) -> String {
        let mut page = Page::default();
        page.requests(rows);
        page.finish()
    }

    #[test]
    fn requests_are_told_by_class_with_buckets_that_add_up() {
        let requests = Arc::new(Requests::default());
        for (status, micros) in [(200, 900), (204, 1000), (404, 1001), (502, 99_000_000), (101, 5_000_000)] {
            requests.count(done(status, micros));
        }
        let text = page(vec![row("a.example", requests)]);
        let labels = "mapping=\"7\",host=\"a.example\"";
        for line in [
            "# TYPE octoporty_requests_total counter".to_owned(),
            format!("octoporty_requests_total{{{labels},class=\"1xx\"}} 1"),
            format!("octoporty_requests_total{{{labels},class=\"2xx\"}} 2"),
            format!("octoporty_requests_total{{{labels},class=\"3xx\"}} 0"),
            format!("octoporty_requests_total{{{labels},class=\"5xx\"}} 1"),
            format!("octoporty_requests_failed_total{{{labels}}} 1"),
            format!("octoporty_request_bytes_total{{{labels}}} 5"),
            format!("octoporty_response_bytes_total{{{labels}}} 50"),
            "# TYPE octoporty_request_duration_seconds histogram".to_owned(),
            format!("octoporty_request_duration_seconds_bucket{{{labels},le=\"0.001\"}} 2"),
            format!("octoporty_request_duration_seconds_bucket{{{labels},le=\"0.0025\"}} 3"),
            format!("octoporty_request_duration_seconds_bucket{{{labels},le=\"10\"}} 3"),
            format!("octoporty_request_duration_seconds_bucket{{{labels},le=\"+Inf\"}} 4"),
            format!("octoporty_request_duration_seconds_count{{{labels}}} 4"),
            format!("octoporty_request_duration_seconds_sum{{{labels}}} 99.002901"),
        ] {
            assert!(text.lines().any(|known| known == line), "{line}\n{text}");
        }
    }

    #[test]
    fn a_status_that_is_none_is_counted_all_the_same() {
        let requests = Requests::default();
        for status in [0, 99, 600, 999, u16::MAX] {
            requests.count(done(status, 1));
        }
        assert_eq!(requests.classes.iter().map(|class| class.load(Relaxed)).sum::<u64>(), 5);
    }

    #[test]
    fn values_of_labels_are_escaped() {
        let mut page = Page::default();
        page.metric("x", Kind::Gauge, "Help.").series(&[("a", "b\\c\"d\ne"), ("f", "é")], 1.5);
        assert_eq!(page.finish(), "# HELP x Help.\n# TYPE x gauge\nx{a=\"b\\\\c\\\"d\\ne\",f=\"é\"} 1.5\n");
    }

    #[test]
    fn series_are_bounded_and_the_rest_is_told_together() {
        let rows: Vec<_> = (0..MOST_ROWS + 5)
            .map(|number| {
                let requests = Requests::default();
                requests.count(done(200, 1));
                row(&format!("h{number:05}.example"), Arc::new(requests))
            })
            .collect();
        let text = page(rows);
        let of = |part: &str| text.lines().filter(|line| line.contains(part)).count();
        assert_eq!(of("octoporty_requests_failed_total{"), MOST_ROWS + 1);
        let line = "octoporty_requests_total{mapping=\"other\",host=\"other\",class=\"2xx\"} 5";
        assert!(text.lines().any(|known| known == line));
    }

    #[test]
    fn a_mapping_keeps_its_counters_until_it_is_gone() {
        let registry = Registry::default();
        let (one, two) = (MappingId::from_random([1; 16]), MappingId::from_random([2; 16]));
        let kept = registry.of(one);
        registry.of(two).count(done(200, 1));
        registry.keep(&HashSet::from([one]));
        assert!(Arc::ptr_eq(&kept, &registry.of(one)));
        assert_eq!(registry.of(two).bytes_in.load(Relaxed), 0);
    }

    #[test]
    fn the_process_tells_of_itself() {
        let mut page = Page::default();
        page.process("gateway", "1.2.3", 7);
        let text = page.finish();
        assert!(text.contains("octoporty_build_info{component=\"gateway\",version=\"1.2.3\"} 1\n"));
        for name in ["process_resident_memory_bytes ", "process_threads ", "process_open_fds "] {
            let value = text.lines().find_map(|line| line.strip_prefix(name)).expect(name);
            assert!(value.parse::<u64>().expect("a number") > 0, "{name}");
        }
    }
}
