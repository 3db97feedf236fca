//! `.dockerignore`: which files of the context a build does not see. Pure. Spec: the Dockerfile reference, ".dockerignore file".

use super::glob;

/// The patterns of one file, in order: the last that fits decides.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ignore {
    rules: Vec<Rule>,
}

#[derive(Clone, Debug)]
struct Rule {
    /// `!PATTERN`: fits mean "seen again".
    again: bool,
    pattern: String,
}

impl Ignore {
    pub(crate) fn parse(text: &str) -> Self {
        let rules = text.lines().filter_map(rule).collect();
        Self { rules }
    }

    /// Whether a path relative to the context is hidden, by itself or by a directory above it.
    pub(crate) fn hides(&self, path: &str) -> bool {
        let mut hidden = false;
        for rule in &self.rules {
            if hidden == rule.again && rule.fits(path) {
                hidden = !rule.again;
            }
        }
        hidden
    }

    /// Whether something below a hidden directory may be seen again, so that it must be walked all the same.
    pub(crate) fn has_exceptions(&self) -> bool {
        self.rules.iter().any(|rule| rule.again)
    }
}

impl Rule {
    fn fits(&self, path: &str) -> bool {
        // A pattern that fits a directory fits all below it.
        path.match_indices('/').map(|(at, _)| &path[..at]).chain([path]).any(|prefix| glob::matches_path(&self.pattern, prefix))
    }
}

fn rule(line: &str) -> Option<Rule> {
    if line.starts_with('#') {
        return None;
    }
    let line = line.trim();
    let (again, pattern) = match line.strip_prefix('!') {
        Some(rest) => (true, rest.trim()),
        None => (false, line),
    };
    let pattern = pattern.split('/').filter(|part| !part.is_empty() && *part != ".").collect::<Vec<_>>().join("/");
    (!pattern.is_empty()).then_some(Rule { again, pattern })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_fitting_pattern_decides() {
        let ignore = Ignore::parse("# comment\n*.log\n/build/\n**/temp*\ndocs\n!docs/keep.md\n*.md\n!README.md\n\n");
        for (path, hidden) in [
            ("a.log", true),
            ("sub/a.log", false),
            ("build", true),
            ("build/x/y", true),
            ("sub/build", false),
            ("temp1", true),
            ("a/b/temporary/c", true),
            ("docs/x", true),
            ("docs/keep.md", false),
            ("a.md", true),
            ("README.md", false),
            ("src/main.rs", false),
        ] {
            assert_eq!(ignore.hides(path), hidden, "{path}");
        }
        assert!(ignore.has_exceptions() && !Ignore::parse("a").has_exceptions());
    }
}
