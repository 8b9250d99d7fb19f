//! `bench`: the subcommands. Generators print one JSON object; `all` runs everything and prints Markdown.

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use serde_json::{Value, json};

use bench::args::Args;
use bench::fault::Fault;
use bench::lab::{Lab, Tools};
use bench::line::Quality;
use bench::mapping::{Admin, until_listening, until_served};
use bench::stages::{Scale, Stage};
use bench::systems::{PASSWORD, System};
use bench::target::Target;
use bench::transfer::Way;
use bench::upstream::Upstream;
use bench::{line, load, paced, report, sockets, stages, transfer};

const HELP: &str = "\
SYNOPSIS
    bench all [--quick] [--only NAME]... [--rounds N] [--bin-dir DIR] [--before DIR] [--rathole FILE] [--results FILE]
    bench GENERATOR OPTIONS

DESCRIPTION
    all measures every system whose programs are there and prints the table; with --results it also writes
    it to FILE. --only takes a system (direct, nginx, nginx-nginx, rathole, octoporty, octoporty-wss, before,
    before-wss) or a stage (requests, connections, paced, bulk, mix, idle, memory, times, wan) and may be repeated.
    before and before-wss are the programs in the directory of --before: the build that this one is compared with,
    in the same run.

GENERATORS
    Where a system is asked, its entrance is --url http[s]://ADDRESS:PORT [--host NAME].
    upstream --listen ADDRESS:PORT
    load     --path P --connections N --seconds S [--renew]
    paced    --path P --connections N --rate R --seconds S
    transfer --way down|up --bytes N --streams N [--limit S]
    mix      --running N --stalled N --rate R --seconds S
    idle-ws  --count N... [--limit S]        goes on after each count when it reads a line
    probe    --path P | --tcp ADDRESS:PORT   waits until there is an answer
    map      --agent ADDRESS:PORT --domain NAME --port N
    line     --one-way-ms N --mbit N --queue-ms N --life S   between TUN devices on standard input and output

EXIT STATUS
    0 done, 1 failed, 2 called wrongly
";

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let command = words.next().unwrap_or_default();
    if matches!(command.as_str(), "" | "help" | "--help" | "-h") {
        print!("{HELP}");
        return if command.is_empty() { ExitCode::from(2) } else { ExitCode::SUCCESS };
    }
    let result = Args::parse(words, &["quick", "renew"]).and_then(|args| dispatch(&command, args));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            eprintln!("bench: {fault}");
            ExitCode::from(if matches!(fault, Fault::Usage(_)) { 2 } else { 1 })
        }
    }
}

fn dispatch(command: &str, mut args: Args) -> Result<(), Fault> {
    match command {
        "all" => all(args),
        "upstream" => {
            let addr = args.required("listen")?;
            args.finish()?;
            Upstream::bind(addr)?.run()
        }
        "line" => {
            let quality = Quality {
                one_way: ms(args.required("one-way-ms")?),
                bits_per_second: args.required::<f64>("mbit")? * 1e6,
                queue: ms(args.required("queue-ms")?),
            };
            let life = seconds(&mut args, "life", 3600.0)?;
            args.finish()?;
            line::run(quality, life)
        }
        "map" => {
            let (addr, domain) = (args.required("agent")?, args.required::<String>("domain")?);
            let port = args.required("port")?;
            args.finish()?;
            Admin::log_in(addr, PASSWORD)?.add(&domain, port)?;
            say(&json!({ "mapped": domain }))
        }
        "probe" => {
            let limit = Duration::from_secs(20);
            let never = AtomicBool::new(false);
            if let Some(addr) = args.optional("tcp")? {
                args.finish()?;
                until_listening(addr, limit, &never)?;
                return say(&json!({ "listening": true }));
            }
            let target = Target::from_args(&mut args)?;
            let path: String = args.required("path")?;
            args.finish()?;
            let waited = until_served(&target, &path, limit, &never)?;
            say(&json!({ "ms": waited.as_secs_f64() * 1e3 }))
        }
        _ => generator(command, args),
    }
}

