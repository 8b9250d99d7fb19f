//! What the doctor found, a line per check as it is found, or all of it as JSON in the end.

use serde_json::{Value, json};
use shared::settings::console::{Colour, Console, Failure};

/// How a check ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    /// Well.
    Ok,
    /// Works, and is worth a look.
    Warn,
    /// Does not work.
    Fail,
    /// Could not be looked at.
    Skip,
}

struct Check {
    hop: &'static str,
    /// Of several alike, which: a Gateway's address, a public name.
    subject: String,
    state: State,
    text: String,
    hint: Option<String>,
}

/// All checks so far.
pub(super) struct Report<'r, 'c> {
    checks: Vec<Check>,
    json: bool,
    console: &'r mut Console<'c>,
}

impl<'r, 'c> Report<'r, 'c> {
    pub(super) fn new(json: bool, console: &'r mut Console<'c>) -> Report<'r, 'c> {
        Report { checks: Vec::new(), json, console }
    }

    pub(super) fn ok(&mut self, hop: &'static str, subject: &str, text: &str) -> Result<(), Failure> {
        self.add(hop, subject, State::Ok, text, None)
    }

    pub(super) fn warn(
        &mut self,
        hop: &'static str,
        subject: &str,
        text: &str,
        hint: Option<String>,
    ) -> Result<(), Failure> {
        self.add(hop, subject, State::Warn, text, hint)
    }

    pub(super) fn fail(
        &mut self,
        hop: &'static str,
        subject: &str,
        text: &str,
        hint: Option<String>,
    ) -> Result<(), Failure> {
        self.add(hop, subject, State::Fail, text, hint)
    }

    pub(super) fn skip(&mut self, hop: &'static str, subject: &str, text: &str) -> Result<(), Failure> {
        self.add(hop, subject, State::Skip, text, None)
    }

    fn add(
        &mut self,
        hop: &'static str,
        subject: &str,
        state: State,
        text: &str,
        hint: Option<String>,
    ) -> Result<(), Failure> {
        // What others say is shown: as one line, without what a terminal would obey.
        let clean =
            |text: &str| -> String { text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect() };
        let check = Check {
            hop,
            subject: clean(subject),
            state,
            text: clean(text),
            hint: hint.as_deref().map(clean),
        };
        if !self.json {
            let (word, colour) = match state {
                State::Ok => ("ok  ", Colour::Green),
                State::Warn => ("warn", Colour::Yellow),
                State::Fail => ("FAIL", Colour::Red),
                State::Skip => ("skip", Colour::Dim),
            };
            let word = self.console.paint(colour, word);
            let subject =
                if check.subject.is_empty() { String::new() } else { format!("{}: ", check.subject) };
            self.console.say(format_args!("{word}  {hop:<9}  {subject}{}", check.text))?;
            if let Some(hint) = &check.hint {
                self.console.say(format_args!("                 -> {hint}"))?;
            }
        }
        self.checks.push(check);
        Ok(())
    }

    /// Sums up, and says whether anything failed.
    pub(super) fn finish(self) -> Result<bool, Failure> {
        let of = |state| self.checks.iter().filter(|check| check.state == state).count();
        let (failed, warned) = (of(State::Fail), of(State::Warn));
        let first = self.checks.iter().find(|check| check.state == State::Fail);
        if self.json {
            let checks: Vec<Value> = self.checks.iter().map(shown).collect();
            let value =
                json!({ "ok": failed == 0, "failedHop": first.map(|check| check.hop), "checks": checks });
            self.console.say(format_args!("{value:#}"))?;
            return Ok(failed > 0);
        }
        let text = match first {
            Some(check) => {
                format!("{failed} of {} checks failed, the first at hop {}", self.checks.len(), check.hop)
            }
            None if warned > 0 => format!("the way is clear; {warned} things are worth a look"),
            None => "the way is clear".into(),
        };
        self.console.say(format_args!("\n{text}"))?;
        Ok(failed > 0)
    }
}

fn shown(check: &Check) -> Value {
    json!({
        "hop": check.hop,
        "subject": Some(&check.subject).filter(|subject| !subject.is_empty()),
        "state": match check.state {
            State::Ok => "ok",
            State::Warn => "warn",
            State::Fail => "fail",
            State::Skip => "skip",
        },
        "text": check.text,
        "hint": check.hint,
    })
}
