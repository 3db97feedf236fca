//! Which format versions of records and messages a program reads and writes, and whether two programs can be in one group.
//!
//! A new format is read by one release before the next one writes it. So members of two neighbouring releases understand each other while
//! a group is upgraded one by one, and the newer ones can still go back. Members that are further apart refuse each other at the greeting,
//! before anything reaches a log.
//!
//! How a member lays out its own directory is its own affair: an older layout is taken over when it is opened, and then written in the version
//! after the one that is exchanged, which an older program refuses to read (`docs/decisions/0009-a-journal-of-entries.md`).

use serde::{Deserialize, Serialize};

/// The formats of one program. Every record on disk and every message begins with the version it is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Formats {
    /// The oldest version that it reads.
    pub oldest: u8,
    /// The newest version that it reads.
    pub newest: u8,
    /// The version that it writes.
    pub written: u8,
}

impl Formats {
    /// Those of this program.
    pub const OURS: Self = Self { oldest: 1, newest: 2, written: 1 };

    /// Whether this program reads what is written in `version`.
    pub const fn reads(&self, version: u8) -> bool {
        self.oldest <= version && version <= self.newest
    }

    /// Why a program with these formats cannot be in one group with member `peer`, whose program has those of `other`, if so.
    pub(crate) fn conflict(&self, peer: u64, other: &Self) -> Option<String> {
        if !self.reads(other.written) {
            let cure = if other.written > self.newest { "upgrade this member first" } else { "upgrade that member first" };
            let Self { oldest, newest, .. } = self;
            return Some(format!("member {peer} writes format {}, this member reads {oldest} to {newest}: {cure}", other.written));
        }
        if !other.reads(self.written) {
            let cure = if self.written > other.newest { "upgrade that member first" } else { "upgrade this member first" };
            let Self { oldest, newest, .. } = other;
            return Some(format!("this member writes format {}, member {peer} reads {oldest} to {newest}: {cure}", self.written));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(ours: (u8, u8, u8), theirs: (u8, u8, u8), expected: Option<&str>) {
        let formats = |(oldest, newest, written)| Formats { oldest, newest, written };
        assert_eq!(formats(ours).conflict(2, &formats(theirs)).as_deref(), expected);
    }

    #[test]
    fn neighbouring_releases_agree_and_others_say_who_is_to_be_upgraded() {
        check((1, 1, 1), (1, 1, 1), None);
        // the next release reads more before it writes it
        check((1, 1, 1), (1, 2, 1), None);
        check((1, 2, 1), (1, 2, 2), None);
        check((1, 2, 2), (1, 2, 1), None);
        check((1, 1, 1), (1, 2, 2), Some("member 2 writes format 2, this member reads 1 to 1: upgrade this member first"));
        check((1, 2, 2), (1, 1, 1), Some("this member writes format 2, member 2 reads 1 to 1: upgrade that member first"));
        check((2, 3, 2), (1, 2, 1), Some("member 2 writes format 1, this member reads 2 to 3: upgrade that member first"));
        check((1, 2, 1), (2, 3, 2), Some("this member writes format 1, member 2 reads 2 to 3: upgrade this member first"));
    }
}
