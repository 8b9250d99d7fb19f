//! `octoporty-agent doctor`: walks the whole way, hop by hop, and says which hop fails and what to do.
//!
//! ```text
//!   settings ─ database ─ agent ─ dns ─ tcp ─ tls ─ gateway ─ clock ─ websocket ─ key ─ version     to each Gateway
//!   target ─ route ─ public                                                                         of each mapping
//! ```
//! It works whether the Agent runs or not, changes nothing, and does not disturb a running tunnel: where it has to
//! greet the Gateway, it does so under an identity of its own that publishes nothing.

mod certificate;
mod gateway;
mod report;
mod services;

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use shared::mapping::MappingId;
use shared::settings::Reader;
use shared::settings::command::{EXIT_FAILED, EXIT_STOPPED, EXIT_WRONG, Flag, Invocation, Subcommand};
use shared::settings::console::{Console, Failure};

use super::client::{Api, Running};
use crate::config::Config;
use crate::random;
use crate::store::{self, Store};
use report::Report;

pub(super) const COMMAND: Subcommand = Subcommand::new(
    "doctor",
    "Walks the way from this Agent to its Gateway and back, hop by hop: settings, database, the running Agent, the \
     Gateway's name, TCP, TLS and certificate, the Gateway behind its proxy, the clock, the WebSocket, the key, the \
     versions; then each mapping's target, its route, and its public address from outside back through the tunnel. \
     Names the hop that fails, and what to do about it.\n\n\
     Changes nothing and disturbs nothing: a running tunnel stays as it is. When the Agent is not running, what only \
     a running one can tell is left out.",
)
.options(&[Flag::switch("--json", "Prints the checks as JSON, for scripts.")])
.examples(&[
    ("octoporty-agent doctor", "Walks the way of the installed Agent."),
    ("octoporty-agent doctor --env-file agent.env", "The same with settings that are not installed yet."),
    (
        "octoporty-agent doctor --json | jq -r '.checks[] | select(.state == \"fail\").hint'",
        "Prints what is to be done.",
    ),
])
.statuses(&[
    ("0", "Every hop is well, or only worth a look."),
    ("1", "A hop fails."),
    ("2", "Wrong arguments or settings."),
])
.finds_env_file();

pub(super) fn run(invocation: &Invocation, reader: Reader, console: &mut Console<'_>) -> Result<u8, Failure> {
    let mut report = Report::new(invocation.has("--json"), console);
    let given = reader.given().len();
    let config = match Config::load(reader) {
        Ok(config) => config,
        Err(faults) => {
            for fault in &faults {
                let hint = "correct it and try again; octoporty-agent --help explains every setting";
                report.fail("settings", &fault.name, &fault.to_string(), Some(hint.into()))?;
            }
            report.finish()?;
            return Ok(EXIT_WRONG);
        }
    };
    let text = format!("{given} are set, and valid");
    match config.warnings.is_empty() {
        true => report.ok("settings", "", &text)?,
        false => {
            for warning in &config.warnings {
                report.warn("settings", "", warning, None)?;
            }
        }
    }
    let running = agent(&config, &mut report)?;
    let looked_at = database(&config, running.is_some(), &mut report)?;
    let mut ways = Vec::new();
    for url in &config.gateway_urls {
        ways.push(gateway::walk(url, &config, &mut report)?);
    }
    let config = Config { database: looked_at.path().to_owned(), ..config };
    services::walk(&config, running, &ways, &mut report)?;
    let failed = report.finish()?;
    Ok(if failed { EXIT_FAILED } else { EXIT_STOPPED })
}

