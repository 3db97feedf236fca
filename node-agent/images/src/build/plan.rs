//! Which stages a build needs, in which order. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::expand::expand;
use super::parse::{Containerfile, Instruction, Kind, ParseError};
use crate::platform::Platform;

/// One stage: from a FROM to the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stage {
    pub(crate) base: Base,
    /// The FROM itself, substituted, with its line.
    pub(crate) from: Instruction,
    pub(crate) name: Option<String>,
    pub(crate) instructions: Vec<Instruction>,
}

/// What a stage stands on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Base {
    Scratch,
    /// An earlier stage.
    Stage(usize),
    Image(String),
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) stages: Vec<Stage>,
    /// Indices of the stages that the target needs, in order; the last is the target.
    pub(crate) needed: Vec<usize>,
    /// Arguments before the first FROM, with the values given; a stage sees those it names.
    pub(crate) global_args: BTreeMap<String, String>,
}

/// Splits a file into stages and finds those that `target` (a name or number; the last stage if `None`) needs.
pub(crate) fn plan(file: &Containerfile, args: &BTreeMap<String, String>, target: Option<&str>) -> Result<Plan, ParseError> {
    let mut global_args = platform_args();
    let mut stages: Vec<Stage> = Vec::new();
    for instruction in &file.instructions {
        let mistake = |problem: String| ParseError { line: instruction.line, problem };
        let current = stages.last_mut();
        match (&instruction.kind, current) {
            (Kind::From { image, platform, name }, _) => {
                let lookup = |key: &str| global_args.get(key).cloned();
                let image = expand(image, file.escape, &lookup).map_err(mistake)?;
                if image.is_empty() {
                    return Err(mistake("base name should not be blank".into()));
                }
                if let Some(platform) = platform {
                    let wanted = expand(platform, file.escape, &lookup).map_err(mistake)?;
                    let ours = Platform::of_this_machine().to_string();
                    if wanted != ours {
                        return Err(mistake(format!("cannot build for {wanted} here: commands run on {ours} only")));
                    }
                }
                let base = base(&image, &stages);
                let mut from = instruction.clone();
                from.text = format!("FROM {image}{}", name.as_ref().map(|name| format!(" AS {name}")).unwrap_or_default());
                stages.push(Stage { base, from, name: name.clone(), instructions: Vec::new() });
            }
            (_, Some(stage)) => stage.instructions.push(instruction.clone()),
            (Kind::Arg(pairs), None) => {
                for (key, default) in pairs {
                    let lookup = |key: &str| global_args.get(key).cloned();
                    let default = default.as_ref().map(|default| expand(default, file.escape, &lookup)).transpose().map_err(mistake)?;
                    if let Some(value) = args.get(key).cloned().or(default) {
                        global_args.insert(key.clone(), value);
                    }
                }
            }
            // The parser refuses anything else before the first FROM.
            (_, None) => {}
        }
    }
    let last = stages.len().saturating_sub(1);
    let target = match target {
        None => last,
        Some(name) => {
            find(name, &stages).ok_or_else(|| ParseError { line: 1, problem: format!("target stage {name:?} could not be found") })?
        }
    };
    let needed = needed(&stages, target);
    Ok(Plan { stages, needed, global_args })
}

/// The stage of this name or number among those given.
pub(crate) fn find(name: &str, stages: &[Stage]) -> Option<usize> {
    let lower = name.to_ascii_lowercase();
    // A later stage of the same name hides the earlier one.
    let by_name = stages.iter().rposition(|stage| stage.name.as_deref() == Some(&lower));
    by_name.or_else(|| name.parse().ok().filter(|number| *number < stages.len()))
}

fn base(image: &str, earlier: &[Stage]) -> Base {
    match earlier.iter().rposition(|stage| stage.name.as_deref() == Some(&image.to_ascii_lowercase())) {
        _ if image == "scratch" => Base::Scratch,
        Some(number) => Base::Stage(number),
        None => Base::Image(image.to_owned()),
    }
}

fn needed(stages: &[Stage], target: usize) -> Vec<usize> {
    let mut wanted = BTreeSet::new();
    let mut open = vec![target];
    while let Some(number) = open.pop() {
        if !wanted.insert(number) {
            continue;
        }
        let Some(stage) = stages.get(number) else { continue };
        if let Base::Stage(base) = stage.base {
            open.push(base);
        }
        for instruction in &stage.instructions {
            if let Kind::Copy(copy) = &instruction.kind
                && let Some(from) = copy.from.as_deref().and_then(|from| find(from, &stages[..number]))
            {
                open.push(from);
            }
        }
    }
    wanted.into_iter().collect()
}

fn platform_args() -> BTreeMap<String, String> {
    let platform = Platform::of_this_machine();
    let mut args = BTreeMap::new();
    for prefix in ["TARGET", "BUILD"] {
        args.insert(format!("{prefix}PLATFORM"), platform.to_string());
        args.insert(format!("{prefix}OS"), platform.os.clone());
        args.insert(format!("{prefix}ARCH"), platform.architecture.clone());
        args.insert(format!("{prefix}VARIANT"), String::new());
    }
    args
}

#[cfg(test)]
mod tests {
    use super::super::parse::parse;
    use super::*;

    fn check(text: &str, args: &[(&str, &str)], target: Option<&str>) -> Result<Plan, ParseError> {
        let args = args.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        plan(&parse(text).unwrap(), &args, target)
    }

    const FILE: &str = "ARG V=1\nARG FULL=k.io/a:$V\nFROM $FULL AS base\nRUN x\nFROM scratch AS unused\nFROM base\nCOPY --from=0 a b\nFROM scratch as last\nCOPY --from=2 a b\nCOPY --from=k.io/other:1 a b\n";

    #[test]
    fn only_needed_stages_are_built() {
        let plan = check(FILE, &[], None).unwrap();
        assert_eq!(plan.needed, [0, 2, 3]);
        assert_eq!(plan.stages[0].base, Base::Image("k.io/a:1".into()));
        assert_eq!(plan.stages[2].base, Base::Stage(0));
        assert_eq!(plan.stages[0].from.text, "FROM k.io/a:1 AS base");
        assert_eq!(check(FILE, &[], Some("BASE")).unwrap().needed, [0]);
        assert_eq!(check(FILE, &[], Some("1")).unwrap().needed, [1]);
    }

    #[test]
    fn arguments_choose_the_base() {
        assert_eq!(check(FILE, &[("V", "7")], None).unwrap().stages[0].base, Base::Image("k.io/a:7".into()));
        assert!(check("FROM $NONE", &[], None).unwrap_err().problem.contains("should not be blank"));
        assert!(check("FROM --platform=plan9/mips a", &[], None).unwrap_err().problem.contains("plan9/mips"));
        assert!(check("FROM --platform=$BUILDPLATFORM a", &[], None).is_ok());
        assert_eq!(check(FILE, &[], Some("none")).unwrap_err().problem, "target stage \"none\" could not be found");
    }
}
