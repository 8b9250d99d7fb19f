//! `GET /api/v1/settings/backup`: a copy of the whole database, to be put away.

use std::io::{self, Read};

use super::App;
use super::api::Params;
use super::http::{Request, Response, Sink};
use super::problem;
use crate::timestamp;

/// Bytes read and sent at a time.
const PIECE: usize = 64 * 1024;

/// `GET /api/v1/settings/backup`.
pub(crate) fn backup(app: &App, _: &Request, _: &Params<'_>) -> Response {
    let (mut file, length) = match app.store.snapshot() {
        Ok(snapshot) => snapshot,
        Err(e) => return problem::internal(&e),
    };
    let name = format!("octoporty-{}.db", timestamp::file_form(timestamp::now()));
    log::info!("admin: a backup was made, {length} bytes");
    let write = move |sink: &mut dyn Sink| {
        let mut piece = vec![0; PIECE];
        loop {
            match file.read(&mut piece)? {
                0 => return Ok(()),
                count => sink.write_all(&piece[..count])?,
            }
            if sink.ended() {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
        }
    };
    Response::stream(200, "application/vnd.sqlite3", write)
        .with("Content-Disposition", format!("attachment; filename=\"{name}\""))
        .with("Content-Length", length.to_string())
}