fn generator(command: &str, mut args: Args) -> Result<(), Fault> {
    let target = Target::from_args(&mut args)?;
    let value = match command {
        "load" => {
            let plan = load::Plan {
                target,
                path: args.required("path")?,
                connections: args.required("connections")?,
                warm_up: ms(args.or("warm-up-ms", 300.0)?),
                duration: seconds(&mut args, "seconds", 2.0)?,
                renew: args.flag("renew"),
            };
            args.finish()?;
            load::run(&plan)?.to_json()
        }
        "paced" => {
            let plan = paced::Plan {
                target,
                path: args.required("path")?,
                connections: args.required("connections")?,
                rate: args.required("rate")?,
                duration: seconds(&mut args, "seconds", 4.0)?,
            };
            args.finish()?;
            paced::run(&plan, &AtomicBool::new(false))?.to_json()
        }
        "transfer" => {
            let way = match args.required::<String>("way")?.as_str() {
                "down" => Way::Down,
                "up" => Way::Up,
                other => return Err(Fault::Usage(format!("option --way: bad value {other:?}"))),
            };
            let plan = transfer::Plan {
                target,
                way,
                bytes: args.required("bytes")?,
                streams: args.required("streams")?,
                limit: seconds(&mut args, "limit", 20.0)?,
            };
            args.finish()?;
            transfer::run(&plan)?
        }
        "mix" => {
            let mix = transfer::Mix {
                target,
                duration: seconds(&mut args, "seconds", 4.0)?,
                running: args.or("running", 2)?,
                stalled: args.or("stalled", 2)?,
                rate: args.or("rate", 500.0)?,
            };
            args.finish()?;
            transfer::mix(&mix)?
        }
        "idle-ws" => {
            let counts: Vec<usize> = args
                .all("count")
                .iter()
                .map(|text| {
                    text.parse().map_err(|_| Fault::Usage(format!("option --count: bad value {text:?}")))
                })
                .collect::<Result<_, _>>()?;
            let limit = seconds(&mut args, "limit", 60.0)?;
            args.finish()?;
            return sockets::run(&target, &counts, limit, &mut io::stdin().lock(), &mut io::stdout());
        }
        other => return Err(Fault::Usage(format!("unknown command {other:?}; see bench --help"))),
    };
    say(&value)
}

fn say(value: &Value) -> Result<(), Fault> {
    writeln!(io::stdout(), "{value}").map_err(Fault::io("standard output"))
}

fn ms(count: f64) -> Duration {
    Duration::try_from_secs_f64(count / 1e3).unwrap_or_default()
}

fn seconds(args: &mut Args, name: &str, default: f64) -> Result<Duration, Fault> {
    let count = args.or(name, default)?;
    Duration::try_from_secs_f64(count)
        .map_err(|error| Fault::Usage(format!("option --{name}: {count}: {error}")))
}

fn all(mut args: Args) -> Result<(), Fault> {
    let mut scale = if args.flag("quick") { Scale::QUICK } else { Scale::FULL };
    scale.rounds = args.or("rounds", scale.rounds)?;
    let (mut systems, mut chosen) = (Vec::new(), Vec::new());
    for name in args.all("only") {
        if let Some(system) = System::ALL.into_iter().find(|system| system.name() == name) {
            systems.push(system);
        } else if let Some(stage) = Stage::ALL.into_iter().find(|stage| stage.name() == name) {
            chosen.push(stage);
        } else {
            return Err(Fault::Usage(format!("option --only: neither system nor stage {name:?}")));
        }
    }
    if systems.is_empty() {
        systems = System::ALL.into();
    }
    if chosen.is_empty() {
        chosen = Stage::ALL.into();
    }
    let own = std::env::current_exe().map_err(Fault::io("this program's path"))?;
    let beside = own.parent().map(PathBuf::from).unwrap_or_default();
    let bin_dir: PathBuf = args.or("bin-dir", beside)?;
    let tools = Tools {
        nginx: find("nginx"),
        caddy: find("caddy"),
        rathole: args.optional("rathole")?.unwrap_or_else(|| find("rathole")),
        gateway: bin_dir.join("octoporty-gateway"),
        agent: bin_dir.join("octoporty-agent"),
        bench: own,
        before: args
            .optional::<PathBuf>("before")?
            .map(|dir| (dir.join("octoporty-gateway"), dir.join("octoporty-agent"))),
    };
    if tools.before.is_none() {
        systems.retain(|system| !system.is_before());
    }
    let results: Option<PathBuf> = args.optional("results")?;
    args.finish()?;

    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop)).map_err(Fault::io("signal handler"))?;
    }
    let machine = report::machine(&tools);
    let lab = Lab::new(tools, stop)?;
    let mut absent = Vec::new();
    systems.retain(|system| match system.missing(&lab) {
        None => true,
        Some(path) => {
            absent.push(format!("{}: left out, there is no {}", system.name(), path.display()));
            false
        }
    });
    for note in &absent {
        eprintln!("note: {note}");
    }
    let mut book = stages::run(&lab, &systems, &chosen, &scale)?;
    book.notes.splice(0..0, absent);
    let text = report::markdown(&book, &scale, &machine);
    print!("{text}");
    match results {
        Some(path) => fs::write(&path, text).map_err(Fault::io(format!("write {}", path.display()))),
        None => Ok(()),
    }
}

/// A program on the search path; where it ought to be if it is not there.
fn find(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Debian keeps nginx where only root's search path looks.
    let places = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    let mut candidates = places.map(|dir| dir.join(name));
    candidates.find(|file| file.is_file()).unwrap_or_else(|| name.into())
}
