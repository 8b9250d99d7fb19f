//! Bodies in each framing: taken apart in pieces of any size, put together again for the next hop.

use shared::body::{BodyFault, Decoder, Encoder, MAX_TRAILERS, Step};
use shared::head::Framing;

/// What became of an input.
#[derive(PartialEq, Eq, Debug)]
struct Outcome {
    body: Vec<u8>,
    ending: Ending,
}

#[derive(PartialEq, Eq, Debug)]
enum Ending {
    /// So many bytes were its own, with these trailers.
    Complete(usize, Option<Vec<u8>>),
    /// More is needed.
    Open,
    Fault(BodyFault),
}

/// A body arrives, after two bytes that tell how it is framed.
pub fn check(data: &[u8]) {
    let Some(([framing, length], data)) = data.split_first_chunk::<2>() else { return };
    let framing = match framing % 4 {
        0 => Framing::Length(u64::from(*length)),
        1 => Framing::UntilClose,
        _ => Framing::Chunked,
    };
    let whole = decode(framing, [data]);
    assert_eq!(decode(framing, data.chunks(1)), whole, "byte by byte: {}", data.escape_ascii());
    for at in super::beginnings(data.len()) {
        let (first, second) = data.split_at(at);
        assert_eq!(decode(framing, [first, second]), whole, "cut at {at}: {}", data.escape_ascii());
    }
    let Ending::Complete(used, trailers) = whole.ending else { return };
    assert!(used <= data.len() && whole.body.len() <= used);
    let trailers = trailers.unwrap_or_default();
    assert!(trailers.len() <= MAX_TRAILERS);
    assert_eq!(decode(framing, [&data[..used]]).body, whole.body, "what follows is of no account");

    // The next hop, in as many pieces as the body has bytes and in one.
    for size in [1, whole.body.len().max(1)] {
        let mut encoder = Encoder::new(Framing::Chunked);
        let mut out = Vec::new();
        for piece in whole.body.chunks(size) {
            encoder.account(piece.len() as u64).expect("chunks have no end");
            out.extend_from_slice(encoder.prefix(piece.len()).as_ref());
            out.extend_from_slice(piece);
            out.extend_from_slice(encoder.suffix());
        }
        encoder
            .finish((!trailers.is_empty()).then_some(&trailers), &mut out)
            .expect("trailers that were kept");
        let again = decode(Framing::Chunked, [&out[..]]);
        assert_eq!(again.body, whole.body);
        let kept = (!trailers.is_empty()).then(|| trailers.clone());
        assert_eq!(again.ending, Ending::Complete(out.len(), kept), "{}", out.escape_ascii());
    }
}

fn decode<'b>(framing: Framing, pieces: impl IntoIterator<Item = &'b [u8]>) -> Outcome {
    let mut decoder = Decoder::new(framing);
    let (mut body, mut before) = (Vec::new(), 0);
    for piece in pieces {
        let mut at = 0;
        loop {
            match decoder.decode(&piece[at..]) {
                Ok(Step::Data { used, data }) => {
                    assert!(!data.is_empty() && used >= data.len(), "a piece that is none");
                    at += used;
                    body.extend_from_slice(data);
                }
                Ok(Step::More { used }) => {
                    at += used;
                    assert_eq!(at, piece.len(), "more is asked for while there is some");
                    assert!(!decoder.is_done());
                    break;
                }
                Ok(Step::End { used, trailers }) => {
                    assert!(decoder.is_done() && decoder.at_eof().is_ok());
                    return Outcome { body, ending: Ending::Complete(before + at + used, trailers) };
                }
                Err(fault) => {
                    assert_eq!(decoder.decode(b"0\r\n\r\n"), Err(fault), "a fault stays one");
                    assert_eq!(decoder.at_eof(), Err(fault));
                    return Outcome { body, ending: Ending::Fault(fault) };
                }
            }
        }
        before += piece.len();
    }
    // Without input it says whether it is complete.
    match decoder.decode(b"") {
        Ok(Step::End { trailers, .. }) => Outcome { body, ending: Ending::Complete(before, trailers) },
        Ok(_) => Outcome { body, ending: Ending::Open },
        Err(fault) => Outcome { body, ending: Ending::Fault(fault) },
    }
}
