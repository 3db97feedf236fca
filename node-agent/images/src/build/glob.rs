//! Shell patterns as Go's `filepath.Match` knows them, and `**` for any number of directories.

/// Whether one component fits: `*`, `?`, `[a-z]`, `[^a-z]`, `\x`.
pub(crate) fn matches_component(pattern: &[u8], text: &[u8]) -> bool {
    match pattern.split_first() {
        None => text.is_empty(),
        Some((b'*', rest)) => (0..=text.len()).any(|skip| matches_component(rest, &text[skip..])),
        Some((b'?', rest)) => text.split_first().is_some_and(|(_, tail)| matches_component(rest, tail)),
        Some((b'[', rest)) => match (class(rest), text.split_first()) {
            (Some((class, after)), Some((byte, tail))) => class.contains(*byte) && matches_component(after, tail),
            _ => false,
        },
        Some((b'\\', rest)) if !rest.is_empty() => text.first() == rest.first() && matches_component(&rest[1..], &text[1..]),
        Some((literal, rest)) => text.first() == Some(literal) && matches_component(rest, &text[1..]),
    }
}

/// Whether a relative path fits, component by component; `**` stands for any number of components.
pub(crate) fn matches_path(pattern: &str, path: &str) -> bool {
    let pattern: Vec<&str> = pattern.split('/').collect();
    let path: Vec<&str> = path.split('/').collect();
    matches_components(&pattern, &path)
}

/// Whether the text holds any pattern character.
pub(crate) fn is_pattern(text: &str) -> bool {
    text.contains(['*', '?', '['])
}

struct Class<'a> {
    negated: bool,
    ranges: &'a [u8],
}

impl Class<'_> {
    fn contains(&self, byte: u8) -> bool {
        let mut found = false;
        let mut rest = self.ranges;
        while let Some((low, tail)) = rest.split_first() {
            match tail {
                [b'-', high, tail @ ..] => {
                    found |= (*low..=*high).contains(&byte);
                    rest = tail;
                }
                _ => {
                    found |= *low == byte;
                    rest = tail;
                }
            }
        }
        found != self.negated
    }
}

fn class(text: &[u8]) -> Option<(Class<'_>, &[u8])> {
    let (negated, body) = match text {
        [b'^' | b'!', rest @ ..] => (true, rest),
        _ => (false, text),
    };
    let end = body.iter().skip(1).position(|byte| *byte == b']')? + 1;
    Some((Class { negated, ranges: &body[..end] }, &body[end + 1..]))
}

fn matches_components(pattern: &[&str], path: &[&str]) -> bool {
    match pattern.split_first() {
        None => path.is_empty(),
        Some((&"**", rest)) => (0..=path.len()).any(|skip| matches_components(rest, &path[skip..])),
        Some((first, rest)) => path
            .split_first()
            .is_some_and(|(component, tail)| matches_component(first.as_bytes(), component.as_bytes()) && matches_components(rest, tail)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_fit_as_in_go() {
        for (pattern, path, expected) in [
            ("*", "abc", true),
            ("*", "a/b", false),
            ("a*c", "abbc", true),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("[a-c]x", "bx", true),
            ("[^a-c]x", "bx", false),
            ("[]a]", "]", true),
            ("[ab", "a", false),
            ("\\*", "*", true),
            ("\\*", "a", false),
            ("**/x", "x", true),
            ("**/x", "a/b/x", true),
            ("a/**", "a/b/c", true),
            ("a/**/b", "a/b", true),
            ("*.rs", "main.rs", true),
            ("src/*.rs", "src/sub/main.rs", false),
            ("", "", true),
        ] {
            assert_eq!(matches_path(pattern, path), expected, "{pattern} {path}");
        }
    }
}
