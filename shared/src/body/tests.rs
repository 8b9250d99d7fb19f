//! Framing taken off and put on.

use proptest::prelude::*;

use super::*;
use crate::head::Framing;

/// Body, trailers, and how many bytes were left over.
type Decoded = (Vec<u8>, Option<Vec<u8>>, usize);
type Rest = (Option<Vec<u8>>, usize);

/// Feeds the pieces one after the other and collects the body in `body`; `None` if it is not complete.
fn feed(framing: Framing, pieces: &[&[u8]], body: &mut Vec<u8>) -> Result<Option<Rest>, BodyFault> {
    let mut decoder = Decoder::new(framing);
    for (index, piece) in pieces.iter().enumerate() {
        let mut rest = *piece;
        loop {
            match decoder.decode(rest)? {
                Step::Data { used, data } => {
                    assert!(!data.is_empty() && used >= data.len());
                    body.extend_from_slice(data);
                    rest = &rest[used..];
                }
                Step::More { used } => {
                    assert_eq!(used, rest.len());
                    break;
                }
                Step::End { used, trailers } => {
                    assert!(decoder.is_done());
                    assert_eq!(decoder.decode(b"next"), Ok(Step::End { used: 0, trailers: None }));
                    let later: usize = pieces[index + 1..].iter().map(|piece| piece.len()).sum();
                    return Ok(Some((trailers, rest.len() - used + later)));
                }
            }
        }
    }
    Ok(None)
}

fn decode(framing: Framing, pieces: &[&[u8]]) -> Result<Option<Decoded>, BodyFault> {
    let mut body = Vec::new();
    let end = feed(framing, pieces, &mut body)?;
    Ok(end.map(|(trailers, left)| (body, trailers, left)))
}

fn check(framing: Framing, input: &[u8], expected: Result<Option<Decoded>, BodyFault>) {
    let text = String::from_utf8_lossy(input);
    assert_eq!(decode(framing, &[input]), expected, "{text:?}");
    let bytes: Vec<&[u8]> = input.chunks(1).collect();
    assert_eq!(decode(framing, &bytes), expected, "{text:?}, byte by byte");
}

fn complete(body: &str, trailers: Option<&str>, left: usize) -> Result<Option<Decoded>, BodyFault> {
    Ok(Some((body.into(), trailers.map(Into::into), left)))
}

#[test]
fn a_body_of_no_length_is_complete_at_once() {
    for framing in [Framing::None, Framing::Length(0)] {
        let mut decoder = Decoder::new(framing);
        assert!(decoder.is_done());
        assert_eq!(decoder.decode(b""), Ok(Step::End { used: 0, trailers: None }));
        assert_eq!(decoder.decode(b"GET"), Ok(Step::End { used: 0, trailers: None }));
        assert_eq!(decoder.at_eof(), Ok(()));
    }
}

#[test]
fn a_declared_length_is_read_and_no_byte_more() {
    let mut decoder = Decoder::new(Framing::Length(5));
    assert_eq!(decoder.decode(b""), Ok(Step::More { used: 0 }));
    assert_eq!(decoder.decode(b"hello, world"), Ok(Step::Data { used: 5, data: b"hello" }));
    assert!(decoder.is_done());
    assert_eq!(decoder.decode(b", world"), Ok(Step::End { used: 0, trailers: None }));
    check(Framing::Length(5), b"hell", Ok(None));
    check(Framing::Length(u64::MAX), b"hell", Ok(None));
}

#[test]
fn a_body_until_close_ends_with_the_connection() {
    let mut decoder = Decoder::new(Framing::UntilClose);
    assert_eq!(decoder.decode(b"abc"), Ok(Step::Data { used: 3, data: b"abc" }));
    assert!(!decoder.is_done());
    assert_eq!(decoder.at_eof(), Ok(()));
    assert!(decoder.is_done());
    assert_eq!(decoder.decode(b""), Ok(Step::End { used: 0, trailers: None }));
}

