//! What is measured, in which order, and where the numbers go. Within a round one cell is measured for all
//! systems in turn before the next cell, so that a noisy minute of the machine hits all of them.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::daemon::{cpu_seconds, cpu_seconds_exact, end, rss_mib};
use crate::fault::Fault;
use crate::lab::{Country, Lab};
use crate::line::Quality;
use crate::mapping::{Admin, until_served};
use crate::systems::{DOMAIN, Ours, PASSWORD, Place, Running, System, start};
use crate::target::Target;
use crate::transfer::Way;

/// A group of measurements, as `--only` selects them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The closed loop.
    Requests,
    /// A new connection for each request.
    Connections,
    /// The open loop.
    Paced,
    /// Bulk.
    Bulk,
    /// Small requests beside bulk.
    Mix,
    /// CPU with nothing to do.
    Idle,
    /// Resident memory.
    Memory,
    /// Starting, mapping, coming back.
    Times,
    /// Over the emulated line.
    Wan,
}

impl Stage {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Requests,
        Self::Connections,
        Self::Paced,
        Self::Bulk,
        Self::Mix,
        Self::Idle,
        Self::Memory,
        Self::Times,
        Self::Wan,
    ];

    /// For `--only`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Connections => "connections",
            Self::Paced => "paced",
            Self::Bulk => "bulk",
            Self::Mix => "mix",
            Self::Idle => "idle",
            Self::Memory => "memory",
            Self::Times => "times",
            Self::Wan => "wan",
        }
    }
}

/// How long and how much.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    /// Rounds; the result is the median over them.
    pub rounds: u32,
    /// One closed-loop cell.
    pub closed: Duration,
    /// Each other cell with a duration.
    pub other: Duration,
    /// Bytes of a transfer on loopback.
    pub bulk: u64,
    /// Bytes of a transfer over the line, with one stream; twice that with several.
    pub far: u64,
    /// How many idle WebSockets memory is measured with.
    pub sockets: [usize; 2],
    /// How long the daemons are watched doing nothing.
    pub idle: Duration,
    /// How long the Gateway stays away.
    pub away: Duration,
}

impl Scale {
    /// What the published results are made with.
    pub const FULL: Self = Self {
        rounds: 3,
        closed: Duration::from_secs(2),
        other: Duration::from_secs(4),
        bulk: 1 << 30,
        far: 256 << 20,
        sockets: [1000, 5000],
        idle: Duration::from_secs(15),
        away: Duration::from_secs(5),
    };

    /// A look within three minutes.
    pub const QUICK: Self = Self {
        rounds: 1,
        closed: Duration::from_millis(600),
        other: Duration::from_secs(1),
        bulk: 128 << 20,
        far: 48 << 20,
        sockets: [1000, 5000],
        idle: Duration::from_secs(3),
        away: Duration::from_secs(2),
    };
}

/// The emulated line: 50 ms there and back, 1 Gbit/s each way.
pub const LINE: Quality =
    Quality { one_way: Duration::from_millis(25), bits_per_second: 1e9, queue: Duration::from_millis(50) };

/// Every number of a run.
#[derive(Debug, Default)]
pub struct Book {
    /// By system and metric, one for each round.
    pub values: BTreeMap<(System, String), Vec<f64>>,
    /// What went wrong or is worth knowing.
    pub notes: Vec<String>,
}

impl Book {
    fn add(&mut self, system: System, metric: impl Into<String>, value: f64) {
        let metric = metric.into();
        eprintln!("{:>14}  {metric:<22} {value:.3}", system.name());
        self.values.entry((system, metric)).or_default().push(value);
    }

    fn note(&mut self, text: String) {
        eprintln!("note: {text}");
        if !self.notes.contains(&text) {
            self.notes.push(text);
        }
    }

    /// A fault of one cell is noted and the run goes on; a signal ends it.
    fn survive(&mut self, system: System, what: &str, result: Result<(), Fault>) -> Result<(), Fault> {
        match result {
            Ok(()) => Ok(()),
            Err(Fault::Interrupted) => Err(Fault::Interrupted),
            Err(fault) => {
                self.note(format!("{}, {what}: {fault}", system.name()));
                Ok(())
            }
        }
    }
}

