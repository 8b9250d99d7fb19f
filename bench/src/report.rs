//! The numbers as Markdown: a table for each group of metrics, medians of the rounds, and below them what
//! we are in proportion to our peers. What the machine and the programs were stands on top.

use std::fmt::Write;
use std::fs;
use std::process::Command;

use crate::lab::Tools;
use crate::stages::{Book, LINE, Scale};
use crate::stats::median;
use crate::systems::System;

/// A column.
struct Metric {
    key: String,
    title: String,
    more_is_better: bool,
}

/// A table.
struct Group {
    title: &'static str,
    text: String,
    metrics: Vec<Metric>,
}

fn more(key: impl Into<String>, title: impl Into<String>) -> Metric {
    Metric { key: key.into(), title: title.into(), more_is_better: true }
}

fn less(key: impl Into<String>, title: impl Into<String>) -> Metric {
    Metric { key: key.into(), title: title.into(), more_is_better: false }
}

fn groups(scale: &Scale) -> Vec<Group> {
    let closed = |path: &str, prefix: &str, all: &[u32]| -> Vec<Metric> {
        all.iter()
            .flat_map(|count| {
                let key = format!("{prefix}{path}/c{count}");
                [
                    more(format!("{key}/rps"), format!("c{count} req/s")),
                    less(format!("{key}/p50"), "p50 ms"),
                    less(format!("{key}/p99"), "p99 ms"),
                ]
            })
            .collect()
    };
    let bulk = |prefix: &str| -> Vec<Metric> {
        [("down/1", "down, 1 stream"), ("down/8", "down, 8"), ("up/1", "up, 1 stream"), ("up/8", "up, 8")]
            .map(|(key, title)| more(format!("{prefix}{key}"), title))
            .into()
    };
    let mut far = closed("100", "far/", &[1]);
    far.extend(bulk("far/"));
    let [few, many] = scale.sockets;
    vec![
        Group {
            title: "Answers of 100 bytes",
            text: "Closed loop on c keep-alive connections.".to_owned(),
            metrics: closed("100", "", &[1, 16, 128]),
        },
        Group {
            title: "Answers of 10 KiB",
            text: "Closed loop on c keep-alive connections. For rathole see the remark above.".to_owned(),
            metrics: closed("10k", "", &[1, 16, 128]),
        },
        Group {
            title: "New connections, a fixed rate, and small requests beside bulk",
            text: "New connections: 16 at a time, one request each. Fixed rate: 2,000 requests/s on 64 \
                   connections, latency from when each was due. Beside bulk: 500 requests/s while four \
                   downloads run, two of which nobody reads."
                .to_owned(),
            metrics: vec![
                more("new", "new conn/s"),
                less("paced/p50", "2,000/s p50 ms"),
                less("paced/p99", "p99 ms"),
                less("mix/p50", "beside bulk p50 ms"),
                less("mix/p99", "p99 ms"),
                more("mix/bulk", "its bulk MiB/s"),
            ],
        },
        Group {
            title: "Bulk, MiB/s",
            text: format!("{} MiB in all, over 1 and 8 connections.", scale.bulk >> 20),
            metrics: bulk(""),
        },
        Group {
            title: "CPU of the daemons",
            text: "Seconds of all daemons of a system together (for TLS by Caddy, Caddy included): per \
                   100,000 answers of 100 bytes at c16, per GiB with one stream, and as a share of one core \
                   with nothing to do."
                .to_owned(),
            metrics: vec![
                less("cpu/100k", "s per 100k"),
                less("cpu/down/1", "s per GiB down"),
                less("cpu/up/1", "s per GiB up"),
                less("cpu/idle", "idle %"),
            ],
        },
        Group {
            title: "Resident memory, MiB",
            text:
                "All daemons of a system together, freshly started; one measurement. Load is 10 KiB answers \
                   at c128; afterwards, started anew, with idle WebSockets that still echo. \
                   What the kernel keeps for their sockets is not in it, for any system."
                    .to_owned(),
            metrics: vec![
                less("rss/idle", "idle"),
                less("rss/load", "under load"),
                less(format!("rss/ws{few}"), format!("{few} WebSockets")),
                less(format!("rss/ws{many}"), format!("{many} WebSockets")),
                less("rss/gateway", "idle Gateway"),
                less("rss/agent", "idle Agent"),
            ],
        },
        Group {
            title: "Times, ms",
            text: format!(
                "Serving: from the start of the first daemon to the first answer through all of them. The \
                 rest is ours only: the Gateway alone, the Agent to its first tunnelled answer, a new mapping \
                 from the API call to a Visitor's answer, and from the start of a daemon after `kill -9` to a \
                 Visitor's answer (Gateway at once, Gateway after {} s, Agent at once).",
                scale.away.as_secs()
            ),
            metrics: vec![
                less("time/serving", "serving"),
                less("time/gateway", "Gateway"),
                less("time/agent", "Agent"),
                less("time/mapping", "new mapping"),
                less("time/gateway-back", "Gateway back"),
                less("time/gateway-away", "Gateway back later"),
                less("time/agent-back", "Agent back"),
            ],
        },
        Group {
            title: "Over a long line",
            text: format!(
                "{:.0} ms there and back, {:.0} Mbit/s, between two network namespaces: Visitor and public \
                 half on one side, private half and Upstream on the other. {} MiB with 1 stream, {} MiB with \
                 8, in MiB/s.",
                LINE.one_way.as_secs_f64() * 2e3,
                LINE.bits_per_second / 1e6,
                scale.far >> 20,
                scale.far >> 19
            ),
            metrics: far,
        },
    ]
}

