//! Words, quotes and variables of a Containerfile. Pure. Spec: the Dockerfile reference, "Environment replacement".

/// Splits at blanks outside quotes. Quotes and escapes stay in the words.
pub(crate) fn split_words(text: &str, escape: char) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, quote) {
            (c, None) if c.is_whitespace() => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
            }
            (c, quote) if c == escape && quote != Some('\'') => {
                word.push(c);
                word.extend(chars.next());
            }
            ('"' | '\'', None) => {
                quote = Some(c);
                word.push(c);
            }
            (c, Some(open)) if c == open => {
                quote = None;
                word.push(c);
            }
            _ => word.push(c),
        }
    }
    if quote.is_some() {
        return Err(format!(
            "unexpected end of statement while looking for matching {}-quote",
            if quote == Some('"') { "double" } else { "single" }
        ));
    }
    if !word.is_empty() {
        words.push(word);
    }
    Ok(words)
}

/// Removes quotes and replaces variables: `$x`, `${x}`, `${x:-word}`, `${x:+word}`, `${x:?word}`, and these without the colon. Nothing is replaced
/// in single quotes.
pub(crate) fn expand(text: &str, escape: char, lookup: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    let chars: Vec<char> = text.chars().collect();
    let mut expander = Expander { chars: &chars, at: 0, escape, lookup };
    expander.until(None)
}

/// As `expand`, for words in which quotes are ordinary characters (JSON form).
pub(crate) fn expand_unquoted(text: &str, escape: char, lookup: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    let protected: String = text.chars().flat_map(|c| matches!(c, '"' | '\'').then_some(escape).into_iter().chain([c])).collect();
    expand(&protected, escape, lookup)
}

struct Expander<'a> {
    chars: &'a [char],
    at: usize,
    escape: char,
    lookup: &'a dyn Fn(&str) -> Option<String>,
}