#[test]
fn the_end_of_the_connection_is_too_early_for_the_others() {
    for framing in [Framing::Length(5), Framing::Chunked] {
        let mut decoder = Decoder::new(framing);
        assert_eq!(decoder.at_eof(), Err(BodyFault::Truncated));
        assert_eq!(decoder.decode(b"0\r\n\r\n"), Err(BodyFault::Truncated), "and it stays so");
        assert!(!decoder.is_done());
    }
}

#[test]
fn chunks_are_joined() {
    check(Framing::Chunked, b"0\r\n\r\n", complete("", None, 0));
    check(Framing::Chunked, b"5\r\nhello\r\n0\r\n\r\nGET", complete("hello", None, 3));
    check(
        Framing::Chunked,
        b"5\r\nhello\r\nA\r\n0123456789\r\n00\r\n\r\n",
        complete("hello0123456789", None, 0),
    );
    check(
        Framing::Chunked,
        b"000000000000000a\r\n\r\n\r\n\r\n\r\n\r\n\r\n0\r\n\r\n",
        complete("\r\n\r\n\r\n\r\n\r\n", None, 0),
    );
    check(Framing::Chunked, b"5\r\nhello\r\n0\r\n", Ok(None));
}

#[test]
fn chunk_extensions_are_dropped() {
    check(Framing::Chunked, b"2;a\r\nhi\r\n0;b=\"c d\"\r\n\r\n", complete("hi", None, 0));
    check(Framing::Chunked, b"2 \t;a=b;c\r\nhi\r\n0\r\n\r\n", complete("hi", None, 0));
    let most = format!("2;{}\r\nhi\r\n0\r\n\r\n", "x".repeat(MAX_CHUNK_LINE - 2));
    check(Framing::Chunked, most.as_bytes(), complete("hi", None, 0));
    let endless = format!("2;{}", "x".repeat(MAX_CHUNK_LINE));
    check(Framing::Chunked, endless.as_bytes(), Err(BodyFault::ChunkSizeTooLong));
    let padded = format!("2{}", " ".repeat(MAX_CHUNK_LINE));
    check(Framing::Chunked, padded.as_bytes(), Err(BodyFault::ChunkSizeTooLong));
}

#[test]
fn trailers_are_kept_but_for_those_that_come_too_late() {
    let input = b"0\r\nX-Sum: 1\r\nContent-Length: 5\r\nset-cookie: a=b\r\nX-Forwarded-For: 1.1.1.1\r\nx-two:  \t2 \r\nE:\r\n\r\n";
    check(Framing::Chunked, input, complete("", Some("X-Sum: 1\r\nx-two: 2\r\nE: \r\n"), 0));
    check(Framing::Chunked, b"0\r\nHost: a\r\n\r\n", complete("", None, 0));
    check(
        Framing::Chunked,
        b"0\r\nGrpc-Message: \xc3\xbc\r\n\r\n",
        complete("", Some("Grpc-Message: \u{fc}\r\n"), 0),
    );
}

#[test]
fn trailers_have_bounds() {
    let lines = |count: usize| format!("0\r\n{}\r\n", "A: b\r\n".repeat(count));
    assert!(
        decode(Framing::Chunked, &[lines(MAX_TRAILER_LINES).as_bytes()]).is_ok_and(|found| found.is_some())
    );
    check(Framing::Chunked, lines(MAX_TRAILER_LINES + 1).as_bytes(), Err(BodyFault::TrailersTooLarge));
    let long = format!("0\r\nA: {}", "b".repeat(MAX_TRAILERS));
    check(Framing::Chunked, long.as_bytes(), Err(BodyFault::TrailersTooLarge));
}

