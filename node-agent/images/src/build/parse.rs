//! A Containerfile as a list of instructions. Pure: text in, instructions or the first mistake with its line out.
//!
//! Spec: the Dockerfile reference. Of heredocs, `RUN <<EOF` and `COPY <<FILE DEST` are known; `RUN command <<EOF` goes to the shell as it is.

use super::expand::split_words;

/// One instruction, not yet substituted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Instruction {
    /// Where it begins, from 1.
    pub(crate) line: usize,
    /// As written, continuation lines joined: for people and for the cache.
    pub(crate) text: String,
    pub(crate) kind: Kind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    From {
        image: String,
        platform: Option<String>,
        name: Option<String>,
    },
    Arg(Vec<(String, Option<String>)>),
    Env(Vec<(String, String)>),
    Label(Vec<(String, String)>),
    Copy(Copy),
    /// As COPY, and local archives are extracted.
    Add(Copy),
    Run(Command),
    Workdir(String),
    User(String),
    Entrypoint(Command),
    Cmd(Command),
    Expose(Vec<String>),
    Volume(Vec<String>),
    StopSignal(String),
    Shell(Vec<String>),
    /// Accepted, without effect; the text says so.
    Ignored(String),
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Copy {
    pub(crate) from: Option<String>,
    pub(crate) chown: Option<String>,
    pub(crate) chmod: Option<String>,
    /// Words as written; still quoted unless they came as JSON.
    pub(crate) sources: Vec<String>,
    pub(crate) destination: String,
    /// Files written in place: name and content.
    pub(crate) inline: Vec<(String, String)>,
    /// The words came as JSON: no quotes to remove.
    pub(crate) json: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    /// For the shell.
    Shell(String),
    /// Program and arguments.
    Exec(Vec<String>),
}

/// A mistake, and its line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ParseError {
    pub(crate) line: usize,
    pub(crate) problem: String,
}

/// A parsed file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Containerfile {
    pub(crate) instructions: Vec<Instruction>,
    /// The escape character, `\` unless a directive says otherwise.
    pub(crate) escape: char,
}

/// Parses a whole file.
pub(crate) fn parse(text: &str) -> Result<Containerfile, ParseError> {
    let escape = escape_directive(text)?;
    let lines: Vec<&str> = text.strip_prefix('\u{feff}').unwrap_or(text).lines().collect();
    let mut instructions = Vec::new();
    let mut at = 0;
    while at < lines.len() {
        let start = at;
        let Some(joined) = join(&lines, &mut at, escape) else { continue };
        let mistake = |problem: String| ParseError { line: start + 1, problem };
        let (name, rest) = joined.split_once(char::is_whitespace).unwrap_or((&joined, ""));
        let bodies = if matches!(name.to_ascii_uppercase().as_str(), "RUN" | "COPY" | "ADD") {
            heredocs(rest, &lines, &mut at).map_err(mistake)?
        } else {
            Vec::new()
        };
        let kind = instruction(&name.to_ascii_uppercase(), rest.trim(), bodies, escape).map_err(mistake)?;
        instructions.push(Instruction { line: start + 1, text: joined, kind });
    }
    let first = instructions.iter().find(|instruction| !matches!(instruction.kind, Kind::Arg(_)));
    match first {
        Some(Instruction { kind: Kind::From { .. }, .. }) => Ok(Containerfile { instructions, escape }),
        Some(other) => {
            Err(ParseError { line: other.line, problem: "no build stage in current context: the first instruction must be FROM".into() })
        }
        None => Err(ParseError { line: 1, problem: "file with no instructions".into() }),
    }
}

/// `# escape=...` among the directives at the top.
fn escape_directive(text: &str) -> Result<char, ParseError> {
    for (number, line) in text.lines().enumerate() {
        let Some((key, value)) = line.trim().strip_prefix('#').and_then(|rest| rest.split_once('=')) else { break };
        if key.trim().eq_ignore_ascii_case("escape") {
            return match value.trim() {
                "\\" => Ok('\\'),
                "`" => Ok('`'),
                other => Err(ParseError { line: number + 1, problem: format!("invalid escape token {other:?}: it must be ` or \\") }),
            };
        }
    }
    Ok('\\')
}

/// The next instruction with its continuation lines; `None` for a comment or an empty line. Comments and empty lines inside are dropped.
fn join(lines: &[&str], at: &mut usize, escape: char) -> Option<String> {
    let mut joined = String::new();
    let mut begun = false;
    while *at < lines.len() {
        let line = lines[*at];
        *at += 1;
        let trimmed = line.trim_start();
        if trimmed.is_empty() || trimmed.starts_with('#') {
            if begun {
                continue;
            }
            return None;
        }
        let body = if begun { line } else { trimmed };
        begun = true;
        match body.trim_end().strip_suffix(escape) {
            Some(continued) => joined.push_str(continued),
            None => {
                joined.push_str(body.trim_end());
                break;
            }
        }
    }
    Some(joined.trim().to_owned())
}

