//! Where a Visitor's request goes: address, TLS or not, and the host name it asks for.

use std::net::SocketAddr;

use crate::args::Args;
use crate::fault::Fault;

/// One system's entrance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Whether to speak TLS.
    pub tls: bool,
    /// Where to connect.
    pub addr: SocketAddr,
    /// `Host` and, with TLS, the server name.
    pub host: String,
}

impl Target {
    /// Reads `http://ADDR:PORT` or `https://ADDR:PORT`. Names are not resolved: the bench talks to its own
    /// machine only, and an address shows that it does.
    pub fn parse(url: &str, host: &str) -> Result<Self, Fault> {
        let wrong = || Fault::Usage(format!("url {url:?}: expected http://ADDRESS:PORT"));
        let (scheme, rest) = url.split_once("://").ok_or_else(wrong)?;
        let tls = match scheme {
            "http" => false,
            "https" => true,
            _ => return Err(wrong()),
        };
        let addr = rest.trim_end_matches('/').parse().map_err(|_| wrong())?;
        Ok(Self { tls, addr, host: host.to_owned() })
    }

    /// Takes `--url` and `--host`.
    pub fn from_args(args: &mut Args) -> Result<Self, Fault> {
        let url: String = args.required("url")?;
        Self::parse(&url, &args.or("host", "bench.localhost".to_owned())?)
    }

    /// The options that `from_args` reads.
    pub fn to_args(&self) -> [String; 4] {
        ["--url".to_owned(), self.url(), "--host".to_owned(), self.host.clone()]
    }

    /// `http://ADDR:PORT`
    pub fn url(&self) -> String {
        format!("{}://{}", if self.tls { "https" } else { "http" }, self.addr)
    }

    /// A GET request.
    pub fn get(&self, path: &str, close: bool) -> Vec<u8> {
        let connection = if close { "Connection: close\r\n" } else { "" };
        format!("GET {path} HTTP/1.1\r\nHost: {}\r\n{connection}\r\n", self.host).into_bytes()
    }

    /// The head of a POST request.
    pub fn post(&self, path: &str, length: u64) -> Vec<u8> {
        format!("POST {path} HTTP/1.1\r\nHost: {}\r\nContent-Length: {length}\r\n\r\n", self.host)
            .into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_survive_the_command_line() {
        for url in ["http://127.0.0.1:80", "https://[::1]:8443"] {
            let target = Target::parse(url, "a.localhost").expect("an address");
            assert_eq!(target.url(), url);
            let mut args = Args::parse(target.to_args(), &[]).expect("pairs");
            assert_eq!(Target::from_args(&mut args).expect("the same again"), target);
        }
    }

    #[test]
    fn names_and_other_schemes_are_refused() {
        for url in ["http://localhost:80", "ftp://127.0.0.1:80", "http://127.0.0.1", "127.0.0.1:80", ""] {
            assert!(Target::parse(url, "h").is_err(), "{url:?}");
        }
    }
}