#[test]
fn bad_chunks_are_refused() {
    let cases: [(&[u8], BodyFault); 34] = [
        (b"\r\n", BodyFault::ChunkSize),
        (b"\n", BodyFault::ChunkSize),
        (b" 5\r\nhello", BodyFault::ChunkSize),
        (b";a\r\n", BodyFault::ChunkSize),
        (b"+5\r\nhello", BodyFault::ChunkSize),
        (b"-1\r\n", BodyFault::ChunkSize),
        (b"0x5\r\nhello", BodyFault::ChunkSize),
        (b"g\r\n", BodyFault::ChunkSize),
        (b"5 \r\nhello", BodyFault::ChunkSize),
        (b"5 5\r\nhello", BodyFault::ChunkSize),
        (b"5,5\r\nhello", BodyFault::ChunkSize),
        (b"5_0\r\nhello", BodyFault::ChunkSize),
        (b"5\nhello\n0\n\n", BodyFault::ChunkSize),
        (b"5\rhello", BodyFault::ChunkSize),
        (b"5\r\rhello", BodyFault::ChunkSize),
        (b"5;a\nhello", BodyFault::ChunkSize),
        (b"5;a\0\r\nhello", BodyFault::ChunkSize),
        (b"5;a\rb\r\nhello", BodyFault::ChunkSize),
        (b"\xc2\xb2\r\nhi", BodyFault::ChunkSize),
        (b"00000000000000005\r\nhello", BodyFault::ChunkSizeTooLong),
        (b"fffffffffffffffff\r\n", BodyFault::ChunkSizeTooLong),
        (b"5\r\nhelloo\r\n", BodyFault::ChunkEnd),
        (b"5\r\nhello\n0\r\n\r\n", BodyFault::ChunkEnd),
        (b"5\r\nhello0\r\n\r\n", BodyFault::ChunkEnd),
        (b"5\r\nhello\r0\r\n\r\n", BodyFault::ChunkEnd),
        (b"0\r\n\n", BodyFault::Trailer),
        (b"0\r\n\rX", BodyFault::Trailer),
        (b"0\r\n: a\r\n\r\n", BodyFault::Trailer),
        (b"0\r\nGET / HTTP/1.1\r\n\r\n", BodyFault::Trailer),
        (b"0\r\nA : b\r\n\r\n", BodyFault::Trailer),
        (b"0\r\nA: b\r\n c\r\n\r\n", BodyFault::Trailer),
        (b"0\r\nA: b\nC: d\r\n\r\n", BodyFault::Trailer),
        (b"0\r\nA: b\0\r\n\r\n", BodyFault::Trailer),
        (b"0\r\nA: b\rc\r\n\r\n", BodyFault::Trailer),
    ];
    for (input, fault) in cases {
        check(Framing::Chunked, input, Err(fault));
    }
}

#[test]
fn a_fault_stays() {
    let mut decoder = Decoder::new(Framing::Chunked);
    assert_eq!(decoder.decode(b"x"), Err(BodyFault::ChunkSize));
    assert_eq!(decoder.decode(b"0\r\n\r\n"), Err(BodyFault::ChunkSize));
    assert_eq!(decoder.at_eof(), Err(BodyFault::ChunkSize));
}

#[test]
fn the_encoder_holds_to_the_declared_length() {
    let mut out = Vec::new();
    let mut encoder = Encoder::new(Framing::Length(5));
    assert_eq!(encoder.account(3), Ok(()));
    assert_eq!(encoder.finish(None, &mut out), Err(BodyFault::TooLittle(2)));
    assert_eq!(encoder.account(3), Err(BodyFault::TooMuch));
    assert_eq!(encoder.account(2), Ok(()));
    assert_eq!(encoder.finish(Some(b"A: b\r\n"), &mut out), Ok(()));
    assert!(out.is_empty(), "there is no place for trailers");
    assert_eq!(encoder.account(1), Err(BodyFault::TooMuch));
    assert_eq!(Encoder::new(Framing::None).account(1), Err(BodyFault::TooMuch));
    assert_eq!(Encoder::new(Framing::None).finish(None, &mut out), Ok(()));
    assert!(encoder.prefix(3).as_ref().is_empty() && encoder.suffix().is_empty());
}

#[test]
fn the_encoder_writes_chunks_and_trailers() {
    let mut encoder = Encoder::new(Framing::Chunked);
    assert_eq!(encoder.prefix(1).as_ref(), b"1\r\n");
    assert_eq!(encoder.prefix(0x1_0af0).as_ref(), b"10af0\r\n");
    assert_eq!(encoder.prefix(usize::MAX).as_ref(), format!("{:x}\r\n", usize::MAX).as_bytes());
    assert!(encoder.prefix(0).as_ref().is_empty());
    assert_eq!(encoder.suffix(), b"\r\n");
    let mut out = Vec::new();
    assert_eq!(encoder.finish(Some(b"A: b\r\nHost: c\r\n"), &mut out), Ok(()));
    assert_eq!(encoder.finish(None, &mut out), Ok(()));
    assert_eq!(out, b"0\r\nA: b\r\n\r\n");
    assert_eq!(encoder.account(1), Err(BodyFault::TooMuch), "nothing follows the last chunk");
}