/// The whole report.
pub fn markdown(book: &Book, scale: &Scale, machine: &str) -> String {
    let mut out = String::from("# Benchmark results\n\n");
    let rounds = scale.rounds;
    // Writing to a String cannot fail.
    let mut line = |text: &str| writeln!(out, "{text}").expect("a string takes everything");
    line(&format!(
        "Written by `bench/run`: every system in the same run, interleaved, medians of {rounds} round{}. \
         Absolute numbers belong to the machine; the ratios count. In the ratio rows more than 1 is in \
         Octoporty's favour in every column, whichever way the column is read.\n",
        if rounds == 1 { "" } else { "s" }
    ));
    line(machine);
    for group in groups(scale) {
        let columns: Vec<&Metric> = group
            .metrics
            .iter()
            .filter(|metric| System::ALL.iter().any(|&s| value(book, s, metric).is_some()))
            .collect();
        if columns.is_empty() {
            continue;
        }
        line(&format!("## {}\n\n{}\n", group.title, group.text));
        let titles: Vec<&str> = columns.iter().map(|metric| metric.title.as_str()).collect();
        line(&format!("| system | {} |", titles.join(" | ")));
        line(&format!("|---|{}", "---:|".repeat(columns.len())));
        let mut row = |name: &str, cells: Vec<Option<String>>| {
            if cells.iter().any(Option::is_some) {
                let cells: Vec<String> =
                    cells.into_iter().map(|cell| cell.unwrap_or("–".to_owned())).collect();
                line(&format!("| {name} | {} |", cells.join(" | ")));
            }
        };
        for system in System::ALL {
            row(
                system.title(),
                columns.iter().map(|metric| value(book, system, metric).map(figure)).collect(),
            );
        }
        for ours in System::ALL {
            for &peer in ours.peers() {
                let cells = columns.iter().map(|metric| ratio(book, ours, peer, metric)).collect();
                row(&format!("*{} : {}*", ours.name(), peer.name()), cells);
            }
        }
        line("");
    }
    if !book.notes.is_empty() {
        line("## Notes\n");
        for note in &book.notes {
            // A daemon's last words have lines of their own.
            line(&format!("- {}", note.replace('\n', "\n  ")));
        }
    }
    out
}

fn value(book: &Book, system: System, metric: &Metric) -> Option<f64> {
    book.values.get(&(system, metric.key.clone())).and_then(|values| median(values))
}

fn ratio(book: &Book, ours: System, peer: System, metric: &Metric) -> Option<String> {
    let (ours, peer) = (value(book, ours, metric)?, value(book, peer, metric)?);
    let ratio = if metric.more_is_better { ours / peer } else { peer / ours };
    // A peer that does nothing at all when idle is in no proportion to anything.
    (ratio.is_finite() && peer > 0.001).then(|| format!("{ratio:.2}×"))
}

/// Three digits that matter.
fn figure(value: f64) -> String {
    match value {
        v if !v.is_finite() => "–".to_owned(),
        v if v >= 9_950.0 => format!("{:.1}k", v / 1e3),
        v if v >= 99.5 => format!("{v:.0}"),
        v if v >= 9.95 => format!("{v:.1}"),
        v if v >= 0.995 => format!("{v:.2}"),
        v => format!("{v:.3}"),
    }
}