struct Heredoc {
    name: String,
    body: String,
}

/// Reads the bodies of `<<NAME` and `<<-NAME` that stand as words in the instruction.
fn heredocs(rest: &str, lines: &[&str], at: &mut usize) -> Result<Vec<Heredoc>, String> {
    let mut found = Vec::new();
    for word in rest.split_whitespace() {
        let Some(marker) = word.strip_prefix("<<").filter(|marker| !marker.starts_with('<')) else { continue };
        let (strip_tabs, marker) = marker.strip_prefix('-').map_or((false, marker), |marker| (true, marker));
        let name = marker.trim_matches(['"', '\'']);
        if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-')) {
            continue;
        }
        let mut body = String::new();
        loop {
            let Some(line) = lines.get(*at) else { return Err(format!("unterminated heredoc {name}")) };
            *at += 1;
            let line = if strip_tabs { line.trim_start_matches('\t') } else { line };
            if line == name {
                break;
            }
            body.push_str(line);
            body.push('\n');
        }
        found.push(Heredoc { name: name.to_owned(), body });
    }
    Ok(found)
}

fn instruction(name: &str, rest: &str, heredocs: Vec<Heredoc>, escape: char) -> Result<Kind, String> {
    let one = |what: &str| match rest.is_empty() {
        true => Err(format!("{name} requires exactly one argument: {what}")),
        false => Ok(rest.to_owned()),
    };
    Ok(match name {
        "FROM" => from(rest)?,
        "ARG" => Kind::Arg(pairs_or_names(rest, escape)?),
        "ENV" => Kind::Env(pairs(name, rest, escape)?),
        "LABEL" => Kind::Label(pairs(name, rest, escape)?),
        "COPY" => Kind::Copy(copy(name, rest, heredocs, escape)?),
        "ADD" => Kind::Add(copy(name, rest, heredocs, escape)?),
        "RUN" => Kind::Run(run(rest, heredocs)?),
        "WORKDIR" => Kind::Workdir(one("a path")?),
        "USER" => Kind::User(one("a user")?),
        "STOPSIGNAL" => Kind::StopSignal(one("a signal")?),
        "ENTRYPOINT" => Kind::Entrypoint(command(rest)),
        "CMD" => Kind::Cmd(command(rest)),
        "EXPOSE" => Kind::Expose(list(name, rest, escape)?),
        "VOLUME" => Kind::Volume(list(name, rest, escape)?),
        "SHELL" => match command(rest) {
            Command::Exec(words) if !words.is_empty() => Kind::Shell(words),
            _ => return Err("SHELL requires the arguments to be in JSON form".into()),
        },
        "HEALTHCHECK" => Kind::Ignored("HEALTHCHECK has no effect: Kubernetes asks pods by probes".into()),
        "MAINTAINER" => Kind::Ignored("MAINTAINER has no effect: use a LABEL".into()),
        "ONBUILD" => return Err("ONBUILD is not supported: write its instruction into the file that builds on this image".into()),
        other => return Err(format!("unknown instruction: {other}")),
    })
}

fn from(rest: &str) -> Result<Kind, String> {
    let (flags, rest) = flags(rest);
    let mut platform = None;
    for (flag, value) in flags {
        match flag.as_str() {
            "platform" => platform = Some(value),
            other => return Err(format!("unknown flag: --{other}")),
        }
    }
    let words: Vec<&str> = rest.split_whitespace().collect();
    match words.as_slice() {
        [image] => Ok(Kind::From { image: (*image).to_owned(), platform, name: None }),
        [image, keyword, name] if keyword.eq_ignore_ascii_case("as") => {
            let valid = name.starts_with(|c: char| c.is_ascii_alphabetic())
                && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'));
            if !valid {
                return Err(format!("invalid name for build stage: {name:?}"));
            }
            Ok(Kind::From { image: (*image).to_owned(), platform, name: Some(name.to_ascii_lowercase()) })
        }
        _ => Err("FROM requires either one or three arguments: FROM IMAGE [AS NAME]".into()),
    }
}

fn run(rest: &str, mut heredocs: Vec<Heredoc>) -> Result<Command, String> {
    let (flags, command_text) = flags(rest);
    for (flag, value) in flags {
        match (flag.as_str(), value.as_str()) {
            ("network", "host" | "default") | ("security", "sandbox") => {}
            ("network", other) => return Err(format!("RUN --network={other} is not supported: commands have the host's network")),
            (other, _) => return Err(format!("RUN --{other} is not supported")),
        }
    }
    if heredocs.is_empty() {
        if command_text.is_empty() {
            return Err("RUN requires at least one argument".into());
        }
        return Ok(command(command_text));
    }
    if heredocs.len() == 1 && command_text.split_whitespace().count() == 1 {
        return Ok(Command::Shell(heredocs.remove(0).body));
    }
    // The shell knows heredocs itself.
    let mut script = command_text.to_owned();
    for heredoc in heredocs {
        script.push_str(&format!("\n{}{}", heredoc.body, heredoc.name));
    }
    Ok(Command::Shell(script))
}

