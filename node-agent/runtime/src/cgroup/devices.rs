//! Which devices a cgroup may use: as rules (v1) and as a BPF program (v2).

use std::fmt;

/// Access to devices of a kind; `None` is any number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule {
    kind: char,
    major: Option<u32>,
    minor: Option<u32>,
    access: String,
}

impl fmt::Display for Rule {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |number: Option<u32>| number.map_or_else(|| "*".to_owned(), |number| number.to_string());
        write!(out, "{} {}:{} {}", self.kind, number(self.major), number(self.minor), self.access)
    }
}

/// Devices that every container may use (and make nodes of), and these.
pub(super) fn rules(more: &[(char, u32, u32, String)]) -> Vec<Rule> {
    let rule = |kind, major, minor, access: &str| Rule { kind, major, minor, access: access.to_owned() };
    let mut rules = vec![rule('c', None, None, "m"), rule('b', None, None, "m")];
    for (major, minor) in [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2)] {
        rules.push(rule('c', Some(major), Some(minor), "rwm"));
    }
    rules.push(rule('c', Some(136), None, "rwm"));
    rules.extend(more.iter().map(|(kind, major, minor, access)| rule(*kind, Some(*major), Some(*minor), access)));
    rules
}

fn instruction(code: u8, dst: u8, src: u8, off: i16, imm: i32) -> u64 {
    let (off, imm) = (u64::from(u16::from_ne_bytes(off.to_ne_bytes())), u64::from(u32::from_ne_bytes(imm.to_ne_bytes())));
    u64::from(code) | u64::from(dst) << 8 | u64::from(src) << 12 | off << 16 | imm << 32
}

/// The rules as a program of type `cgroup/dev`: allowed if one of them matches.
///
/// Spec: linux/bpf.h, `struct bpf_cgroup_dev_ctx`: access (high half) and kind (low half), major, minor.
pub(super) fn program(rules: &[Rule]) -> Vec<u64> {
    const LOAD: u8 = 0x61;
    const AND: u8 = 0x54;
    const SHIFT: u8 = 0x74;
    const COPY: u8 = 0xbc;
    const SET: u8 = 0xb7;
    const UNLESS: u8 = 0x55;
    const EXIT: u8 = 0x95;
    let mut out = vec![
        // r2 kind, r3 access, r4 major, r5 minor
        instruction(LOAD, 2, 1, 0, 0),
        instruction(COPY, 3, 2, 0, 0),
        instruction(AND, 2, 0, 0, 0xffff),
        instruction(SHIFT, 3, 0, 0, 16),
        instruction(LOAD, 4, 1, 4, 0),
        instruction(LOAD, 5, 1, 8, 0),
    ];
    for rule in rules {
        let kind = if rule.kind == 'b' { 1 } else { 2 };
        let bit = |letter: char, bit: i32| if rule.access.contains(letter) { bit } else { 0 };
        let access = bit('m', 1) | bit('r', 2) | bit('w', 4);
        let number = |number: Option<u32>| number.and_then(|number| i32::try_from(number).ok());
        let mut equal = vec![(2, kind)];
        equal.extend(number(rule.major).map(|major| (4, major)));
        equal.extend(number(rule.minor).map(|minor| (5, minor)));
        // After the comparisons: two for the access, its own comparison, and two to say yes.
        let length = equal.len() + 5;
        for (at, (register, value)) in equal.into_iter().enumerate() {
            let skip = i16::try_from(length - at - 1).unwrap_or(i16::MAX);
            out.push(instruction(UNLESS, register, 0, skip, value));
        }
        // Asked for nothing but what the rule gives.
        out.push(instruction(COPY, 6, 3, 0, 0));
        out.push(instruction(AND, 6, 0, 0, !access));
        out.push(instruction(UNLESS, 6, 0, 2, 0));
        out.push(instruction(SET, 0, 0, 0, 1));
        out.push(instruction(EXIT, 0, 0, 0, 0));
    }
    out.push(instruction(SET, 0, 0, 0, 0));
    out.push(instruction(EXIT, 0, 0, 0, 0));
    out
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::Command;

    use super::*;

    #[test]
    fn rules_read_as_v1_wants_them() {
        let rules = rules(&[('b', 8, 0, "r".to_owned())]);
        assert_eq!(rules[0].to_string(), "c *:* m");
        assert_eq!(rules.last().map(ToString::to_string).as_deref(), Some("b 8:0 r"));
    }

    /// Asks the kernel, in a v2 cgroup without controllers.
    #[test]
    fn the_kernel_takes_the_program() {
        let mount =
            ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(Path::new).into_iter().find(|dir| dir.join("cgroup.controllers").exists());
        let cgroup = mount.expect("a v2 hierarchy").join(format!("tritest-devices-{}", std::process::id()));
        std::fs::create_dir(&cgroup).unwrap();
        let try_in = |script: &str| {
            let join = format!("echo 0 > {}/cgroup.procs && {script}", cgroup.display());
            Command::new("/bin/busybox").args(["sh", "-c", &join]).output().unwrap().status.success()
        };
        let before = try_in(": < /dev/kmsg");
        crate::sys::linux().attach_device_filter(&cgroup, &program(&rules(&[]))).unwrap();
        let (null, kmsg) = (try_in(": < /dev/null > /dev/null"), try_in(": < /dev/kmsg"));
        crate::sys::linux().attach_device_filter(&cgroup, &program(&rules(&[('c', 1, 11, "r".to_owned())]))).unwrap();
        let (read, write) = (try_in(": < /dev/kmsg"), try_in(": >> /dev/kmsg"));
        std::fs::remove_dir(&cgroup).unwrap();
        assert_eq!((before, null, kmsg), (true, true, false));
        // Filters of one cgroup all have to agree, so a second one can only take away.
        assert_eq!((read, write), (false, false));
    }
}
