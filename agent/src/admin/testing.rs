//! What tests of handlers need: an App without a socket, around a fake of the tunnel.

use std::net::SocketAddr;
use std::sync::Arc;

use shared::secret::Secret;

use super::{AdminConfig, App};
use crate::control::Control;
use crate::events::Live;
use crate::history::{Limits, Recorder};
use crate::store::scratch::Scratch;

/// Of "password", by `openssl passwd -6`.
const HASH: &str =
    "$6$abcdefgh$yVfUwsw5T.JApa8POvClA1pQ5peiq97DUNyXCZN5IrF.BMSkiaLQ5kvpuEm/VQ1Tvh/KV2TcaWh8qinoW5dhA1";

/// An App of version 1.2.3 on an empty database that goes with the third.
pub(crate) fn app<C: Control + 'static>(control: C) -> (App, Arc<C>, Scratch) {
    let scratch = Scratch::new();
    let store = scratch.store();
    let config = AdminConfig {
        bind: SocketAddr::from(([127, 0, 0, 1], 17201)),
        jwt_secret: Secret::new("0123456789abcdef0123456789abcdef"),
        password_hash: Secret::new(HASH),
        version: "1.2.3".into(),
        name: "nas".into(),
        heartbeat_seconds: 30,
        metrics_token: None,
    };
    let history = Recorder::start(store.clone(), Limits::default(), Arc::default()).expect("a recorder");
    let control = Arc::new(control);
    let tunnel = Arc::clone(&control) as Arc<dyn Control>;
    let app = App::new(config, store, history, tunnel, Live::default()).expect("an app");
    (app, control, scratch)
}
