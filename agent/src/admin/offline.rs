//! The API without a listener: what sub-commands use while no Agent runs, so that a change to the database passes the
//! same checks whether it comes from the page, from a script or from the command line.

use std::io;
use std::net::{IpAddr, Ipv4Addr};

use super::http::{Body, Request, Sink};
use super::{App, api, token};
use crate::timestamp;

/// A token for the API of an Agent with this secret: whoever may read the settings is the Operator.
pub(crate) fn operator_token(secret: &[u8]) -> String {
    token::issue_for_command(secret, timestamp::now().unix_timestamp())
}

/// Status and body of the answer to a request of the Operator.
pub(crate) fn ask(app: &App, method: &str, target: &str, json: Option<&[u8]>) -> io::Result<(u16, Vec<u8>)> {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let authorization = format!("Bearer {}", operator_token(app.config.jwt_secret.expose().as_bytes()));
    let mut headers = vec![("Authorization".to_owned(), authorization)];
    if json.is_some() {
        headers.push(("Content-Type".to_owned(), "application/json".to_owned()));
    }
    let request = Request {
        method: method.to_owned(),
        path: path.to_owned(),
        query: query.to_owned(),
        headers,
        body: json.unwrap_or_default().to_vec(),
        peer: IpAddr::V4(Ipv4Addr::LOCALHOST),
    };
    let (response, _) = api::handle_for(app, &request);
    let body = match response.body {
        Body::Bytes(bytes) => bytes.into_owned(),
        Body::Stream(write) => {
            let mut memory = Memory(Vec::new());
            write(&mut memory)?;
            memory.0
        }
    };
    Ok((response.status, body))
}

/// A body that is made while it is "sent".
struct Memory(Vec<u8>);

impl io::Write for Memory {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Sink for Memory {
    fn ended(&self) -> bool {
        false
    }
}