/// Runs the chosen stages for the chosen systems.
pub fn run(lab: &Lab, systems: &[System], stages: &[Stage], scale: &Scale) -> Result<Book, Fault> {
    let mut book = Book::default();
    let here = [Stage::Requests, Stage::Connections, Stage::Paced, Stage::Bulk, Stage::Mix, Stage::Idle];
    let wants = |stage: &Stage| stages.contains(stage);
    if wants(&Stage::Memory) || wants(&Stage::Times) || here.iter().any(wants) {
        let place = Place::loopback();
        let (_upstream, port) = place.upstream(lab)?;
        if wants(&Stage::Memory) {
            for &system in systems.iter().filter(|&&system| system != System::Direct) {
                let result = memory(lab, &mut book, system, &place, port, scale);
                book.survive(system, "memory", result)?;
            }
        }
        if wants(&Stage::Times) {
            times(lab, &mut book, systems, &place, port, scale)?;
        }
        if here.iter().any(wants) {
            let mut running = start_all(lab, &mut book, systems, &place, port)?;
            if wants(&Stage::Idle) {
                idle(lab, &mut book, &running, scale)?;
            }
            let cells: Vec<Cell> = Cell::here().into_iter().filter(|cell| wants(&cell.stage())).collect();
            rounds(lab, &mut book, &mut running, &cells, scale, "")?;
        }
    }
    if wants(&Stage::Wan) {
        let country = Country::build(lab, &LINE, Duration::from_secs(3600))?;
        let place = Place::country(&country);
        let (_upstream, port) = place.upstream(lab)?;
        let mut running = start_all(lab, &mut book, systems, &place, port)?;
        rounds(lab, &mut book, &mut running, &Cell::far(), scale, "far/")?;
    }
    Ok(book)
}

fn start_all(
    lab: &Lab,
    book: &mut Book,
    systems: &[System],
    place: &Place,
    port: u16,
) -> Result<Vec<Running>, Fault> {
    let mut all = Vec::new();
    for &system in systems {
        let started = start(lab, system, place, port).map(|running| all.push(running));
        book.survive(system, "start", started)?;
    }
    Ok(all)
}

fn rounds(
    lab: &Lab,
    book: &mut Book,
    all: &mut [Running],
    cells: &[Cell],
    scale: &Scale,
    prefix: &str,
) -> Result<(), Fault> {
    for _ in 0..scale.rounds {
        for cell in cells {
            for running in &mut *all {
                // What the cell before left in the buffers of the proxies runs off.
                lab.pause(Duration::from_millis(150))?;
                let result = cell.measure(lab, book, running, scale, prefix);
                let name = format!("{prefix}{}", cell.name());
                // A daemon that ended explains the fault better than its symptom does.
                let ended = running.daemons.iter_mut().find_map(|daemon| daemon.check().err());
                let result = ended.map_or(result, Err);
                book.survive(running.system, &name, result)?;
            }
        }
    }
    Ok(())
}

/// One measurement of a running system.
#[derive(Clone, Copy, Debug)]
enum Cell {
    Closed { path: &'static str, connections: u32 },
    Renew,
    Paced,
    Bulk { way: Way, streams: u32 },
    Mix,
}

impl Cell {
    fn here() -> Vec<Self> {
        let mut cells = Vec::new();
        for path in ["100", "10k"] {
            cells.extend([1, 16, 128].map(|connections| Self::Closed { path, connections }));
        }
        cells.extend([Self::Renew, Self::Paced]);
        cells.extend(Self::bulk());
        cells.push(Self::Mix);
        cells
    }

    fn far() -> Vec<Self> {
        let mut cells = vec![Self::Closed { path: "100", connections: 1 }];
        cells.extend(Self::bulk());
        cells
    }

    fn bulk() -> [Self; 4] {
        [(Way::Down, 1), (Way::Down, 8), (Way::Up, 1), (Way::Up, 8)]
            .map(|(way, streams)| Self::Bulk { way, streams })
    }

