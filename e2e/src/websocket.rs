//! WebSockets at both ends of a test, with tungstenite: an implementation that is not ours.

use tungstenite::Message;
use tungstenite::handshake::derive_accept_key;
use tungstenite::protocol::{Role, WebSocketConfig};

use crate::socket::Socket;

/// A WebSocket over a test's connection.
pub type WebSocket = tungstenite::WebSocket<Socket>;

/// The key that every test's visitor sends (the one of RFC 6455 1.3), so that a traffic dump is easy to read.
pub const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
/// The answer to [`KEY`].
pub const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// The fields of a handshake, with others added.
pub fn request_fields<'f>(more: &[(&'f str, &'f str)]) -> Vec<(&'f str, &'f str)> {
    let mut fields = vec![
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", KEY),
    ];
    fields.extend_from_slice(more);
    fields
}

/// The 101 to a handshake with this key, with other fields (whole lines) added.
pub fn response(key: &str, more: &str) -> String {
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {}\r\n{more}\r\n",
        derive_accept_key(key.as_bytes())
    )
}

/// The client's side, after the handshake; `buffer` is what came behind the 101.
pub fn client(socket: Socket, buffer: Vec<u8>) -> WebSocket {
    WebSocket::from_partially_read(socket, buffer, Role::Client, Some(config()))
}

/// The server's side, after the handshake; `buffer` is what came behind the request.
pub fn server(socket: Socket, buffer: Vec<u8>) -> WebSocket {
    WebSocket::from_partially_read(socket, buffer, Role::Server, Some(config()))
}

fn config() -> WebSocketConfig {
    // Larger than any message of a test, so that what is refused is refused by the daemons.
    WebSocketConfig::default().max_message_size(Some(64 << 20)).max_frame_size(Some(64 << 20))
}

/// Sends every message back until the other side closes; gives the close frame's code, if there was one.
pub fn echo(socket: &mut WebSocket) -> Option<u16> {
    loop {
        match socket.read() {
            Ok(message @ (Message::Text(_) | Message::Binary(_))) => {
                if socket.send(message).is_err() {
                    return None;
                }
            }
            Ok(Message::Close(frame)) => {
                // tungstenite queued the answering close frame; flushing may find the connection gone already.
                drop(socket.flush());
                return frame.map(|frame| frame.code.into());
            }
            Ok(_) => {}
            Err(_) => return None,
        }
    }
}