fn copy(name: &str, rest: &str, heredocs: Vec<Heredoc>, escape: char) -> Result<Copy, String> {
    let (flags, rest) = flags(rest);
    let mut copy = Copy::default();
    for (flag, value) in flags {
        match (flag.as_str(), name) {
            ("from", "COPY") => copy.from = Some(value),
            ("chown", _) => copy.chown = Some(value),
            ("chmod", _) => copy.chmod = Some(value),
            // Layers are always independent of each other here.
            ("link", _) => {}
            (other, _) => return Err(format!("{name} --{other} is not supported")),
        }
    }
    let mut words = match json_list(rest) {
        Some(words) => {
            copy.json = true;
            words
        }
        None => split_words(rest, escape)?,
    };
    copy.destination = words.pop().unwrap_or_default();
    words.retain(|word| {
        !(word.starts_with("<<")
            && heredocs.iter().any(|heredoc| word.trim_start_matches(['<', '-', '"', '\'']).trim_end_matches(['"', '\'']) == heredoc.name))
    });
    copy.sources = words;
    copy.inline = heredocs.into_iter().map(|heredoc| (heredoc.name, heredoc.body)).collect();
    if copy.destination.is_empty() || (copy.sources.is_empty() && copy.inline.is_empty()) {
        return Err(format!("{name} requires at least two arguments: {name} SOURCE... DESTINATION"));
    }
    if let Some(address) = copy.sources.iter().find(|source| source.contains("://") || source.starts_with("git@")) {
        return Err(format!("{name} of an address is not supported: fetch {address} first"));
    }
    Ok(copy)
}

/// `--NAME=VALUE` words at the beginning, and what follows them.
fn flags(rest: &str) -> (Vec<(String, String)>, &str) {
    let mut flags = Vec::new();
    let mut rest = rest.trim_start();
    while let Some(flag) = rest.strip_prefix("--") {
        let (word, after) = flag.split_once(char::is_whitespace).unwrap_or((flag, ""));
        let (name, value) = word.split_once('=').unwrap_or((word, ""));
        flags.push((name.to_owned(), value.to_owned()));
        rest = after.trim_start();
    }
    (flags, rest)
}

fn command(rest: &str) -> Command {
    json_list(rest).map_or_else(|| Command::Shell(rest.to_owned()), Command::Exec)
}

fn json_list(rest: &str) -> Option<Vec<String>> {
    if rest.trim_start().starts_with('[') { serde_json::from_str(rest).ok() } else { None }
}

fn list(name: &str, rest: &str, escape: char) -> Result<Vec<String>, String> {
    let words = match json_list(rest) {
        Some(words) => words,
        None => split_words(rest, escape)?,
    };
    if words.is_empty() { Err(format!("{name} requires at least one argument")) } else { Ok(words) }
}

/// `KEY=VALUE ...`, or in the old form `KEY the whole rest`. Values stay quoted.
fn pairs(name: &str, rest: &str, escape: char) -> Result<Vec<(String, String)>, String> {
    let words = split_words(rest, escape)?;
    let first = words.first().ok_or_else(|| format!("{name} requires at least one argument"))?;
    if !first.contains('=') {
        let (key, value) = rest.split_once(char::is_whitespace).ok_or_else(|| format!("{name} must have two arguments"))?;
        return Ok(vec![(key.to_owned(), format!("\"{}\"", value.trim().replace('"', &format!("{escape}\""))))]);
    }
    words
        .into_iter()
        .map(|word| match word.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
            _ => Err(format!("Syntax error - can't find = in {word:?}. Must be of the form: name=value")),
        })
        .collect()
}

