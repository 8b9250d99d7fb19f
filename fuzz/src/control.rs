//! Control messages: what Gateway and Agent tell each other in JSON.

use std::fmt::Debug;

use shared::hello::{ControlFault, ToAgent, ToGateway};

/// A message arrives, at either side.
pub fn check(data: &[u8]) {
    back_and_forth(data, ToGateway::parse, ToGateway::to_json);
    if let Some(message) = back_and_forth(data, ToAgent::parse, ToAgent::to_json) {
        message.answers();
    }
}

fn back_and_forth<M: PartialEq + Debug>(
    data: &[u8],
    parse: impl Fn(&[u8]) -> Result<M, ControlFault>,
    write: impl Fn(&M) -> Vec<u8>,
) -> Option<M> {
    match parse(data) {
        Ok(message) => {
            let json = write(&message);
            // Six bytes for one that is escaped, and what had been left out is written.
            assert!(json.len() <= 6 * data.len() + 4096, "{} bytes became {}", data.len(), json.len());
            assert_eq!(parse(&json).as_ref(), Ok(&message));
            Some(message)
        }
        Err(ControlFault::Unknown(name)) => {
            assert!(name.chars().count() <= 64, "an answer of any length");
            None
        }
        Err(ControlFault::Malformed(_)) => None,
    }
}
