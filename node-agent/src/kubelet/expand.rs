//! Expansion of `$(NAME)` in commands, arguments, environment values and sub-path expressions.

/// `input` with every `$(NAME)` replaced by what `lookup` knows; unknown names stay as written and `$$` becomes `$`.
///
/// `Spec:` core/v1 Container `command`, "Variable references $(VAR_NAME) are expanded".
pub fn expand(input: &str, lookup: impl Fn(&str) -> Option<String>) -> String {
    expand_with(input, |name| lookup(name).unwrap_or_else(|| format!("$({name})")))
}

/// As [`expand`], but unknown names are collected as errors: sub-path expressions must not keep a reference.
pub fn expand_strict(input: &str, lookup: impl Fn(&str) -> Option<String>) -> Result<String, Vec<String>> {
    let missing = std::cell::RefCell::new(Vec::new());
    let out = expand_with(input, |name| {
        lookup(name).unwrap_or_else(|| {
            missing.borrow_mut().push(name.to_owned());
            String::new()
        })
    });
    let missing = missing.into_inner();
    if missing.is_empty() { Ok(out) } else { Err(missing) }
}

fn expand_with(input: &str, replace: impl Fn(&str) -> String) -> String {
    let mut out = String::with_capacity(input.len());
    let mut rest = input;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(tail) = rest.strip_prefix('$') {
            out.push('$');
            rest = tail;
        } else if let Some(tail) = rest.strip_prefix('(') {
            match tail.find(')') {
                Some(end) => {
                    out.push_str(&replace(&tail[..end]));
                    rest = &tail[end + 1..];
                }
                None => {
                    // An unclosed reference is text; what follows the parenthesis may still hold references.
                    out.push_str("$(");
                    rest = tail;
                }
            }
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(input: &str, expected: &str) {
        let lookup = |name: &str| match name {
            "A" => Some("alpha".to_owned()),
            "B" => Some("$(A)".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        };
        assert_eq!(expand(input, lookup), expected, "{input}");
    }

    #[test]
    fn references_are_replaced_once() {
        check("$(A)", "alpha");
        check("x$(A)y$(A)", "xalphayalpha");
        check("$(B)", "$(A)");
        check("$(EMPTY)", "");
    }

    #[test]
    fn what_is_no_known_reference_stays() {
        check("$(NOPE)", "$(NOPE)");
        check("$$(A)", "$(A)");
        check("$$$(A)", "$alpha");
        check("$A", "$A");
        check("$(A", "$(A");
        check("$($(A)", "$($(A)");
        check("cost $", "cost $");
        check("$$", "$");
    }

    #[test]
    fn a_strict_expansion_names_what_is_missing() {
        assert_eq!(expand_strict("a/$(X)/$(Y)", |_| None), Err(vec!["X".to_owned(), "Y".to_owned()]));
        assert_eq!(expand_strict("a/$(X)", |_| Some("b".to_owned())), Ok("a/b".to_owned()));
    }
}
