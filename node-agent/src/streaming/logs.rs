//! Container logs as the runtime's shim writes them: one line per write, `TIME STREAM TAG TEXT`, the tag `F` or `P` (partial).
//!
//! `Spec:` Kubernetes CRI logging format.

use jiff::{SignedDuration, Timestamp};

/// What a reader of logs wants; names as in the query.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LogOptions {
    /// Stay and send what comes.
    pub follow: bool,
    /// Only the last lines.
    pub tail_lines: Option<usize>,
    /// Only what is younger.
    pub since: Option<Timestamp>,
    /// Each line begins with its time.
    pub timestamps: bool,
    /// Stop after so many bytes.
    pub limit_bytes: Option<usize>,
    /// The run before.
    pub previous: bool,
}

impl LogOptions {
    /// Reads a query.
    ///
    /// # Errors
    /// A value that is no number or time.
    pub fn parse(query: &[(String, String)], now: Timestamp) -> Result<Self, String> {
        let mut options = Self::default();
        let flag = |v: &str| v == "true" || v == "1" || v.is_empty();
        let bad = |name: &str, value: &str| format!("invalid value {value:?} for {name}");
        for (name, value) in query {
            match name.as_str() {
                "follow" => options.follow = flag(value),
                "timestamps" => options.timestamps = flag(value),
                "previous" => options.previous = flag(value),
                "tailLines" => options.tail_lines = Some(value.parse().map_err(|_unreadable| bad(name, value))?),
                "limitBytes" => options.limit_bytes = Some(value.parse().map_err(|_unreadable| bad(name, value))?),
                "sinceSeconds" => {
                    let seconds = value.parse().map_err(|_unreadable| bad(name, value))?;
                    options.since = Some(now - SignedDuration::from_secs(seconds));
                }
                "sinceTime" => options.since = Some(value.parse().map_err(|_unreadable| bad(name, value))?),
                _ => {}
            }
        }
        Ok(options)
    }
}

/// One line of a log file.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Line<'a> {
    /// As written.
    pub time: &'a str,
    /// The text, without a line end.
    pub text: &'a [u8],
    /// The line goes on in the next entry.
    pub partial: bool,
}

/// Reads one line of a log file; `None` for one that is not in the format.
pub fn parse(line: &[u8]) -> Option<Line<'_>> {
    let mut parts = line.splitn(4, |b| *b == b' ');
    let time = std::str::from_utf8(parts.next()?).ok()?;
    parts.next()?;
    let tag = parts.next()?;
    Some(Line { time, text: parts.next().unwrap_or_default(), partial: tag.starts_with(b"P") })
}

/// What of one line of the file goes to the reader.
pub fn render(line: &[u8], options: &LogOptions, into: &mut Vec<u8>) {
    let Some(line) = parse(line) else { return };
    if let Some(since) = options.since
        && line.time.parse::<Timestamp>().is_ok_and(|time| time < since)
    {
        return;
    }
    if options.timestamps {
        into.extend_from_slice(line.time.as_bytes());
        into.push(b' ');
    }
    into.extend_from_slice(line.text);
    if !line.partial {
        into.push(b'\n');
    }
}

/// Where the last `lines` complete lines of a log begin.
pub fn tail_start(log: &[u8], lines: usize) -> usize {
    let mut found = 0;
    let mut end = log.len();
    if lines == 0 {
        return end;
    }
    while end > 0 {
        let body_end = if log[end - 1] == b'\n' { end - 1 } else { end };
        let start = log[..body_end].iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
        if parse(&log[start..body_end]).is_some_and(|l| !l.partial) {
            found += 1;
            if found > lines {
                return end;
            }
        }
        end = start;
    }
    0
}

/// The text of the last lines, at most so many bytes of them.
pub fn last_text(log: &[u8], lines: usize, bytes_max: usize) -> String {
    let mut out = Vec::new();
    for line in log[tail_start(log, lines)..].split(|b| *b == b'\n') {
        render(line, &LogOptions::default(), &mut out);
    }
    let from = out.len().saturating_sub(bytes_max);
    String::from_utf8_lossy(&out[from..]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &[u8] = b"2026-01-01T00:00:01.5Z stdout F one\n2026-01-01T00:00:02Z stderr P tw\n2026-01-01T00:00:02Z stderr F o\n2026-01-01T00:00:03Z stdout F \n";

    fn read(options: &LogOptions, from: usize) -> String {
        let mut out = Vec::new();
        LOG[from..].split(|b| *b == b'\n').for_each(|line| render(line, options, &mut out));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn lines_are_joined_and_chosen() {
        assert_eq!(read(&LogOptions::default(), 0), "one\ntwo\n\n");
        assert_eq!(read(&LogOptions::default(), tail_start(LOG, 2)), "two\n\n");
        assert_eq!(
            (read(&LogOptions::default(), tail_start(LOG, 0)), read(&LogOptions::default(), tail_start(LOG, 9))),
            (String::new(), "one\ntwo\n\n".into())
        );
        let since = LogOptions { since: Some("2026-01-01T00:00:03Z".parse().unwrap()), timestamps: true, ..LogOptions::default() };
        assert_eq!(read(&since, 0), "2026-01-01T00:00:03Z \n");
        assert_eq!(last_text(LOG, 80, 3), "o\n\n");
    }

    #[test]
    fn queries() {
        let pairs = |list: &[(&str, &str)]| list.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect::<Vec<_>>();
        let options = LogOptions::parse(
            &pairs(&[("follow", "true"), ("tailLines", "5"), ("sinceSeconds", "10")]),
            Timestamp::from_second(100).unwrap(),
        )
        .unwrap();
        assert!(options.follow && options.tail_lines == Some(5) && options.since == Some(Timestamp::from_second(90).unwrap()));
        assert!(LogOptions::parse(&pairs(&[("tailLines", "x")]), Timestamp::UNIX_EPOCH).is_err());
    }
}
