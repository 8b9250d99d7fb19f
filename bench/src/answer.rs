//! Reads answers off a keep-alive connection, in whatever pieces they arrive. Only what the bench's own
//! Upstream sends is understood: a status line, `Content-Length`, a body to be counted and dropped.

use std::fmt;

/// Longest head accepted; a proxy adds a few lines to ours, nothing more.
const HEAD_LIMIT: usize = 16 * 1024;
/// Most header fields accepted.
const FIELD_LIMIT: usize = 64;

/// The reader of one connection's answers, one after the other.
#[derive(Debug, Default)]
pub struct Answers {
    /// Bytes of a head that has not ended yet.
    head: Vec<u8>,
    /// What the head said, and how much of the body is still to come.
    body: Option<(Finished, u64)>,
}

/// One complete answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finished {
    /// Its status code.
    pub status: u16,
    /// Its body's length.
    pub length: u64,
    /// Whether the other side closes after it.
    pub close: bool,
}

/// Why the bytes are not an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AnswerError {
    /// The head does not parse.
    Head(httparse::Error),
    /// The head does not end.
    HeadTooLong,
    /// Neither a length nor anything else tells where the body ends.
    NoLength,
    /// `Content-Length` is not a number.
    BadLength(String),
}

impl fmt::Display for AnswerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Head(error) => write!(f, "answer head: {error}"),
            Self::HeadTooLong => write!(f, "answer head: longer than {HEAD_LIMIT} bytes"),
            Self::NoLength => f.write_str("answer without content-length"),
            Self::BadLength(text) => write!(f, "content-length {text:?}: not a number"),
        }
    }
}

impl std::error::Error for AnswerError {}

impl Answers {
    /// Whether an answer has begun and not ended.
    pub fn in_answer(&self) -> bool {
        self.body.is_some() || !self.head.is_empty()
    }

    /// Takes bytes up to the end of the current answer: how many were used, and the answer if it ended.
    /// Call again with the rest.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(usize, Option<Finished>), AnswerError> {
        let mut used = 0;
        if self.body.is_none() {
            let Some((finished, head_used)) = self.feed_head(bytes)? else { return Ok((bytes.len(), None)) };
            used = head_used;
            self.body = Some((finished, finished.length));
        }
        let Some((finished, rest)) = self.body.as_mut() else { return Ok((used, None)) };
        let take = usize::try_from(*rest).unwrap_or(usize::MAX).min(bytes.len() - used);
        *rest -= take as u64;
        used += take;
        if *rest > 0 {
            return Ok((used, None));
        }
        let finished = *finished;
        self.body = None;
        Ok((used, Some(finished)))
    }

    /// The head, once it is complete, and how many of `bytes` belong to it.
    fn feed_head(&mut self, bytes: &[u8]) -> Result<Option<(Finished, usize)>, AnswerError> {
        // The usual case is a whole head in one piece: it is parsed in place.
        if self.head.is_empty() {
            if let Some((finished, length)) = parse_head(bytes)? {
                return Ok(Some((finished, length)));
            }
            self.head.extend_from_slice(bytes);
        } else {
            let before = self.head.len();
            self.head.extend_from_slice(bytes);
            if let Some((finished, length)) = parse_head(&self.head)? {
                self.head.clear();
                return Ok(Some((finished, length - before)));
            }
        }
        if self.head.len() > HEAD_LIMIT {
            return Err(AnswerError::HeadTooLong);
        }
        Ok(None)
    }
}

fn parse_head(bytes: &[u8]) -> Result<Option<(Finished, usize)>, AnswerError> {
    let mut fields = [httparse::EMPTY_HEADER; FIELD_LIMIT];
    let mut head = httparse::Response::new(&mut fields);
    let length = match head.parse(bytes).map_err(AnswerError::Head)? {
        httparse::Status::Partial => return Ok(None),
        httparse::Status::Complete(length) => length,
    };
    let mut body = None;
    let mut close = false;
    for field in head.headers.iter() {
        if field.name.eq_ignore_ascii_case("content-length") {
            let text = String::from_utf8_lossy(field.value);
            body = Some(text.trim().parse().map_err(|_| AnswerError::BadLength(text.to_string()))?);
        } else if field.name.eq_ignore_ascii_case("connection") {
            close = field.value.eq_ignore_ascii_case(b"close");
        }
    }
    let status = head.code.unwrap_or(0);
    let length_of_body = match (body, status) {
        (Some(length), _) => length,
        (None, 204 | 304) => 0,
        (None, _) => return Err(AnswerError::NoLength),
    };
    Ok(Some((Finished { status, length: length_of_body, close }, length)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: &[u8] = b"HTTP/1.1 200 OK\r\nServer: x\r\ncontent-length: 5\r\n\r\nhello\
        HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

    fn read_all(piece: usize) -> Vec<Finished> {
        let mut answers = Answers::default();
        let mut found = Vec::new();
        for bytes in TWO.chunks(piece) {
            let mut rest = bytes;
            while !rest.is_empty() {
                let (used, finished) = answers.feed(rest).expect("well formed");
                found.extend(finished);
                rest = &rest[used..];
            }
        }
        assert!(!answers.in_answer());
        found
    }

    #[test]
    fn answers_are_the_same_in_any_pieces() {
        let expected = [
            Finished { status: 200, length: 5, close: false },
            Finished { status: 502, length: 0, close: true },
        ];
        for piece in [1, 3, 8, 50, 54, TWO.len()] {
            assert_eq!(read_all(piece), expected, "in pieces of {piece}");
        }
    }

    #[test]
    fn an_answer_without_length_is_refused() {
        let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
        assert_eq!(Answers::default().feed(chunked), Err(AnswerError::NoLength));
        let odd = b"HTTP/1.1 200 OK\r\nContent-Length: x1\r\n\r\n";
        assert_eq!(Answers::default().feed(odd), Err(AnswerError::BadLength("x1".to_owned())));
    }

    #[test]
    fn an_endless_head_is_refused() {
        let mut answers = Answers::default();
        answers.feed(b"HTTP/1.1 200 OK\r\nX: ").expect("a head may come in pieces");
        let error = (0..40).find_map(|_| answers.feed(&[b'a'; 1024]).err());
        assert_eq!(error, Some(AnswerError::HeadTooLong));
    }
}
