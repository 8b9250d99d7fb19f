//! Frames: what Gateway and Agent tell each other.

use shared::frame::{Frame, HEADER, MAX_DATA, MAX_FRAME, MAX_RESET_TEXT, MAX_TRAILERS, Side};

/// One WebSocket message arrives, at either side.
pub fn check(data: &[u8]) {
    for side in [Side::Gateway, Side::Agent] {
        let Ok(Some(frame)) = Frame::decode(data, side) else { continue };
        assert!((HEADER..=MAX_FRAME).contains(&data.len()));
        match frame {
            Frame::Open(_) => assert_eq!(side, Side::Agent),
            Frame::Head { .. } => assert_eq!(side, Side::Gateway),
            Frame::Data { bytes, .. } => assert!(bytes.len() <= MAX_DATA),
            Frame::End { trailers, .. } => assert!(trailers.len() <= MAX_TRAILERS),
            Frame::Credit { bytes, .. } => assert!(bytes > 0),
            Frame::Control { .. } | Frame::Beat { .. } | Frame::BeatAck { .. } | Frame::Reset { .. } => {}
        }
        let mut out = Vec::new();
        frame.encode(&mut out);
        assert!(out.len() <= data.len(), "{} bytes became {}", data.len(), out.len());
        let again = Frame::decode(&out, side).expect("what we wrote is a frame");
        match (frame, again) {
            // The one thing that is cut, between characters.
            (Frame::Reset { stream, reason, text }, Some(Frame::Reset { stream: s, reason: r, text: t })) => {
                assert_eq!((stream, reason.code()), (s, r.code()));
                assert!(text.starts_with(t) && (t.len() == text.len() || t.len() > MAX_RESET_TEXT - 4));
            }
            (frame, again) => assert_eq!(again, Some(frame)),
        }
    }
}