/// What was measured on, and what.
pub fn machine(tools: &Tools) -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpu_info = read("/proc/cpuinfo");
    let cpu =
        cpu_info.lines().find(|line| line.starts_with("model name")).and_then(|line| line.split(": ").nth(1));
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let memory = read("/proc/meminfo");
    let kib = memory
        .lines()
        .next()
        .and_then(|line| line.split_whitespace().nth(1))
        .and_then(|n| n.parse::<u64>().ok());
    let load = read("/proc/loadavg");
    let size = |path: &std::path::Path| match fs::metadata(path) {
        Ok(meta) => format!(" ({:.1} MiB)", meta.len() as f64 / 1048576.0),
        Err(_) => String::new(),
    };
    let congestion = read("/proc/sys/net/ipv4/tcp_congestion_control");
    let mut lines = vec![
        format!("- date: {}", said("date", &["-u", "+%Y-%m-%d %H:%M UTC"])),
        format!(
            "- machine: {cores} cores, {}, {} MiB of memory, Linux {}, load average at the start {}",
            cpu.unwrap_or("unknown processor"),
            kib.unwrap_or(0) / 1024,
            read("/proc/sys/kernel/osrelease").trim(),
            load.split(' ').next().unwrap_or_default()
        ),
        format!("- congestion control: {}", congestion.trim()),
    ];
    for (path, args, note) in [
        (&tools.nginx, "-v", "`worker_processes auto`, keep-alive to the next hop, no spooling to disk"),
        (
            &tools.rathole,
            "--version",
            "from its registry with the features `server` and `client`; plain TCP, its defaults \
             (TCP_NODELAY on the tunnel only; answers above its 8 KiB buffer take 44 ms, as Nagle's algorithm and \
             delayed acknowledgements make them: its 10 KiB columns show that, not its throughput)",
        ),
        (&tools.caddy, "version", "its own local CA, HTTP/1.1, otherwise its defaults"),
        (&tools.gateway, "--version", "Gateway"),
        (&tools.agent, "--version", "Agent"),
    ] {
        if path.is_file() {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let version = said(&path.to_string_lossy(), &[args]);
            lines.push(format!("- {name}: {version}{}; {note}", size(path)));
        }
    }
    lines.push(String::new());
    lines.join("\n")
}

/// The line of a program's answer that has its version.
fn said(program: &str, args: &[&str]) -> String {
    match Command::new(program).args(args).output() {
        Ok(output) => {
            let text = [output.stdout, output.stderr].concat();
            let text = String::from_utf8_lossy(&text);
            let lines = || text.lines().map(str::trim).filter(|line| !line.is_empty());
            let versions = ["Build Version:", "nginx version:"];
            let line = lines().find(|line| versions.iter().any(|start| line.starts_with(start)));
            let line = line.or_else(|| lines().next()).unwrap_or("unknown version");
            versions.iter().fold(line, |line, start| line.trim_start_matches(start)).trim().to_owned()
        }
        Err(error) => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_above_one_are_ours_whichever_way_the_column_is_read() {
        let mut book = Book::default();
        for (system, rps, p99) in [(System::NginxNginx, 100.0, 4.0), (System::Ours, 200.0, 1.0)] {
            book.values.insert((system, "100/c1/rps".to_owned()), vec![rps, rps * 9.0, rps / 9.0]);
            book.values.insert((system, "100/c1/p99".to_owned()), vec![p99]);
        }
        book.notes.push("a note".to_owned());
        let text = markdown(&book, &Scale::FULL, "- machine");
        assert!(text.contains("| *octoporty : nginx-nginx* | 2.00× | 4.00× |"), "{text}");
        assert!(text.contains("| nginx → nginx | 100 | 4.00 |"), "{text}");
        assert!(text.contains("- a note"), "{text}");
        assert!(!text.contains("Bulk, MiB/s"), "a table without numbers is left out: {text}");
    }

    #[test]
    fn figures_have_three_digits() {
        let all = [93_123.0, 567.4, 12.34, 1.234, 0.0504, f64::NAN].map(figure);
        assert_eq!(all, ["93.1k", "567", "12.3", "1.23", "0.050", "–"]);
    }
}
