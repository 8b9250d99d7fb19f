//! What can go wrong in a benchmark, as one enum with its texts; who reports it is the caller's business.

use std::fmt;
use std::io;
use std::time::Duration;

/// Why a measurement, or the whole run, did not happen.
#[derive(Debug)]
pub enum Fault {
    /// The command line is wrong.
    Usage(String),
    /// The operating system refused; `what` names the thing.
    Io {
        /// What was attempted, with its address or path.
        what: String,
        /// The refusal.
        error: io::Error,
    },
    /// Somebody sent what HTTP, TLS or the admin API does not allow or we did not expect.
    Answer(String),
    /// A child process ended badly.
    Child {
        /// Which one.
        name: String,
        /// Exit code and last words.
        why: String,
    },
    /// Something did not happen in time.
    Late {
        /// What was awaited.
        what: String,
        /// For how long.
        limit: Duration,
    },
    /// A signal asked us to stop.
    Interrupted,
}

impl Fault {
    /// For `map_err`: names what was attempted.
    pub fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |error| Self::Io { what, error }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(text) | Self::Answer(text) => f.write_str(text),
            Self::Io { what, error } => write!(f, "{what}: {error}"),
            Self::Child { name, why } => write!(f, "{name}: {why}"),
            Self::Late { what, limit } => write!(f, "{what}: not within {:.1} s", limit.as_secs_f64()),
            Self::Interrupted => f.write_str("stopped by a signal"),
        }
    }
}

impl std::error::Error for Fault {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { error, .. } => Some(error),
            _ => None,
        }
    }
}
