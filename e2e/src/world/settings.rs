//! Settings that tests start daemons with, and folders of their own.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// The key that Gateways and Agents share.
pub const KEY: &str = "an-api-key-for-tests-0123456789-abcdefghij";
/// The Operator's password.
pub const PASSWORD: &str = "correct horse battery";
/// Its hash; few rounds, because the tests are not what it protects.
pub const PASSWORD_HASH: &str = "$6$rounds=1000$octoportye2e$9.rUAMyJCXDEcXopmjQDj3etfAKpByWLX71GBKikrzbKlVMldWhxuDEZZ5aKdn0eNQ3vNoMVi3XMKhMOPEXSX/";
/// Signs the Operator's tokens.
pub const JWT_SECRET: &str = "a-jwt-secret-for-tests-0123456789-abcdefgh";

/// Settings of a daemon, by name. The last one given wins.
#[derive(Clone, Debug, Default)]
pub struct Settings(Vec<(String, String)>);

impl Settings {
    /// Sets one.
    pub fn set(&mut self, key: &str, value: impl Into<String>) {
        self.0.retain(|(k, _)| k != key);
        self.0.push((key.to_owned(), value.into()));
    }

    pub(super) fn of(pairs: &[(&str, &str)]) -> Settings {
        Settings(pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
    }

    /// All of them.
    pub fn list(self) -> Vec<(String, String)> {
        self.0
    }

    /// As a process gets them.
    pub fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(k, v)| (k.as_str(), v.as_str()))
    }

    /// The settings a Gateway starts with.
    pub fn gateway() -> Settings {
        Settings::of(&[
            ("Gateway__ApiKey", KEY),
            ("Gateway__Port", "0"),
            ("Gateway__BindAddress", "127.0.0.1"),
            ("Gateway__CaddyMode", "off"),
            ("Gateway__StateDirectory", ""),
            ("Logging__FilePath", ""),
            ("Logging__LogLevel", "Debug"),
        ])
    }

    /// The settings an Agent starts with, but for the Gateway's address and the database.
    pub fn agent() -> Settings {
        Settings::of(&[
            ("Agent__ApiKey", KEY),
            ("Agent__JwtSecret", JWT_SECRET),
            ("Agent__Auth__PasswordHash", PASSWORD_HASH),
            ("Agent__Port", "0"),
            ("Agent__BindAddress", "127.0.0.1"),
            ("Agent__ReconnectDelaySeconds", "1"),
            ("Agent__MaxReconnectDelaySeconds", "2"),
            ("Logging__FilePath", ""),
            ("Logging__LogLevel", "Debug"),
        ])
    }
}

/// A folder that is removed when dropped.
#[derive(Debug)]
pub struct Folder(PathBuf);

impl Default for Folder {
    fn default() -> Folder {
        Folder::new()
    }
}

impl Folder {
    /// A new, empty one.
    pub fn new() -> Folder {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let name = format!("octoporty-e2e-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        Folder(path)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a file into it and gives its path.
    pub fn write(&self, name: &str, content: &str) -> String {
        let path = self.0.join(name);
        std::fs::write(&path, content).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        path.to_str().expect("a path in UTF-8").to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(e) = std::fs::remove_dir_all(&self.0) {
            eprintln!("{} stays: {e}", self.0.display());
        }
    }
}
