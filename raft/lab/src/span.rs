//! Lengths of time as people write them: `2s`, `350ms`, `1.5s`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A length of time in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Span {
    /// How many.
    pub ms: u64,
}

/// A text that is no length of time.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no length of time: write 350ms, 2s or 1.5s")]
pub struct SpanError(String);

impl FromStr for Span {
    type Err = SpanError;

    fn from_str(text: &str) -> Result<Self, SpanError> {
        let wrong = || SpanError(text.to_owned());
        if let Some(number) = text.strip_suffix("ms") {
            return Ok(Self { ms: number.parse().map_err(|_not_a_number| wrong())? });
        }
        let number = text.strip_suffix('s').ok_or_else(wrong)?;
        let (whole, part) = number.split_once('.').unwrap_or((number, "0"));
        if part.is_empty() || part.len() > 3 {
            return Err(wrong());
        }
        let whole: u64 = whole.parse().map_err(|_not_a_number| wrong())?;
        let part: u64 = format!("{part:0<3}").parse().map_err(|_not_a_number| wrong())?;
        whole.checked_mul(1000).and_then(|ms| ms.checked_add(part)).map(|ms| Self { ms }).ok_or_else(wrong)
    }
}

impl TryFrom<String> for Span {
    type Error = SpanError;

    fn try_from(text: String) -> Result<Self, SpanError> {
        text.parse()
    }
}

impl From<Span> for String {
    fn from(span: Span) -> Self {
        span.to_string()
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.ms / 1000, self.ms % 1000) {
            (seconds, 0) if seconds > 0 => write!(f, "{seconds}s"),
            _ => write!(f, "{}ms", self.ms),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_and_shown() {
        for (text, ms, shown) in [("2s", 2000, "2s"), ("350ms", 350, "350ms"), ("1.5s", 1500, "1500ms"), ("0ms", 0, "0ms")] {
            let span: Span = text.parse().unwrap();
            assert_eq!((span.ms, span.to_string().as_str()), (ms, shown));
        }
        for wrong in ["", "2", "s", "ms", "-1s", "1.s", "1.2345s", "2 s", "99999999999999999999s"] {
            assert_eq!(wrong.parse::<Span>(), Err(SpanError(wrong.to_owned())), "{wrong}");
        }
    }
}
