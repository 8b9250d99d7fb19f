//! What must hold for every input, one function for each parser: called by the fuzz targets with what they invent, and by
//! a test of `shared` with the seeds in `corpus`.
//!
//! Everything that arrives comes in pieces, and who sends it chooses where they are cut. So each function also asks what
//! is made of the beginnings of its input.

use std::fmt::Debug;

pub mod body;
pub mod control;
pub mod exchange;
pub mod frame;
pub mod request_head;
pub mod response_head;

/// A target's name and what it asks.
pub type Target = (&'static str, fn(&[u8]));

/// All targets, by the names of their folders in `corpus`.
pub const TARGETS: [Target; 6] = [
    ("request_head", request_head::check),
    ("response_head", response_head::check),
    ("body", body::check),
    ("frame", frame::check),
    ("control", control::check),
    ("exchange", exchange::check),
];

/// Lengths of beginnings of `len` bytes to look at: all, if they are few, else some everywhere and all near the end.
fn beginnings(len: usize) -> impl Iterator<Item = usize> {
    let step = len / 64 + 1;
    (0..len).filter(move |at| at % step == 0 || len - at <= 8)
}

/// What a parser that is fed with growing beginnings of `data` says first: a verdict, how much it took, or that it needs
/// more. That must also be what it says of everything at once, and what follows a complete message must not matter.
fn grows<'b, T: PartialEq + Debug, F: PartialEq + Debug>(
    data: &'b [u8],
    same_fault: bool,
    parse: impl Fn(&'b [u8]) -> Result<Option<(T, usize)>, F>,
) -> Result<Option<(T, usize)>, F> {
    let whole = parse(data);
    for len in beginnings(data.len()) {
        match (parse(&data[..len]), &whole) {
            (Ok(None), Ok(Some((_, used)))) => assert!(len < *used, "complete at {used}, but not at {len}"),
            (Ok(None), _) => {}
            (Err(fault), Err(last)) => {
                assert!(!same_fault || fault == *last, "{fault:?} at {len}, then {last:?}")
            }
            (early, _) => assert_eq!(early, whole, "the first {len} bytes of {}", data.escape_ascii()),
        }
    }
    if let Ok(Some((_, used))) = &whole {
        assert!((1..=data.len()).contains(used), "{used} of {} bytes", data.len());
        assert_eq!(parse(&data[..*used]), whole, "the message alone");
    }
    whole
}