/// The running Agent, and what it says of its tunnel.
fn agent(config: &Config, report: &mut Report<'_, '_>) -> Result<Option<Running>, Failure> {
    let running = match Running::local(config) {
        Ok(Some(running)) => running,
        Ok(None) => {
            report.skip("agent", "", "is not running: what only a running one can tell is left out")?;
            return Ok(None);
        }
        Err(Failure::Said(_, text)) => {
            report.fail("agent", "", &text, Some("is Agent__Port right?".into()))?;
            return Ok(None);
        }
        Err(failure) => return Err(failure),
    };
    let api = Api::Running(running);
    let status = match api.json("GET", "/api/v1/status", None) {
        Ok(status) => status,
        Err(Failure::Said(_, text)) => {
            report.fail("agent", "", &text, None)?;
            return Ok(None);
        }
        Err(failure) => return Err(failure),
    };
    let state = status["connectionStatus"].as_str().unwrap_or("?");
    let version = status["version"].as_str().unwrap_or("?");
    if state == "Connected" {
        let rtt = status["rttMs"].as_f64().map_or_else(String::new, |ms| format!(", round trip {ms:.1} ms"));
        let links = status["links"].as_u64().unwrap_or(0);
        report.ok("agent", "", &format!("version {version} is running and connected, {links} links{rtt}"))?;
    } else {
        let error = status["lastError"].as_str().map_or_else(String::new, |error| format!(": {error}"));
        let hint = "the hops below say where the way to the Gateway ends".to_owned();
        report.warn(
            "agent",
            "",
            &format!("version {version} is running and is {state}{error}"),
            Some(hint),
        )?;
    }
    let Api::Running(running) = api else { return Ok(None) };
    Ok(Some(running))
}

/// The database whose mappings are looked at.
enum LookedAt {
    /// The Agent's own.
    Own(PathBuf),
    /// A copy in a folder of its own, brought up to date in the place of one that an earlier version wrote; gone when
    /// this is dropped.
    Copy { folder: PathBuf, path: PathBuf },
}

impl LookedAt {
    fn path(&self) -> &Path {
        match self {
            LookedAt::Own(path) | LookedAt::Copy { path, .. } => path,
        }
    }

    fn copy(database: &Path) -> Result<LookedAt, String> {
        let name = format!("octoporty-doctor-{}", MappingId::from_random(random::bytes()));
        let folder = std::env::temp_dir().join(name);
        let fault = |e: io::Error| format!("cannot copy it to {} to look at it: {e}", folder.display());
        DirBuilder::new().mode(0o700).create(&folder).map_err(fault)?;
        let copy = LookedAt::Copy { path: folder.join("octoporty.db"), folder };
        store::backup(database, copy.path()).map_err(|e| e.to_string())?;
        Ok(copy)
    }
}

impl Drop for LookedAt {
    fn drop(&mut self) {
        if let LookedAt::Copy { folder, .. } = self
            && let Err(e) = fs::remove_dir_all(&folder)
        {
            log::warn!("{} stays: {e}", folder.display());
        }
    }
}

/// Whether the database is there, or can be made. A running Agent has it open, which says enough. One that an earlier
/// version wrote would be changed by being opened, so a copy is.
fn database(config: &Config, running: bool, report: &mut Report<'_, '_>) -> Result<LookedAt, Failure> {
    let path = &config.database;
    let own = || LookedAt::Own(path.clone());
    let shown = path.display().to_string();
    if running {
        report.ok("database", "", &format!("{shown} is in use by the running Agent"))?;
        return Ok(own());
    }
    if path.exists() {
        let older = match store::is_older(path) {
            Ok(older) => older,
            Err(e) => {
                report.fail("database", "", &e.to_string(), None)?;
                return Ok(own());
            }
        };
        let looked_at = match older.then(|| LookedAt::copy(path)) {
            None => own(),
            Some(Ok(copy)) => copy,
            Some(Err(why)) => {
                report.fail("database", "", &format!("{shown}: {why}"), None)?;
                return Ok(own());
            }
        };
        match Store::open(looked_at.path()).and_then(|store| store.mappings()) {
            Ok(mappings) => {
                let next = if older { "; the next start copies it and brings it up to date" } else { "" };
                report.ok(
                    "database",
                    "",
                    &format!("{shown} is good and has {} mappings{next}", mappings.len()),
                )?;
            }
            Err(e) => report.fail("database", "", &e.to_string(), None)?,
        }
        return Ok(looked_at);
    }
    let directory = path.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if crate::config::writable(directory) {
        report.ok("database", "", &format!("{shown} is not there yet; the first start makes it"))?;
        return Ok(own());
    }
    let hint = "run this as the user of the service; its directory must exist and belong to that user";
    let text = format!("{shown} is not there, and {} cannot be written", directory.display());
    report.fail("database", "", &text, Some(hint.into()))?;
    Ok(own())
}
