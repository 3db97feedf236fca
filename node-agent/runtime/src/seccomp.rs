//! System call filters: the default profile as data, OCI profiles as JSON, both compiled to BPF.
//!
//! seccompiler has one action for matches per filter, so a profile becomes one filter that allows, and one per other action; the kernel
//! takes the strictest answer of all filters.

mod table;

use std::collections::BTreeMap;

use seccompiler::{BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch};
use serde::Deserialize;

use crate::error::{Error, Result};
use crate::spec::Seccomp;

/// A filter as the kernel wants it, one instruction per number.
pub(crate) type Program = Vec<u64>;

fn invalid(reason: impl std::fmt::Display) -> Error {
    Error::InvalidSpec { field: "seccomp", reason: reason.to_string() }
}

/// The filters of a process with these capabilities in its bounding set, in the order of installation.
pub(crate) fn compile(seccomp: &Seccomp, bounding: u64) -> Result<Vec<Program>> {
    match seccomp {
        Seccomp::Unconfined => Ok(Vec::new()),
        Seccomp::RuntimeDefault => compile_profile(&default_profile(bounding), bounding),
        Seccomp::Profile(json) => compile_profile(&serde_json::from_str(json).map_err(invalid)?, bounding),
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Profile {
    default_action: String,
    default_errno_ret: Option<u32>,
    syscalls: Vec<Group>,
}

#[derive(Debug, Default, Clone, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Group {
    names: Vec<String>,
    name: Option<String>,
    action: String,
    errno_ret: Option<u32>,
    args: Option<Vec<Argument>>,
    includes: Option<Condition>,
    excludes: Option<Condition>,
}

#[derive(Debug, Default, Clone, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Argument {
    index: u8,
    value: u64,
    value_two: u64,
    op: String,
}

#[derive(Debug, Default, Clone, Deserialize)]
#[serde(default)]
struct Condition {
    caps: Vec<String>,
    arches: Vec<String>,
}

impl Condition {
    fn holds(&self, bounding: u64, any: bool) -> bool {
        let has = |name: &String| caps::to_canonical(name).parse::<caps::Capability>().is_ok_and(|cap| bounding & cap.bitmask() != 0);
        let here = |arch: &String| matches!((arch.as_str(), std::env::consts::ARCH), ("amd64" | "x32", "x86_64") | ("arm64", "aarch64"));
        if any {
            self.caps.iter().any(has) || self.arches.iter().any(here)
        } else {
            self.caps.iter().all(has) && (self.arches.is_empty() || self.arches.iter().any(here))
        }
    }
}

fn action(name: &str, errno: Option<u32>) -> Result<SeccompAction> {
    Ok(match name {
        "SCMP_ACT_ALLOW" => SeccompAction::Allow,
        "SCMP_ACT_ERRNO" => SeccompAction::Errno(errno.unwrap_or(1)),
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => SeccompAction::KillThread,
        "SCMP_ACT_KILL_PROCESS" => SeccompAction::KillProcess,
        "SCMP_ACT_LOG" => SeccompAction::Log,
        "SCMP_ACT_TRAP" => SeccompAction::Trap,
        "SCMP_ACT_TRACE" => SeccompAction::Trace(errno.unwrap_or(1)),
        other => return Err(invalid(format!("unknown action {other:?}"))),
    })
}

fn condition(argument: &Argument) -> Result<SeccompCondition> {
    let (operator, value) = match argument.op.as_str() {
        "SCMP_CMP_EQ" => (SeccompCmpOp::Eq, argument.value),
        "SCMP_CMP_NE" => (SeccompCmpOp::Ne, argument.value),
        "SCMP_CMP_LT" => (SeccompCmpOp::Lt, argument.value),
        "SCMP_CMP_LE" => (SeccompCmpOp::Le, argument.value),
        "SCMP_CMP_GT" => (SeccompCmpOp::Gt, argument.value),
        "SCMP_CMP_GE" => (SeccompCmpOp::Ge, argument.value),
        "SCMP_CMP_MASKED_EQ" => (SeccompCmpOp::MaskedEq(argument.value), argument.value_two),
        other => return Err(invalid(format!("unknown comparison {other:?}"))),
    };
    SeccompCondition::new(argument.index, SeccompCmpArgLen::Qword, operator, value).map_err(invalid)
}

/// System call numbers with the conditions under which they match; no conditions is always.
type Rules = BTreeMap<i64, Vec<SeccompRule>>;

fn add(rules: &mut Rules, number: i64, args: &[Argument]) -> Result<()> {
    if args.is_empty() {
        rules.insert(number, Vec::new());
    } else if rules.get(&number).is_none_or(|list| !list.is_empty()) {
        let conditions = args.iter().map(condition).collect::<Result<Vec<_>>>()?;
        rules.entry(number).or_default().push(SeccompRule::new(conditions).map_err(invalid)?);
    }
    Ok(())
}

