//! A daemon's process, from its settings to its exit status: what is the same for both of them. What they serve is
//! theirs.

use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use crate::logging::{self, LogConfig, LogHandle, Ring};
use crate::monotime;
use crate::notify::{Notify, Vital};
use crate::settings::start::{self, Command, Console, Program, Terminal};
use crate::stop::{Signals, Stop};

/// How long running exchanges may take to finish after SIGTERM.
const DRAIN: Duration = Duration::from_secs(30);

/// Does what the command line of this process says: something at once, or the daemon. Gives the exit status.
pub fn main<C>(program: &Program<C>, run: impl FnOnce(C) -> Result<(), String>) -> ExitCode {
    // Uptime counts from here.
    monotime::micros();
    let command = {
        let (mut input, mut output, mut error) =
            (io::stdin().lock(), io::stdout().lock(), io::stderr().lock());
        let terminal = Terminal::of_process();
        let mut console = Console { input: &mut input, output: &mut output, error: &mut error, terminal };
        start::start(program, std::env::args_os().skip(1), std::env::vars_os(), &mut console)
    };
    match command {
        Command::Done(status) => ExitCode::from(status),
        Command::Run(config) => match run(*config) {
            Ok(()) => ExitCode::SUCCESS,
            Err(fault) => {
                eprintln!("{}: {fault}", program.daemon.program);
                ExitCode::FAILURE
            }
        },
    }
}

/// A process that is about to be a daemon: it hears signals, has a log, and knows its service manager.
#[derive(Debug)]
pub struct Process {
    stop: Stop,
    _signals: Signals,
    log: LogHandle,
    notify: Notify,
}

impl Process {
    /// Begins to listen to signals and to log, and shows the banner and what the reader of the settings warned of.
    pub fn begin(
        service: &str,
        version: &str,
        log: &LogConfig,
        banner: &[(&str, String)],
        warnings: &[String],
    ) -> Result<Process, String> {
        let stop = Stop::new();
        let signals = stop.on_signals().map_err(|e| format!("cannot listen to signals: {e}"))?;
        let log = logging::start(log).map_err(|e| e.to_string())?;
        logging::print_banner(service, version, banner).map_err(|e| format!("banner: {e}"))?;
        for warning in warnings {
            log::warn!("{warning}");
        }
        let notify = Notify::from_environment().map_err(|e| e.to_string())?;
        Ok(Process { stop, _signals: signals, log, notify })
    }

    /// The newest lines of the log.
    pub fn ring(&self) -> Arc<Ring> {
        self.log.ring()
    }

    /// The daemon serves: tells the service manager so, keeps it informed, and waits for a signal. Then `end` gets the
    /// time that running exchanges may take, and gives the names of threads that had panicked.
    pub fn until_stopped<N: Into<String>>(
        self,
        vitals: Vec<Vital>,
        status: impl Fn() -> String + Send + 'static,
        end: impl FnOnce(Duration) -> Vec<N>,
    ) -> Result<(), String> {
        // Dropped from the last to the first: what is said at the end still gets into the log.
        let Process { stop, _signals, log: _log, notify } = self;
        let keeper = notify.ready(vitals, status).map_err(|e| e.to_string())?;
        stop.wait();
        log::info!("stopping; running requests have {} s to finish", DRAIN.as_secs());
        keeper.stopping("running requests may finish");
        let panicked: Vec<String> = end(DRAIN).into_iter().map(Into::into).collect();
        if panicked.is_empty() {
            log::info!("stopped");
            Ok(())
        } else {
            Err(format!("threads that had panicked: {}", panicked.join(", ")))
        }
    }
}
