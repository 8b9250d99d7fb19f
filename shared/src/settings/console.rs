//! Where a sub-command reads and writes: standard input, output and error, and what kind of thing they are.
//!
//! Handed in, so that a test can look. A failure to write is told apart from a failure of what was asked for, because
//! whoever reads may just have left (`octoporty-agent --help | head`).

use std::fmt::Display;
use std::io::{self, IsTerminal, Read, Write};

use super::command::{EXIT_FAILED, EXIT_WRONG, UsageFault};
use crate::os;

/// Longest line that is read.
const MAX_LINE: usize = 64 * 1024;

/// Standard input, output and error.
pub struct Console<'a> {
    /// Standard input.
    pub input: &'a mut dyn Read,
    /// Standard output: what was asked for.
    pub output: &'a mut dyn Write,
    /// Standard error: what went wrong, and questions.
    pub error: &'a mut dyn Write,
    /// What they are.
    pub terminal: Terminal,
}

/// Which of the three a person sits at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Terminal {
    /// Somebody can answer questions.
    pub input: bool,
    /// Somebody reads along.
    pub output: bool,
    /// Colours are welcome on standard output.
    pub colour: bool,
}

impl Terminal {
    /// That of this process. `NO_COLOR` and `TERM=dumb` are heeded.
    pub fn of_process() -> Terminal {
        let output = io::stdout().is_terminal();
        let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
            || std::env::var_os("TERM").is_some_and(|value| value == "dumb");
        Terminal { input: io::stdin().is_terminal(), output, colour: output && !unwanted }
    }
}

/// Why a sub-command ends early.
#[derive(Debug)]
pub enum Failure {
    /// The console itself: there is nobody left to tell.
    Console(io::Error),
    /// Something to be said on standard error, and the exit status.
    Said(u8, String),
    /// Everything is said already; the exit status.
    Silent(u8),
}

impl Failure {
    /// It failed and may be tried again.
    pub fn failed(text: impl Display) -> Failure {
        Failure::Said(EXIT_FAILED, text.to_string())
    }

    /// It was called wrongly.
    pub fn wrong(text: impl Display) -> Failure {
        Failure::Said(EXIT_WRONG, text.to_string())
    }
}

impl From<UsageFault> for Failure {
    fn from(fault: UsageFault) -> Failure {
        Failure::wrong(fault)
    }
}

/// The colours there are; each means something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colour {
    /// Well.
    Green,
    /// Look at it.
    Yellow,
    /// Broken.
    Red,
    /// Less important.
    Dim,
}

