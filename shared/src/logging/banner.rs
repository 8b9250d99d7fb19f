//! What is printed at start: name, version and the settings one asks about first.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};

/// Where the project lives.
const PROJECT: &str = env!("CARGO_PKG_REPOSITORY");
/// Indentation of name and project.
const INDENT: &str = "          ";
/// Length of the rule.
const RULE: usize = 64;

const LETTERS: [&str; 6] = [
    " ██████╗  ██████╗████████╗ ██████╗ ██████╗  ██████╗ ██████╗ ████████╗██╗   ██╗",
    "██╔═══██╗██╔════╝╚══██╔══╝██╔═══██╗██╔══██╗██╔═══██╗██╔══██╗╚══██╔══╝╚██╗ ██╔╝",
    "██║   ██║██║        ██║   ██║   ██║██████╔╝██║   ██║██████╔╝   ██║    ╚████╔╝",
    "██║   ██║██║        ██║   ██║   ██║██╔═══╝ ██║   ██║██╔══██╗   ██║     ╚██╔╝",
    "╚██████╔╝╚██████╗   ██║   ╚██████╔╝██║     ╚██████╔╝██║  ██║   ██║      ██║",
    " ╚═════╝  ╚═════╝   ╚═╝    ╚═════╝ ╚═╝      ╚═════╝ ╚═╝  ╚═╝   ╚═╝      ╚═╝",
];

/// The banner as text. Secrets among `entries` come obfuscated: here nobody knows which they are.
pub fn banner(service: &str, version: &str, entries: &[(&str, String)]) -> String {
    // Build metadata says nothing to an Operator.
    let version = version.split('+').next().unwrap_or(version);
    let letters = LETTERS.join("\n");
    let rule = "═".repeat(RULE);
    let mut out = format!("\n{letters}\n\n{INDENT}{service} v{version}\n{INDENT}{PROJECT}\n\n  {rule}\n\n");
    for (key, value) in entries {
        // Writing to a String cannot fail. A value is one line, as it may come from the environment.
        let _ = writeln!(out, "  {key}: {}", value.replace(char::is_control, "?"));
    }
    let _ = write!(out, "\n  {rule}\n\n");
    out
}

/// Prints the banner on standard output, as the earlier program did.
pub fn print_banner(service: &str, version: &str, entries: &[(&str, String)]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(banner(service, version, entries).as_bytes())?;
    out.flush()
}

/// The ids of the process as `uid:gid`, which is what one needs to know to make a volume writable.
pub fn uid_gid() -> String {
    let ids = fs::read_to_string("/proc/self/status").ok().and_then(|status| parse_ids(&status));
    ids.unwrap_or_else(|| "unknown".into())
}

/// The real ids: the first number of each line (proc(5)).
fn parse_ids(status: &str) -> Option<String> {
    let id = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<u32>().ok()
    };
    Some(format!("{}:{}", id("Uid:")?, id("Gid:")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_banner_has_the_published_shape() {
        let entries = [("ApiKey", "ab****yz".to_owned()), ("GatewayFqdn", "a\nb".to_owned())];
        let text = banner("Octoporty Gateway", "1.2.3+abcdef", &entries);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 18);
        assert_eq!((lines[0], lines[7]), ("", ""));
        assert!(lines[1..7].iter().all(|line| line.chars().count() <= 80 && line.contains(['█', '╚'])));
        assert_eq!(lines[8], "          Octoporty Gateway v1.2.3");
        assert!(lines[9].starts_with("          https://"));
        assert_eq!(lines[11], format!("  {}", "═".repeat(64)));
        assert_eq!(&lines[12..16], ["", "  ApiKey: ab****yz", "  GatewayFqdn: a?b", ""]);
        assert_eq!((lines[16], lines[17]), (lines[11], ""));
    }

    #[test]
    fn the_real_ids_are_the_first() {
        let status = "Name:\tx\nUid:\t1000\t1001\t1002\t1003\nGid:\t568\t0\t0\t0\n";
        assert_eq!(parse_ids(status).as_deref(), Some("1000:568"));
        assert_eq!(parse_ids("Uid:\t\n"), None);
        assert_ne!(uid_gid(), "unknown");
    }
}
