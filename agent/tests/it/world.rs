//! An admin page on a port of its own, and those who talk to it.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use agent::admin::{self, Admin, AdminConfig, App};
use agent::control::{AskFault, Control, LogPage, RouteState, TunnelState, TunnelStatus};
use agent::events::Live;
use agent::history::{Limits, Recorder};
use agent::store::Store;
use shared::logging::{Level, Line};
use shared::mapping::MappingId;
use shared::secret::Secret;

/// Of "password", by `openssl passwd -6`.
pub(crate) const HASH: &str =
    "$6$abcdefgh$yVfUwsw5T.JApa8POvClA1pQ5peiq97DUNyXCZN5IrF.BMSkiaLQ5kvpuEm/VQ1Tvh/KV2TcaWh8qinoW5dhA1";
pub(crate) const METRICS_TOKEN: &str = "metrics-token-of-the-test";
pub(crate) const SECRET: &str = "0123456789abcdef0123456789abcdef";
/// An upper bound for what should take no time at all.
pub(crate) const SOON: Duration = Duration::from_secs(20);

pub(crate) fn history(store: &Store) -> Arc<Recorder> {
    Recorder::start(store.clone(), Limits::default(), Arc::default()).expect("a recorder")
}

/// A tunnel that is connected and has every mapping at once.
pub(crate) struct FakeTunnel {
    store: Store,
    reconnects: Arc<AtomicUsize>,
}

impl FakeTunnel {
    pub(crate) fn new(store: Store) -> FakeTunnel {
        FakeTunnel { store, reconnects: Arc::default() }
    }
}

impl Control for FakeTunnel {
    fn status(&self) -> TunnelStatus {
        TunnelStatus { state: TunnelState::Connected, ..TunnelStatus::default() }
    }

    fn mappings_changed(&self, _: Duration) -> Vec<(MappingId, RouteState)> {
        let mappings = self.store.mappings().expect("mappings");
        mappings.into_iter().map(|mapping| (mapping.id, RouteState::Synced)).collect()
    }

    fn gateway_logs(&self, before: u64, _: u32, _: Option<&str>) -> Result<LogPage, AskFault> {
        assert_eq!(before, 0, "the newest");
        let line =
            |id| Line { id, time_ms: 0, level: Level::Information, text: format!("gateway {id}").into() };
        Ok(LogPage { lines: (1..=5).rev().map(line).collect(), has_more: false })
    }

    fn reconnect(&self) {
        self.reconnects.fetch_add(1, Ordering::Relaxed);
    }
}

/// An admin page on a port of its own, with a database that goes with it.
pub(crate) struct World {
    admin: Option<Admin>,
    pub(crate) address: SocketAddr,
    pub(crate) live: Live,
    /// How often the tunnel was told to begin anew.
    pub(crate) reconnects: Arc<AtomicUsize>,
    pub(crate) directory: PathBuf,
}

impl World {
    pub(crate) fn new() -> World {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("octoporty-api-{}-{number}", std::process::id()));
        fs::create_dir_all(&directory).expect("a directory");
        let store = Store::open(&directory.join("octoporty.db")).expect("a store");
        let config = AdminConfig {
            bind: SocketAddr::from(([127, 0, 0, 1], 0)),
            jwt_secret: Secret::new(SECRET),
            password_hash: Secret::new(HASH),
            version: "1.0.0".into(),
            name: "home".into(),
            heartbeat_seconds: 30,
            metrics_token: Some(Secret::new(METRICS_TOKEN)),
        };
        let live = Live::default();
        let tunnel = FakeTunnel::new(store.clone());
        let reconnects = Arc::clone(&tunnel.reconnects);
        let app =
            App::new(config, store.clone(), history(&store), Arc::new(tunnel), live.clone()).expect("an app");
        let admin = admin::start(app).expect("a listener");
        let address = admin.address();
        World { admin: Some(admin), address, live, reconnects, directory }
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let socket = TcpStream::connect(self.address).expect("a connection");
        socket.set_read_timeout(Some(SOON)).expect("a timeout");
        socket.set_write_timeout(Some(SOON)).expect("a timeout");
        socket
    }

    /// Sends bytes on a fresh connection and reads until it ends.
    pub(crate) fn exchange(&self, bytes: impl AsRef<[u8]>) -> String {
        let mut socket = self.connect();
        socket.write_all(bytes.as_ref()).expect("sent");
        let mut answer = Vec::new();
        socket.read_to_end(&mut answer).expect("an answer");
        String::from_utf8(answer).expect("text")
    }

    pub(crate) fn ask(
        &self,
        method: &str,
        path: &str,
        token: Option<&str>,
        body: Option<&Value>,
    ) -> (u16, Value) {
        let mut text = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n", self.address);
        if let Some(token) = token {
            text.push_str(&format!("Authorization: Bearer {token}\r\n"));
        }
        let body = body.map(Value::to_string);
        if let Some(body) = &body {
            text.push_str(&format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len()));
        }
        let answer = self.exchange(format!("{text}\r\n{}", body.unwrap_or_default()));
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        (status(head), serde_json::from_str(body).unwrap_or(Value::Null))
    }

    pub(crate) fn log_in(&self) -> String {
        let (status, body) =
            self.ask("POST", "/api/v1/auth/login", None, Some(&json!({ "password": "password" })));
        assert_eq!(status, 200, "{body}");
        body["token"].as_str().expect("a token").to_owned()
    }

    /// Ends it and compares the threads.
    pub(crate) fn stop(mut self) {
        let panicked = self.admin.take().expect("it runs").stop();
        assert_eq!(panicked, [""; 0]);
        assert!(TcpStream::connect(self.address).is_err(), "the port is free");
    }
}

impl Drop for World {
    fn drop(&mut self) {
        drop(self.admin.take());
        fs::remove_dir_all(&self.directory).expect("the directory goes");
    }
}

pub(crate) fn status(head: &str) -> u16 {
    head.split(' ').nth(1).and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("{head:?}"))
}

/// Reads one answer whose length is given, leaving the connection open.
pub(crate) fn one_answer(socket: &mut TcpStream) -> (String, String) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        socket.read_exact(&mut byte).expect("a head");
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).expect("text");
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("Content-Length: "))
        .map_or(0, |length| length.parse().expect("a number"));
    let mut body = vec![0; length];
    socket.read_exact(&mut body).expect("a body");
    (head, String::from_utf8(body).expect("text"))
}

/// A folder that goes when dropped.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Folder {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("octoporty-it-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).expect("a directory");
        Folder(path)
    }

    pub(crate) fn path(&self) -> &std::path::Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(e) = fs::remove_dir_all(&self.0) {
            eprintln!("{} stays: {e}", self.0.display());
        }
    }
}
