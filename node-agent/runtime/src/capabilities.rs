//! Capability sets as bit masks, from names.

use caps::{CapSet, Capability};

use crate::error::{Error, Result};
use crate::spec::{Capabilities, ContainerSpec};

/// What containerd and docker give a container by default.
const DEFAULT: [Capability; 14] = [
    Capability::CAP_CHOWN,
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_FSETID,
    Capability::CAP_FOWNER,
    Capability::CAP_MKNOD,
    Capability::CAP_NET_RAW,
    Capability::CAP_SETGID,
    Capability::CAP_SETUID,
    Capability::CAP_SETFCAP,
    Capability::CAP_SETPCAP,
    Capability::CAP_NET_BIND_SERVICE,
    Capability::CAP_SYS_CHROOT,
    Capability::CAP_KILL,
    Capability::CAP_AUDIT_WRITE,
];

/// The five sets of a process, one bit per capability.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Masks {
    pub(crate) bounding: u64,
    pub(crate) effective: u64,
    pub(crate) permitted: u64,
    pub(crate) inheritable: u64,
    pub(crate) ambient: u64,
}

/// Capabilities that we may hand out: our own bounding set.
pub(crate) fn available() -> u64 {
    caps::read(None, CapSet::Bounding).map_or(u64::MAX >> 23, |set| set.iter().map(Capability::bitmask).sum())
}

fn mask(names: &[String]) -> Result<u64> {
    let mut mask = 0;
    for name in names {
        if name.eq_ignore_ascii_case("ALL") || name.eq_ignore_ascii_case("CAP_ALL") {
            return Ok(u64::MAX);
        }
        let canonical = caps::to_canonical(name);
        let known: Capability = canonical.parse().map_err(|_ignored: caps::errors::CapsError| Error::InvalidSpec {
            field: "capabilities",
            reason: format!("unknown capability {name:?}"),
        })?;
        mask |= known.bitmask();
    }
    Ok(mask)
}

/// The sets of a container's process. A user other than root gets nothing effective by default, as under Kubernetes.
pub(crate) fn masks(spec: &ContainerSpec, uid: u32, available: u64) -> Result<Masks> {
    if spec.privileged {
        return Ok(Masks { bounding: available, effective: available, permitted: available, ..Masks::default() }.for_user(uid));
    }
    let masks = match &spec.capabilities {
        Capabilities::Default { add, drop } => {
            let default: u64 = DEFAULT.iter().map(Capability::bitmask).sum();
            let (add, drop) = (mask(add)?, mask(drop)?);
            // ALL is weaker than a single name on the other side.
            let set = match (add == u64::MAX, drop == u64::MAX) {
                (true, true) => 0,
                (true, false) => available & !drop,
                (false, true) => add,
                (false, false) => (default | add) & !drop,
            } & available;
            Masks { bounding: set, effective: set, permitted: set, ..Masks::default() }.for_user(uid)
        }
        Capabilities::Exact { bounding, effective, permitted, inheritable, ambient } => Masks {
            bounding: mask(bounding)? & available,
            effective: mask(effective)? & available,
            permitted: mask(permitted)? & available,
            inheritable: mask(inheritable)? & available,
            ambient: mask(ambient)? & available,
        },
    };
    Ok(masks)
}

impl Masks {
    fn for_user(self, uid: u32) -> Masks {
        if uid == 0 { self } else { Masks { effective: 0, permitted: 0, ..self } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(add: &[&str], drop: &[&str]) -> ContainerSpec {
        let own = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        ContainerSpec { capabilities: Capabilities::Default { add: own(add), drop: own(drop) }, ..ContainerSpec::default() }
    }

    #[test]
    fn names_are_added_and_dropped() {
        let all = u64::MAX >> 23;
        let bits = |add: &[&str], drop: &[&str]| masks(&spec(add, drop), 0, all).unwrap().effective;
        assert_eq!(bits(&[], &[]), 0xa804_25fb);
        assert_eq!(bits(&[], &["all"]), 0);
        assert_eq!(bits(&["net_bind_service"], &["ALL"]), 1 << 10);
        assert_eq!(bits(&["ALL"], &[]), all);
        assert_eq!(bits(&["CAP_NET_ADMIN"], &["KILL"]), (0xa804_25fb | 1 << 12) & !(1 << 5));
    }

    #[test]
    fn other_users_start_with_nothing_effective() {
        let masks = masks(&spec(&[], &[]), 1000, u64::MAX).unwrap();
        assert_eq!((masks.bounding, masks.effective, masks.permitted), (0xa804_25fb, 0, 0));
    }
}
