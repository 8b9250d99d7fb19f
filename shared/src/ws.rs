//! The sending half of a WebSocket: messages to bytes. The receiving half is tungstenite's `WebSocketContext`.
//!
//! A Link needs its two halves in different threads, and a sender that never waits; so a message is appended to a
//! buffer here, with tungstenite's `FrameHeader`, and what becomes of the buffer is the Link's business.

use tungstenite::protocol::WebSocketConfig;
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

use crate::frame::MAX_FRAME;

/// Settings of the receiving half. 32 KiB: each read clears that much memory first, and bulk is flat from 16 KiB.
pub fn config() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(32 * 1024)
        .write_buffer_size(0)
        .max_write_buffer_size(64 * 1024)
        .max_message_size(Some(MAX_FRAME))
        .max_frame_size(Some(MAX_FRAME))
}

/// Appends one binary message made of `parts`. RFC 6455 5.3: what goes to the server side is masked with a fresh,
/// unpredictable key.
pub fn append_binary(out: &mut Vec<u8>, masked: bool, parts: &[&[u8]]) {
    append(out, masked, OpCode::Data(Data::Binary), parts);
}

/// Appends a close frame (RFC 6455 5.5.1). `reason` is cut to 120 bytes.
pub fn append_close(out: &mut Vec<u8>, masked: bool, code: u16, reason: &str) {
    let end = (0..=reason.len().min(120)).rev().find(|i| reason.is_char_boundary(*i)).unwrap_or(0);
    append(out, masked, OpCode::Control(Control::Close), &[&code.to_be_bytes(), &reason.as_bytes()[..end]]);
}

fn append(out: &mut Vec<u8>, masked: bool, opcode: OpCode, parts: &[&[u8]]) {
    let len: usize = parts.iter().map(|p| p.len()).sum();
    let mask: Option<[u8; 4]> = masked.then(rand::random);
    let header = FrameHeader { is_final: true, rsv1: false, rsv2: false, rsv3: false, opcode, mask };
    out.reserve(len + 14);
    header.format(len as u64, out).expect("writing to a vector does not fail");
    let start = out.len();
    for part in parts {
        out.extend_from_slice(part);
    }
    if let Some(mask) = mask {
        apply_mask(&mut out[start..], mask);
    }
}

fn apply_mask(bytes: &mut [u8], mask: [u8; 4]) {
    let word = u64::from_ne_bytes([mask[0], mask[1], mask[2], mask[3], mask[0], mask[1], mask[2], mask[3]]);
    let mut words = bytes.chunks_exact_mut(8);
    for chunk in &mut words {
        let value = u64::from_ne_bytes(chunk.try_into().expect("chunks of eight")) ^ word;
        chunk.copy_from_slice(&value.to_ne_bytes());
    }
    for (byte, key) in words.into_remainder().iter_mut().zip(mask.iter().cycle()) {
        *byte ^= key;
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use tungstenite::Message;
    use tungstenite::protocol::{Role, WebSocketContext};

    use super::*;

    #[test]
    fn tungstenite_reads_what_we_write() {
        for masked in [false, true] {
            let role = if masked { Role::Server } else { Role::Client };
            for len in [0usize, 1, 7, 125, 126, 4096, 65_535, 65_536, MAX_FRAME] {
                let payload: Vec<u8> = (0..len).map(|i| i as u8).collect();
                let (a, b) = payload.split_at(len / 3);
                let mut bytes = Vec::new();
                append_binary(&mut bytes, masked, &[a, b]);
                let mut context = WebSocketContext::new(role, Some(config()));
                let message = context.read(&mut Cursor::new(bytes)).unwrap();
                assert_eq!(message, Message::binary(payload), "{len} bytes, masked {masked}");
            }
        }
    }

    #[test]
    fn a_close_frame_carries_its_code() {
        let mut bytes = Vec::new();
        append_close(&mut bytes, false, 1002, &"ä".repeat(100));
        let mut context = WebSocketContext::new(Role::Client, Some(config()));
        match context.read(&mut Cursor::new(bytes)).unwrap() {
            Message::Close(Some(frame)) => assert_eq!(u16::from(frame.code), 1002),
            other => panic!("{other:?}"),
        }
    }
}