impl Console<'_> {
    /// A line on standard output.
    pub fn say(&mut self, text: impl Display) -> Result<(), Failure> {
        writeln!(self.output, "{text}").map_err(Failure::Console)
    }

    /// A line on standard error.
    pub fn note(&mut self, text: impl Display) -> Result<(), Failure> {
        writeln!(self.error, "{text}").map_err(Failure::Console)
    }

    /// Bytes on standard output as they are.
    pub fn put(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.output.write_all(bytes).and_then(|()| self.output.flush()).map_err(Failure::Console)
    }

    /// The text in colour, where colours are welcome.
    pub fn paint(&self, colour: Colour, text: &str) -> String {
        if !self.terminal.colour {
            return text.to_owned();
        }
        let code = match colour {
            Colour::Green => 32,
            Colour::Yellow => 33,
            Colour::Red => 31,
            Colour::Dim => 2,
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }

    /// Asks for a line; an empty one stands for `default`.
    pub fn ask(&mut self, question: &str, default: &str) -> Result<String, Failure> {
        let suffix = if default.is_empty() { String::new() } else { format!(" [{default}]") };
        self.prompt(&format!("{question}{suffix}: "))?;
        let line = self.line(false)?;
        let text = String::from_utf8(line).map_err(|_| Failure::failed("the answer is not UTF-8"))?;
        let text = text.trim();
        Ok(if text.is_empty() { default.to_owned() } else { text.to_owned() })
    }

    /// Asks for a secret: on a terminal it is not shown while it is typed. Bytes, because a password is whatever the
    /// keyboard sends.
    pub fn ask_hidden(&mut self, question: &str) -> Result<Vec<u8>, Failure> {
        if !self.terminal.input {
            return self.line(true);
        }
        // Before the question, so that nothing typed after it is shown or lost.
        let hidden = os::hide_input().map_err(|e| {
            Failure::failed(format!("the terminal cannot be kept from showing what is typed: {e}"))
        })?;
        self.prompt(&format!("{question}: "))?;
        let line = self.keys();
        drop(hidden);
        self.prompt("\n")?;
        line
    }

    fn prompt(&mut self, text: &str) -> Result<(), Failure> {
        write!(self.error, "{text}").and_then(|()| self.error.flush()).map_err(Failure::Console)
    }

    /// Up to the end of the line. Whether the end of input before any byte is an answer is said by `empty`.
    fn line(&mut self, empty: bool) -> Result<Vec<u8>, Failure> {
        let mut line = Vec::new();
        let mut ended = true;
        while let Some(byte) = self.byte()? {
            if byte == b'\n' {
                ended = false;
                break;
            }
            line.push(byte);
            if line.len() > MAX_LINE {
                return Err(Failure::failed("the line is too long"));
            }
        }
        if ended && line.is_empty() && !empty {
            return Err(Failure::failed("no answer: standard input has ended"));
        }
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        Ok(line)
    }

    /// A line typed key by key: the terminal edits nothing while it shows nothing.
    fn keys(&mut self) -> Result<Vec<u8>, Failure> {
        let mut line: Vec<u8> = Vec::new();
        loop {
            match self.byte()? {
                None | Some(b'\n' | b'\r') => return Ok(line),
                // Ctrl-D ends the line, or the whole thing when there is none.
                Some(4) if !line.is_empty() => return Ok(line),
                Some(3 | 4) => return Err(Failure::failed("interrupted")),
                // Backspace takes a whole character away, however many bytes it has.
                Some(8 | 127) => while line.pop().is_some_and(|byte| byte & 0xc0 == 0x80) {},
                // Ctrl-U.
                Some(21) => line.clear(),
                Some(byte) => line.push(byte),
            }
            if line.len() > MAX_LINE {
                return Err(Failure::failed("the line is too long"));
            }
        }
    }

    fn byte(&mut self) -> Result<Option<u8>, Failure> {
        let mut byte = [0];
        loop {
            match self.input.read(&mut byte) {
                Ok(0) => return Ok(None),
                Ok(_) => return Ok(Some(byte[0])),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Failure::failed(format!("standard input: {e}"))),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with<T>(input: &[u8], run: impl FnOnce(&mut Console<'_>) -> T) -> (T, String) {
        let (mut output, mut error) = (Vec::new(), Vec::new());
        let mut input = input;
        let terminal = Terminal::default();
        let result =
            run(&mut Console { input: &mut input, output: &mut output, error: &mut error, terminal });
        (result, String::from_utf8(error).expect("UTF-8"))
    }

    #[test]
    fn a_question_has_a_default_and_an_end() {
        let (answer, asked) = with(b"\n", |console| console.ask("port", "17201"));
        assert_eq!((answer.expect("an answer"), asked.as_str()), ("17201".into(), "port [17201]: "));
        let (answer, asked) = with(b"  x y \r\nz", |console| console.ask("name", ""));
        assert_eq!((answer.expect("an answer"), asked.as_str()), ("x y".into(), "name: "));
        assert!(with(b"", |console| console.ask("name", "d")).0.is_err(), "the end of input is no answer");
    }

    #[test]
    fn keys_are_edited_without_a_terminals_help() {
        for (typed, line) in [
            (&b"abc\n"[..], &b"abc"[..]),
            (b"abc\r", b"abc"),
            (b"abx\x7fc\n", b"abc"),
            ("a\u{fc}\x08b\n".as_bytes(), b"ab"),
            (b"\x7f\x7fa\n", b"a"),
            (b"wrong\x15right\x04", b"right"),
            (b"end", b"end"),
        ] {
            let (read, _) = with(typed, |console| console.keys());
            assert_eq!(read.expect("a line"), line, "{typed:?}");
        }
        for typed in [&b"abc\x03"[..], b"\x04"] {
            assert!(with(typed, |console| console.keys()).0.is_err(), "{typed:?}");
        }
    }

    #[test]
    fn colours_are_only_where_they_are_welcome() {
        let (painted, _) = with(b"", |console| {
            let plain = console.paint(Colour::Red, "FAIL");
            console.terminal.colour = true;
            (plain, console.paint(Colour::Red, "FAIL"))
        });
        assert_eq!(painted, ("FAIL".into(), "\x1b[31mFAIL\x1b[0m".into()));
    }
}
