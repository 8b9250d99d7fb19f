//! The settings that both daemons have about their log.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::settings::{Reader, Setting};

/// How bad or how detailed a line is.
///
/// Own names, because the operator's words (`verbose`, `fatal`) are those of the earlier program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// The daemon ends because of it.
    Fatal,
    /// Something that was asked for could not be done.
    Error,
    /// Something the Operator should look at.
    Warning,
    /// What happened.
    Information,
    /// For finding faults.
    Debug,
    /// Everything, that of libraries too.
    Verbose,
}

impl Level {
    /// Reads a level; upper and lower case are the same.
    pub fn parse(text: &str) -> Result<Level, String> {
        match text.to_ascii_lowercase().as_str() {
            "fatal" | "critical" => Ok(Level::Fatal),
            "error" => Ok(Level::Error),
            "warning" | "warn" => Ok(Level::Warning),
            "information" | "info" => Ok(Level::Information),
            "debug" => Ok(Level::Debug),
            "verbose" | "trace" => Ok(Level::Verbose),
            _ => Err("must be one of verbose, debug, information, warning, error, fatal".into()),
        }
    }

    /// The three letters that stand in a line.
    pub fn letters(self) -> &'static str {
        match self {
            Level::Fatal => "FTL",
            Level::Error => "ERR",
            Level::Warning => "WRN",
            Level::Information => "INF",
            Level::Debug => "DBG",
            Level::Verbose => "VRB",
        }
    }

    /// The word that the API has for it: those of the earlier program, which knows four.
    pub fn word(self) -> &'static str {
        match self {
            Level::Fatal | Level::Error => "Error",
            Level::Warning => "Warning",
            Level::Information => "Info",
            Level::Debug | Level::Verbose => "Debug",
        }
    }

    /// The level that an API calls by this word; what no word stands for is [`Level::Information`].
    pub fn from_word(word: &str) -> Level {
        use Level::{Debug, Error, Warning};
        [Error, Warning, Debug].into_iter().find(|level| level.word() == word).unwrap_or(Level::Information)
    }

    /// The level that stands in a line as these letters.
    pub fn from_letters(letters: &str) -> Option<Level> {
        use Level::{Debug, Error, Fatal, Information, Verbose, Warning};
        [Fatal, Error, Warning, Information, Debug, Verbose]
            .into_iter()
            .find(|level| level.letters() == letters)
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.letters())
    }
}

/// What is logged, and where to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// Lines less important than this are not written.
    pub level: Level,
    /// The rolling file, if any.
    pub file: Option<LogFile>,
    /// How many files are kept.
    pub retained: usize,
    /// Bytes after which a numbered file is begun.
    pub size_limit: u64,
}

/// A rolling file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFile {
    /// As configured: the date is inserted before the extension.
    pub path: PathBuf,
    /// Whether the Operator asked for it; a default that cannot be written is no cause for alarm.
    pub explicit: bool,
}

/// `Logging__LogLevel`.
pub const LEVEL: Setting = Setting::text(
    "Logging__LogLevel",
    "verbose (trace), debug, information (info), warning (warn), error or fatal (critical)",
    "Information",
    "Least important lines that are logged. Information has one line for each request.",
);

/// `Logging__RetainedFileCountLimit`.
pub const RETAINED: Setting = Setting::number(
    "Logging__RetainedFileCountLimit",
    30,
    1,
    10_000,
    "How many log files are kept; older ones are deleted.",
);

/// `Logging__FileSizeLimitBytes`.
pub const FILE_SIZE: Setting = Setting::number(
    "Logging__FileSizeLimitBytes",
    104_857_600,
    65_536,
    1_099_511_627_776,
    "Size at which the day's log file is continued in a numbered one.",
);

/// `Logging__FilePath`, with the default of a daemon in words.
pub const fn file_setting(default: &'static str) -> Setting {
    Setting::text(
        "Logging__FilePath",
        "A path; the date is inserted before the extension (agent-.log becomes agent-20260131.log)",
        "",
        "Rolling log file, a new one every day. Its directory must be writable; if it is not, that is said once and \
         the daemon runs without. Set it to nothing to have no file.",
    )
    .keep_empty()
    .default_text(default)
}

impl LogConfig {
    /// Reads the settings. `default_file` is used when `Logging__FilePath` is not set at all.
    pub fn read(reader: &mut Reader, default_file: Option<&Path>) -> LogConfig {
        let level = reader.parsed(LEVEL.key, Level::parse).unwrap_or(Level::Information);
        let file = if reader.is_set("Logging__FilePath") {
            let path = reader.parsed("Logging__FilePath", |text| match Path::new(text) {
                _ if text.is_empty() => Ok(None),
                path if text.ends_with('/') || path.file_name().is_none() => {
                    Err("must name a file, not a directory".to_owned())
                }
                path => Ok(Some(path.to_owned())),
            });
            path.flatten().map(|path| LogFile { path, explicit: true })
        } else {
            default_file.map(|path| LogFile { path: path.to_owned(), explicit: false })
        };
        let retained = reader.number(RETAINED.key) as usize;
        LogConfig { level, file, retained, size_limit: reader.number(FILE_SIZE.key) }
    }
}