#[test]
fn trailers_that_would_end_the_body_are_refused() {
    for section in
        [&b"\r\n"[..], b"A: b", b"A: b\n", b"A: b\r\n\r\nGET / HTTP/1.1\r\n", b"A: b\rc\r\n", b"A: b\0\r\n"]
    {
        let mut out = Vec::new();
        let result = Encoder::new(Framing::Chunked).finish(Some(section), &mut out);
        assert_eq!(result, Err(BodyFault::Trailer), "{:?}", String::from_utf8_lossy(section));
        assert!(out.is_empty());
    }
}

fn encode(pieces: &[Vec<u8>], trailers: Option<&[u8]>) -> Vec<u8> {
    let mut encoder = Encoder::new(Framing::Chunked);
    let mut out = Vec::new();
    for piece in pieces {
        encoder.account(piece.len() as u64).expect("chunked has no length");
        out.extend_from_slice(encoder.prefix(piece.len()).as_ref());
        out.extend_from_slice(piece);
        out.extend_from_slice(encoder.suffix());
    }
    encoder.finish(trailers, &mut out).expect("trailers are fine");
    out
}

/// Cuts `input` at these places.
fn split<'i>(input: &'i [u8], cuts: &[prop::sample::Index]) -> Vec<&'i [u8]> {
    let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(input.len() + 1)).collect();
    places.extend([0, input.len()]);
    places.sort_unstable();
    places.windows(2).map(|pair| &input[pair[0]..pair[1]]).collect()
}

/// Bytes that are nearly a chunked body.
fn nearly_chunked() -> impl Strategy<Value = Vec<u8>> {
    let part = prop::sample::select(vec![
        "0",
        "1",
        "2",
        "a",
        "\r\n",
        "\r\n",
        "\r\n",
        "\r",
        "\n",
        ";x",
        " ",
        "A: b",
        ":",
        "x",
        "\0",
        "0\r\n\r\n",
        "1\r\nx\r\n",
        "2;y=z\r\nxy\r\n",
    ]);
    prop::collection::vec(part, 0..12).prop_map(|parts| parts.concat().into_bytes())
}

fn any_framing() -> impl Strategy<Value = Framing> {
    prop_oneof![
        Just(Framing::None),
        (0..20u64).prop_map(Framing::Length),
        Just(Framing::Chunked),
        Just(Framing::Chunked),
        Just(Framing::UntilClose),
    ]
}

proptest! {
    #[test]
    fn encoding_and_decoding_gives_the_body_back(
        pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..8),
        trailer in prop::option::of("[a-z]{1,8}: [!-~]{1,8}\r\n"),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..10),
    ) {
        let trailers = trailer.map(|line| format!("x-{line}").into_bytes());
        let wire = encode(&pieces, trailers.as_deref());
        let decoded = decode(Framing::Chunked, &split(&wire, &cuts));
        prop_assert_eq!(decoded, Ok(Some((pieces.concat(), trailers, 0))));
    }

    #[test]
    fn every_split_gives_the_same(
        framing in any_framing(),
        input in prop_oneof![nearly_chunked(), prop::collection::vec(any::<u8>(), 0..60)],
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..10),
    ) {
        // What was handed out before a fault or the end of the input counts too.
        let trace = |pieces: &[&[u8]]| {
            let mut body = Vec::new();
            let end = feed(framing, pieces, &mut body);
            (body, end)
        };
        let whole = trace(&[&input]);
        prop_assert_eq!(&trace(&split(&input, &cuts)), &whole);
        let mut bytes: Vec<&[u8]> = input.chunks(1).collect();
        bytes.push(b"");
        prop_assert_eq!(&trace(&bytes), &whole);
    }
}