fn pairs_or_names(rest: &str, escape: char) -> Result<Vec<(String, Option<String>)>, String> {
    let words = split_words(rest, escape)?;
    if words.is_empty() {
        return Err("ARG requires at least one argument".into());
    }
    Ok(words
        .into_iter()
        .map(|word| match word.split_once('=') {
            Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
            None => (word, None),
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn kinds(text: &str) -> Vec<Kind> {
        parse(text).unwrap().instructions.into_iter().map(|instruction| instruction.kind).collect()
    }

    fn one(text: &str) -> Kind {
        kinds(&format!("FROM scratch\n{text}")).pop().unwrap()
    }

    fn words(list: &[&str]) -> Vec<String> {
        list.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn lines_are_joined_and_comments_dropped() {
        let file =
            parse("# a comment\n\nARG V=1\nfrom alpine:$V AS Base\nRUN one && \\\n  # inside\n\n  two \\\n  three\n# end\n").unwrap();
        assert_eq!(file.instructions[0].kind, Kind::Arg(vec![("V".into(), Some("1".into()))]));
        assert_eq!(file.instructions[1].kind, Kind::From { image: "alpine:$V".into(), platform: None, name: Some("base".into()) });
        assert_eq!(file.instructions[2].kind, Kind::Run(Command::Shell("one &&   two   three".into())));
        assert_eq!(file.instructions[2].line, 5);
        assert_eq!(kinds("# escape=`\nFROM scratch\nRUN a `\n b\\\nRUN c")[1], Kind::Run(Command::Shell("a  b\\".into())));
    }

    #[test]
    fn forms_are_told_apart() {
        assert_eq!(one("CMD [\"a\", \"b c\"]"), Kind::Cmd(Command::Exec(words(&["a", "b c"]))));
        assert_eq!(one("CMD [not json"), Kind::Cmd(Command::Shell("[not json".into())));
        assert_eq!(one("ENTRYPOINT exec top"), Kind::Entrypoint(Command::Shell("exec top".into())));
        assert_eq!(one("ENV A=1 B=\"x y\""), Kind::Env(vec![("A".into(), "1".into()), ("B".into(), "\"x y\"".into())]));
        assert_eq!(one("ENV A the rest"), Kind::Env(vec![("A".into(), "\"the rest\"".into())]));
        assert_eq!(one("EXPOSE 80 443/udp"), Kind::Expose(words(&["80", "443/udp"])));
        assert_eq!(one("VOLUME [\"/a b\"]"), Kind::Volume(words(&["/a b"])));
        assert!(matches!(one("HEALTHCHECK NONE"), Kind::Ignored(_)));
        let Kind::Copy(copy) = one("COPY --from=0 --chown=a:b --chmod=755 x \"y z\" /d/") else { panic!() };
        assert_eq!((copy.from.as_deref(), copy.chown.as_deref(), copy.chmod.as_deref()), (Some("0"), Some("a:b"), Some("755")));
        assert_eq!((copy.sources, copy.destination.as_str(), copy.json), (words(&["x", "\"y z\""]), "/d/", false));
    }

    #[test]
    fn heredocs_are_read() {
        assert_eq!(one("RUN <<EOF\necho a\necho b\nEOF"), Kind::Run(Command::Shell("echo a\necho b\n".into())));
        assert_eq!(one("RUN cat <<-X > /f\n\tone\n\tX"), Kind::Run(Command::Shell("cat <<-X > /f\none\nX".into())));
        let Kind::Copy(copy) = one("COPY <<a.conf <<'b' /etc/\nA\na.conf\nB $X\nb") else { panic!() };
        assert_eq!(copy.inline, [("a.conf".to_owned(), "A\n".to_owned()), ("b".to_owned(), "B $X\n".to_owned())]);
        assert!(copy.sources.is_empty() && copy.destination == "/etc/");
        assert_eq!(one("RUN echo $((1 << 2)) 'a<<b'"), Kind::Run(Command::Shell("echo $((1 << 2)) 'a<<b'".into())));
    }

    #[test]
    fn mistakes_have_their_line() {
        for (text, line, problem) in [
            ("", 1, "file with no instructions"),
            ("RUN x", 1, "no build stage in current context: the first instruction must be FROM"),
            ("FROM a b", 1, "FROM requires either one or three arguments: FROM IMAGE [AS NAME]"),
            ("FROM a\n\nWHAT x", 3, "unknown instruction: WHAT"),
            ("FROM a\nCOPY x", 2, "COPY requires at least two arguments: COPY SOURCE... DESTINATION"),
            ("FROM a\nENV A=1 B", 2, "Syntax error - can't find = in \"B\". Must be of the form: name=value"),
            ("FROM a\nRUN --mount=type=cache,target=/x y", 2, "RUN --mount is not supported"),
            ("FROM a\nRUN <<EOF\nx", 2, "unterminated heredoc EOF"),
            ("FROM a\nSHELL sh", 2, "SHELL requires the arguments to be in JSON form"),
            ("FROM a\nADD https://x/y /z", 2, "ADD of an address is not supported: fetch https://x/y first"),
        ] {
            assert_eq!(parse(text), Err(ParseError { line, problem: problem.into() }), "{text}");
        }
        assert!(parse("FROM a\nONBUILD RUN x").unwrap_err().problem.starts_with("ONBUILD is not supported"));
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "(FROM a|RUN|COPY|ENV|ARG|#|<<EOF|EOF|\\\\|\\[|\"|'|=|\\$|\\{| |\n|x){0,30}") {
            let _any_outcome = parse(&text);
        }
    }
}