fn compile_profile(profile: &Profile, bounding: u64) -> Result<Vec<Program>> {
    let default = action(&profile.default_action, profile.default_errno_ret)?;
    // Whatever a rule names passes the first filter; rules with another action than "allow" then have filters of their own.
    let mut named = Rules::new();
    let mut others: Vec<(SeccompAction, Rules)> = Vec::new();
    for group in &profile.syscalls {
        let wanted = group.includes.as_ref().is_none_or(|includes| includes.holds(bounding, false));
        let unwanted = group.excludes.as_ref().is_some_and(|excludes| excludes.holds(bounding, true));
        if !wanted || unwanted {
            continue;
        }
        let act = action(&group.action, group.errno_ret)?;
        let args = group.args.as_deref().unwrap_or_default();
        // A system call that this kernel's headers do not know can not be made by number either.
        for number in group.names.iter().chain(&group.name).filter_map(|name| table::number(name)) {
            add(&mut named, number, args)?;
            if act == SeccompAction::Allow || act == default {
                continue;
            }
            let at = others.iter().position(|(other, _)| *other == act).unwrap_or_else(|| {
                others.push((act.clone(), Rules::new()));
                others.len() - 1
            });
            add(&mut others[at].1, number, args)?;
        }
    }
    let mut programs = Vec::new();
    if default != SeccompAction::Allow {
        programs.push(build(named, default, SeccompAction::Allow)?);
    }
    for (act, rules) in others {
        programs.push(build(rules, SeccompAction::Allow, act)?);
    }
    Ok(programs)
}

fn build(rules: Rules, mismatch: SeccompAction, matching: SeccompAction) -> Result<Program> {
    let arch: TargetArch = std::env::consts::ARCH.try_into().map_err(invalid)?;
    let filter = SeccompFilter::new(rules, mismatch, matching, arch).map_err(invalid)?;
    let program: BpfProgram = filter.try_into().map_err(|error: seccompiler::BackendError| invalid(error))?;
    let word = |i: &seccompiler::sock_filter| u64::from(i.code) | u64::from(i.jt) << 16 | u64::from(i.jf) << 24 | u64::from(i.k) << 32;
    Ok(program.iter().map(word).collect())
}

/// The default profile for a process with these capabilities.
fn default_profile(bounding: u64) -> Profile {
    let group = |names: &[&str], args: Vec<Argument>| Group {
        names: names.iter().map(|&name| name.to_owned()).collect(),
        action: "SCMP_ACT_ALLOW".to_owned(),
        args: Some(args),
        ..Group::default()
    };
    let has = |cap: caps::Capability| bounding & cap.bitmask() != 0;
    let compare = |index, value, value_two, op: &str| Argument { index, value, value_two, op: op.to_owned() };
    let mut syscalls = vec![group(table::ALLOWED, Vec::new())];
    for persona in [0x0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff] {
        syscalls.push(group(&["personality"], vec![compare(0, persona, 0, "SCMP_CMP_EQ")]));
    }
    // Virtual machine sockets reach the host.
    syscalls.push(group(&["socket"], vec![compare(0, 40, 0, "SCMP_CMP_NE")]));
    for (cap, names) in table::BY_CAPABILITY {
        if has(*cap) {
            syscalls.push(group(names, Vec::new()));
        }
    }
    if !has(caps::Capability::CAP_SYS_ADMIN) {
        // New processes, but no new namespaces; clone3 hides its flags, so programs are told to use clone.
        syscalls.push(group(&["clone"], vec![compare(0, 0x7e02_0000, 0, "SCMP_CMP_MASKED_EQ")]));
        syscalls.push(Group { action: "SCMP_ACT_ERRNO".to_owned(), errno_ret: Some(38), ..group(&["clone3"], Vec::new()) });
    }
    Profile { default_action: "SCMP_ACT_ERRNO".to_owned(), default_errno_ret: Some(1), syscalls }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_profile_fits_the_kernel() {
        for bounding in [0, 0xa804_25fb, u64::MAX] {
            let programs = compile(&Seccomp::RuntimeDefault, bounding).unwrap();
            assert!(programs.iter().all(|program| program.len() <= 4096), "{:?}", programs.iter().map(Vec::len).collect::<Vec<_>>());
        }
    }

    #[test]
    fn names_have_numbers() {
        assert_eq!(table::ALLOWED.iter().find(|name| table::number(name).is_none() && cfg!(target_arch = "x86_64")), None);
        assert_eq!((table::number("read"), table::number("nonsense")), (Some(libc::SYS_read), None));
    }

    #[test]
    fn profiles_are_read() {
        let json = r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86_64"],"syscalls":[{"names":["mkdir","nonsense"],"action":"SCMP_ACT_ERRNO","errnoRet":2}]}"#;
        assert_eq!(compile(&Seccomp::Profile(json.to_owned()), 0).unwrap().len(), 1);
        assert!(compile(&Seccomp::Profile("{}".to_owned()), 0).is_err());
    }
}
