//! `--name value` and `--flag` arguments of the subcommands: strict, because a mistyped option that is
//! silently ignored yields a measurement of something else.

use std::collections::HashMap;
use std::str::FromStr;

use crate::fault::Fault;

/// The options of one subcommand, taken out one by one; what is left at the end was not known.
#[derive(Debug)]
pub struct Args {
    values: HashMap<String, Vec<String>>,
}

impl Args {
    /// Splits `--name value` pairs; names in `flags` take no value.
    pub fn parse(words: impl IntoIterator<Item = String>, flags: &[&str]) -> Result<Self, Fault> {
        let mut values: HashMap<String, Vec<String>> = HashMap::new();
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            let Some(name) = word.strip_prefix("--") else {
                return Err(Fault::Usage(format!("unexpected argument {word:?}")));
            };
            let value = if flags.contains(&name) {
                String::new()
            } else {
                words.next().ok_or_else(|| Fault::Usage(format!("option --{name} needs a value")))?
            };
            values.entry(name.to_owned()).or_default().push(value);
        }
        Ok(Self { values })
    }

    /// Whether the flag was given.
    pub fn flag(&mut self, name: &str) -> bool {
        self.values.remove(name).is_some()
    }

    /// Every value of an option that may be repeated.
    pub fn all(&mut self, name: &str) -> Vec<String> {
        self.values.remove(name).unwrap_or_default()
    }

    /// The one value of an option, if given.
    pub fn optional<T: FromStr>(&mut self, name: &str) -> Result<Option<T>, Fault> {
        let mut given = self.all(name);
        let Some(text) = given.pop() else { return Ok(None) };
        if !given.is_empty() {
            return Err(Fault::Usage(format!("option --{name} is given twice")));
        }
        let value = text.parse().map_err(|_| Fault::Usage(format!("option --{name}: bad value {text:?}")))?;
        Ok(Some(value))
    }

    /// The one value of an option, or `default`.
    pub fn or<T: FromStr>(&mut self, name: &str, default: T) -> Result<T, Fault> {
        Ok(self.optional(name)?.unwrap_or(default))
    }

    /// The one value of an option that must be given.
    pub fn required<T: FromStr>(&mut self, name: &str) -> Result<T, Fault> {
        self.optional(name)?.ok_or_else(|| Fault::Usage(format!("option --{name} is missing")))
    }

    /// Refuses what nobody took.
    pub fn finish(self) -> Result<(), Fault> {
        match self.values.keys().min() {
            None => Ok(()),
            Some(name) => Err(Fault::Usage(format!("unknown option --{name}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Args, Fault> {
        Args::parse(line.split_whitespace().map(str::to_owned), &["quick"])
    }

    #[test]
    fn options_flags_and_defaults_are_read() {
        let mut args = parse("--quick --seconds 3 --only a --only b").expect("well formed");
        assert!(args.flag("quick"));
        assert_eq!(args.or("seconds", 1u64).expect("a number"), 3);
        assert_eq!(args.or("rounds", 7u64).expect("the default"), 7);
        assert_eq!(args.all("only"), ["a", "b"]);
        args.finish().expect("nothing is left");
    }

    #[test]
    fn mistakes_are_refused() {
        assert!(parse("seconds").is_err());
        assert!(parse("--seconds").is_err());
        assert!(parse("--seconds x").expect("split").required::<u64>("seconds").is_err());
        assert!(parse("--n 1 --n 2").expect("split").required::<u64>("n").is_err());
        assert!(parse("").expect("split").required::<u64>("n").is_err());
        assert!(parse("--secnods 1").expect("split").finish().is_err());
    }
}