impl Expander<'_> {
    /// Expands up to `end`, which is consumed, or to the end of the text.
    fn until(&mut self, end: Option<char>) -> Result<String, String> {
        let mut out = String::new();
        while let Some(c) = self.next() {
            match c {
                c if Some(c) == end => return Ok(out),
                c if c == self.escape => out.extend(self.next()),
                '\'' => self.single_quoted(&mut out)?,
                '"' => self.double_quoted(&mut out)?,
                '$' => self.variable(&mut out)?,
                c => out.push(c),
            }
        }
        match end {
            None => Ok(out),
            Some(end) => Err(format!("syntax error: missing '{end}'")),
        }
    }

    fn single_quoted(&mut self, out: &mut String) -> Result<(), String> {
        loop {
            match self.next() {
                Some('\'') => return Ok(()),
                Some(c) => out.push(c),
                None => return Err("unexpected end of statement while looking for matching single-quote".into()),
            }
        }
    }

    fn double_quoted(&mut self, out: &mut String) -> Result<(), String> {
        loop {
            match self.next() {
                Some('"') => return Ok(()),
                Some('$') => self.variable(out)?,
                Some(c) if c == self.escape => match self.next() {
                    Some(next) if next == '"' || next == '$' || next == self.escape => out.push(next),
                    next => {
                        out.push(c);
                        out.extend(next);
                    }
                },
                Some(c) => out.push(c),
                None => return Err("unexpected end of statement while looking for matching double-quote".into()),
            }
        }
    }

    fn variable(&mut self, out: &mut String) -> Result<(), String> {
        if self.chars.get(self.at) != Some(&'{') {
            let name = self.name();
            if name.is_empty() {
                out.push('$');
            } else {
                out.push_str(&(self.lookup)(&name).unwrap_or_default());
            }
            return Ok(());
        }
        self.at += 1;
        let name = self.name();
        let mut operator = self.next().ok_or("syntax error: missing '}'")?;
        let value = (self.lookup)(&name);
        if name.is_empty() {
            return Err("syntax error: bad substitution".into());
        }
        if operator == '}' {
            out.push_str(&value.unwrap_or_default());
            return Ok(());
        }
        let colon = operator == ':';
        if colon {
            operator = self.next().ok_or("syntax error: missing '}'")?;
        }
        let word = self.until(Some('}'))?;
        // With a colon, an empty value counts as none.
        let value = value.filter(|value| !(colon && value.is_empty()));
        match (operator, value) {
            ('-' | '?', Some(value)) => out.push_str(&value),
            ('-', None) | ('+', Some(_)) => out.push_str(&word),
            ('+', None) => {}
            ('?', None) if word.is_empty() => return Err(format!("{name}: not allowed to be {}", if colon { "empty" } else { "unset" })),
            ('?', None) => return Err(format!("{name}: {word}")),
            (other, _) => return Err(format!("unsupported modifier ({other}) in substitution")),
        }
        Ok(())
    }

    fn name(&mut self) -> String {
        let start = self.at;
        while self.chars.get(self.at).is_some_and(|c| c.is_ascii_alphanumeric() || *c == '_') {
            self.at += 1;
        }
        self.chars[start..self.at].iter().collect()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.chars.get(self.at).copied();
        self.at += usize::from(c.is_some());
        c
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lookup(name: &str) -> Option<String> {
        match name {
            "x" => Some("value".into()),
            "path" => Some("/a b".into()),
            "empty" => Some(String::new()),
            _ => None,
        }
    }

    #[test]
    fn variables_are_replaced_as_documented() {
        for (text, expected) in [
            ("$x", "value"),
            ("${x}y", "valuey"),
            ("$xy", ""),
            ("a$path/c", "a/a b/c"),
            ("\"$path\"", "/a b"),
            ("'$x'", "$x"),
            ("\\$x", "$x"),
            ("\"\\$x\"", "$x"),
            ("\"a\\b\"", "a\\b"),
            ("${none:-d}", "d"),
            ("${none-d}", "d"),
            ("${empty:-d}", "d"),
            ("${empty-d}", ""),
            ("${x:+set}", "set"),
            ("${empty:+set}", ""),
            ("${empty+set}", "set"),
            ("${none:-${x}-$x}", "value-value"),
            ("${none:-'a}'}", "a}"),
            ("${x:?oh}", "value"),
            ("it\\'s", "it's"),
            ("$", "$"),
            ("a$-b", "a$-b"),
            ("\"one two\"three", "one twothree"),
        ] {
            assert_eq!(expand(text, '\\', &lookup).as_deref(), Ok(expected), "{text}");
        }
        assert_eq!(expand("${none:?is needed}", '\\', &lookup), Err("none: is needed".into()));
        assert!(expand("${x", '\\', &lookup).is_err() && expand("\"x", '\\', &lookup).is_err() && expand("${x^y}", '\\', &lookup).is_err());
        assert_eq!(expand_unquoted("it's \"$x\"", '\\', &lookup).as_deref(), Ok("it's \"value\""));
    }

    #[test]
    fn words_keep_their_quotes() {
        let words = |text: &str| split_words(text, '\\').unwrap();
        assert_eq!(words("a  'b c' d\\ e \"f g\"h"), ["a", "'b c'", "d\\ e", "\"f g\"h"]);
        assert!(words("  ").is_empty());
        assert!(split_words("'a", '\\').is_err());
    }

    proptest! {
        #[test]
        fn plain_text_is_left_alone(text in "[a-zA-Z0-9/._-]{0,40}") {
            prop_assert_eq!(expand(&text, '\\', &lookup), Ok(text));
        }

        #[test]
        fn nothing_makes_it_panic(text in "[$\\{\\}:?+'\"\\\\x -]{0,30}") {
            let _any_outcome = expand(&text, '\\', &lookup);
            let _any_outcome = split_words(&text, '\\');
        }
    }
}
