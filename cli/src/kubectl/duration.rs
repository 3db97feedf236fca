//! Times as people write them: `1m30s`, `2h`, `100ms`, and how long ago something was.

use std::time::Duration;

use anyhow::bail;
use jiff::Timestamp;
pub use trierarch_api::kinds::age::since;

/// A Go duration.
///
/// # Errors
/// Go's words.
pub fn parse(text: &str) -> anyhow::Result<Duration> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest.is_empty() {
        bail!("time: invalid duration {text:?}");
    }
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|letter: char| !(letter.is_ascii_digit() || letter == '.')).unwrap_or(rest.len());
        let Ok(number) = rest[..digits].parse::<f64>() else { bail!("time: invalid duration {text:?}") };
        rest = &rest[digits..];
        if rest.is_empty() {
            bail!("time: missing unit in duration {text:?}");
        }
        let units = [("ns", 1e-9), ("us", 1e-6), ("µs", 1e-6), ("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
        let unit = &rest[..rest.find(|letter: char| letter.is_ascii_digit() || letter == '.').unwrap_or(rest.len())];
        let Some((_, factor)) = units.iter().find(|(name, _)| *name == unit) else {
            bail!("time: unknown unit {unit:?} in duration {text:?}");
        };
        seconds += number * factor;
        rest = &rest[unit.len()..];
    }
    match Duration::try_from_secs_f64(seconds) {
        Ok(duration) => Ok(duration),
        Err(_too_long) => bail!("time: invalid duration {text:?}"),
    }
}

/// A Go duration, or a bare number of seconds.
///
/// # Errors
/// As [`parse`].
pub fn parse_seconds_or_go(text: &str) -> anyhow::Result<Duration> {
    text.parse::<u64>().map_or_else(|_words| parse(text), |seconds| Ok(Duration::from_secs(seconds)))
}

/// How long ago a time was; `<unknown>` if there is none.
pub fn age(time: &serde_json::Value, now: Timestamp) -> String {
    since(time.as_str().unwrap_or_default(), now)
}

/// A time in RFC 1123 with a numeric zone, as descriptions show it.
pub fn rfc1123(time: &str) -> String {
    match time.parse::<Timestamp>() {
        Ok(time) => time.to_zoned(jiff::tz::TimeZone::system()).strftime("%a, %d %b %Y %H:%M:%S %z").to_string(),
        Err(_no_time) => "<unset>".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_go_reads_them() {
        for (text, millis) in [("0", 0), ("5s", 5000), ("1m30s", 90_000), ("1.5h", 5_400_000), ("100ms", 100)] {
            assert_eq!(parse(text).expect("a duration"), Duration::from_millis(millis), "{text}");
        }
        assert_eq!(parse("5").expect_err("no unit").to_string(), "time: missing unit in duration \"5\"");
        assert_eq!(parse("5x").expect_err("no such unit").to_string(), "time: unknown unit \"x\" in duration \"5x\"");
        assert_eq!(parse("x").expect_err("no number").to_string(), "time: invalid duration \"x\"");
        assert_eq!(parse_seconds_or_go("5").expect("seconds"), Duration::from_secs(5));
    }
}