    fn stage(self) -> Stage {
        match self {
            Self::Closed { .. } => Stage::Requests,
            Self::Renew => Stage::Connections,
            Self::Paced => Stage::Paced,
            Self::Bulk { .. } => Stage::Bulk,
            Self::Mix => Stage::Mix,
        }
    }

    /// The first part of its metrics' names.
    fn name(self) -> String {
        match self {
            Self::Closed { path, connections } => format!("{path}/c{connections}"),
            Self::Renew => "new".to_owned(),
            Self::Paced => "paced".to_owned(),
            Self::Bulk { way: Way::Down, streams } => format!("down/{streams}"),
            Self::Bulk { way: Way::Up, streams } => format!("up/{streams}"),
            Self::Mix => "mix".to_owned(),
        }
    }

    fn measure(
        self,
        lab: &Lab,
        book: &mut Book,
        running: &Running,
        scale: &Scale,
        prefix: &str,
    ) -> Result<(), Fault> {
        let (system, name) = (running.system, format!("{prefix}{}", self.name()));
        let mut args: Vec<String> = Vec::new();
        let mut add = |words: &[&str]| args.extend(words.iter().map(|word| (*word).to_owned()));
        let (closed, other) = (scale.closed.as_secs_f64().to_string(), scale.other.as_secs_f64().to_string());
        match self {
            Self::Closed { path, connections } => {
                add(&["load", "--path", &format!("/{path}"), "--connections", &connections.to_string()]);
                add(&["--seconds", &closed]);
            }
            Self::Renew => {
                add(&["load", "--path", "/100", "--connections", "16", "--renew", "--seconds", &closed]);
            }
            Self::Paced => {
                add(&["paced", "--path", "/100", "--connections", "64", "--rate", "2000"]);
                add(&["--seconds", &other]);
            }
            Self::Bulk { way, streams } => {
                let bytes = match (prefix.is_empty(), streams) {
                    (true, _) => scale.bulk,
                    (false, 1) => scale.far,
                    (false, _) => scale.far * 2,
                };
                let way = if way == Way::Down { "down" } else { "up" };
                add(&["transfer", "--way", way, "--streams", &streams.to_string()]);
                add(&["--bytes", &bytes.to_string(), "--limit", "20"]);
            }
            Self::Mix => {
                add(&["mix", "--running", "2", "--stalled", "2", "--rate", "500", "--seconds", &other]);
            }
        }
        args.extend(running.target.to_args());
        let family = running.family();
        let before = cpu_seconds(&family);
        let value = lab.generate(running.netns.as_deref(), &args, Duration::from_secs(60), || {})?;
        let cpu = cpu_seconds(&family) - before;
        let number = |key: &str| value[key].as_f64().unwrap_or(f64::NAN);
        match self {
            Self::Closed { path, connections } => {
                book.add(system, format!("{name}/rps"), number("rps"));
                book.add(system, format!("{name}/p50"), number("p50_ms"));
                book.add(system, format!("{name}/p99"), number("p99_ms"));
                if path == "100" && connections == 16 && !family.is_empty() {
                    book.add(system, "cpu/100k", cpu * 1e5 / number("answered"));
                }
            }
            Self::Renew => book.add(system, name.clone(), number("rps")),
            Self::Paced => {
                book.add(system, format!("{name}/p50"), number("p50_ms"));
                book.add(system, format!("{name}/p99"), number("p99_ms"));
            }
            Self::Bulk { streams, .. } => {
                book.add(system, name.clone(), number("mib_s"));
                if streams == 1 && prefix.is_empty() && !family.is_empty() {
                    book.add(system, format!("cpu/{name}"), cpu * (1u64 << 30) as f64 / number("bytes"));
                }
            }
            Self::Mix => {
                book.add(system, format!("{name}/p50"), number("p50_ms"));
                book.add(system, format!("{name}/p99"), number("p99_ms"));
                book.add(system, format!("{name}/bulk"), number("bulk_mib_s"));
            }
        }
        failures(book, system, &name, &value);
        Ok(())
    }
}

/// Says so if a measurement is made of less than only good answers.
fn failures(book: &mut Book, system: System, name: &str, value: &Value) {
    for key in ["failed", "stuck"] {
        let count = value[key].as_u64().unwrap_or(0);
        if count > 0 {
            let last = value["last_failure"].as_str().unwrap_or("unanswered after a second");
            book.note(format!("{}, {name}: {count} requests {key} ({last})", system.name()));
        }
    }
}

fn idle(lab: &Lab, book: &mut Book, all: &[Running], scale: &Scale) -> Result<(), Fault> {
    lab.pause(Duration::from_secs(1))?;
    let begin = Instant::now();
    let families: Vec<Vec<u32>> = all.iter().map(Running::family).collect();
    let before: Vec<f64> = families.iter().map(|family| cpu_seconds_exact(family)).collect();
    lab.pause(scale.idle)?;
    let after: Vec<f64> = families.iter().map(|family| cpu_seconds_exact(family)).collect();
    let seconds = begin.elapsed().as_secs_f64();
    for ((running, before), after) in all.iter().zip(before).zip(after) {
        if running.system != System::Direct {
            book.add(running.system, "cpu/idle", (after - before) * 100.0 / seconds);
        }
    }
    Ok(())
}

/// Resident memory of freshly started daemons, so that no earlier measurement's buffers are in it.
fn memory(
    lab: &Lab,
    book: &mut Book,
    system: System,
    place: &Place,
    port: u16,
    scale: &Scale,
) -> Result<(), Fault> {
    let running = start(lab, system, place, port)?;
    lab.pause(Duration::from_secs(1))?;
    let family = running.family();
    book.add(system, "rss/idle", rss_mib(&family));
    if let (Some(_), [gateway, agent, ..]) = (&running.ours, &running.daemons[..]) {
        book.add(system, "rss/gateway", rss_mib(&gateway.family()));
        book.add(system, "rss/agent", rss_mib(&agent.family()));
    }
    let mut highest: f64 = 0.0;
    let mut args: Vec<String> = ["load", "--path", "/10k", "--connections", "128", "--seconds"]
        .map(str::to_owned)
        .into_iter()
        .collect();
    args.push(scale.closed.as_secs_f64().to_string());
    args.extend(running.target.to_args());
    let value =
        lab.generate(None, &args, Duration::from_secs(60), || highest = highest.max(rss_mib(&family)))?;
    failures(book, system, "memory under load", &value);
    book.add(system, "rss/load", highest);
    drop(running);

    let running = start(lab, system, place, port)?;
    let family = running.family();
    let mut args = vec!["idle-ws".to_owned(), "--limit".to_owned(), "60".to_owned()];
    for count in scale.sockets {
        args.extend(["--count".to_owned(), count.to_string()]);
    }
    args.extend(running.target.to_args());
    let mut child = lab.spawn(None, &args, Stdio::piped())?;
    let result = hold_sockets(lab, book, system, &mut child, scale, || rss_mib(&family));
    end(&mut child, "idle-ws")?;
    result
}

fn hold_sockets(
    lab: &Lab,
    book: &mut Book,
    system: System,
    child: &mut std::process::Child,
    scale: &Scale,
    rss: impl Fn() -> f64,
) -> Result<(), Fault> {
    let broken = |why: &str| Fault::Child { name: "idle-ws".to_owned(), why: why.to_owned() };
    let mut control = child.stdin.take().ok_or_else(|| broken("no standard input"))?;
    let mut lines = BufReader::new(child.stdout.take().ok_or_else(|| broken("no standard output"))?).lines();
    let mut complaint = child.stderr.take().ok_or_else(|| broken("no standard error"))?;
    // The generator has a limit of its own, so this ends.
    let mut next = || match lines.next() {
        Some(line) => line.map_err(Fault::io("read from idle-ws")),
        None => {
            let mut why = String::new();
            std::io::Read::read_to_string(&mut complaint, &mut why)
                .map_err(Fault::io("read from idle-ws"))?;
            Err(broken(why.trim()))
        }
    };
    for count in scale.sockets {
        next()?;
        lab.pause(Duration::from_millis(500))?;
        book.add(system, format!("rss/ws{count}"), rss());
        control.write_all(b"go\n").map_err(Fault::io("write to idle-ws"))?;
    }
    // The echo.
    next().map(drop)
}

fn times(
    lab: &Lab,
    book: &mut Book,
    systems: &[System],
    place: &Place,
    port: u16,
    scale: &Scale,
) -> Result<(), Fault> {
    for &system in systems.iter().filter(|system| system.is_ours()) {
        // Writes the database, so that the starts below are ordinary ones.
        let result = start(lab, system, place, port).map(drop);
        book.survive(system, "first start", result)?;
    }
    for round in 0..scale.rounds {
        for &system in systems.iter().filter(|&&system| system != System::Direct) {
            let result = start(lab, system, place, port).and_then(|mut running| {
                book.add(system, "time/serving", ms(running.serving));
                if matches!(system, System::Ours | System::Before) {
                    own_times(lab, book, &mut running, port, round, scale)
                } else {
                    Ok(())
                }
            });
            book.survive(system, "times", result)?;
        }
    }
    Ok(())
}

/// What only we are asked: how soon a change and a return are felt by a Visitor.
fn own_times(
    lab: &Lab,
    book: &mut Book,
    running: &mut Running,
    port: u16,
    round: u32,
    scale: &Scale,
) -> Result<(), Fault> {
    let Some(ours) = &running.ours else { return Ok(()) };
    let system = running.system;
    book.add(system, "time/gateway", ms(ours.gateway_serving));
    book.add(system, "time/agent", ms(ours.agent_serving));

    let mapped = mapping_in_force(lab, ours, &running.target, port, round);
    let mapped = mapped.map(|time| book.add(system, "time/mapping", ms(time)));
    book.survive(system, "new mapping", mapped)?;

    let limit = Duration::from_secs(60);
    // The daemons stand in this order: Gateway, Agent.
    for (at, launch, away, metric) in [
        (0, &ours.gateway, Duration::ZERO, "time/gateway-back"),
        (0, &ours.gateway, scale.away, "time/gateway-away"),
        (1, &ours.agent, Duration::ZERO, "time/agent-back"),
    ] {
        running.daemons[at].kill()?;
        lab.pause(away)?;
        let begin = Instant::now();
        running.daemons[at] = launch.start()?;
        until_served(&running.target, "/100", limit, &lab.stop)?;
        book.add(system, metric, ms(begin.elapsed()));
    }
    Ok(())
}

/// From the API call that adds a Mapping to the first answer under its name.
fn mapping_in_force(
    lab: &Lab,
    ours: &Ours,
    target: &Target,
    port: u16,
    round: u32,
) -> Result<Duration, Fault> {
    let admin = Admin::log_in(ours.admin, PASSWORD)?;
    let domain = format!("round-{round}.{DOMAIN}");
    let begin = Instant::now();
    admin.add(&domain, port)?;
    let mapped = Target { host: domain, ..target.clone() };
    until_served(&mapped, "/100", Duration::from_secs(10), &lab.stop)?;
    Ok(begin.elapsed())
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_noted_once_and_signals_end_the_run() {
        let mut book = Book::default();
        for _ in 0..2 {
            let fault = Err(Fault::Answer("status 502".to_owned()));
            book.survive(System::Nginx, "mix", fault).expect("goes on");
        }
        assert_eq!(book.notes, ["nginx, mix: status 502"]);
        assert!(book.survive(System::Nginx, "mix", Err(Fault::Interrupted)).is_err());
    }

    #[test]
    fn every_cell_belongs_to_a_stage_and_has_a_name_of_its_own() {
        let cells = Cell::here();
        let names: std::collections::HashSet<String> = cells.iter().map(|cell| cell.name()).collect();
        assert_eq!(names.len(), cells.len());
        assert!(Cell::far().iter().all(|cell| names.contains(&cell.name())));
    }
}
