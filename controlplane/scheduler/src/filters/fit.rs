//! Whether what a pod asks for is free (NodeResourcesFit).

use crate::pod::PodInfo;
use crate::snapshot::NodeRow;

/// Whether the node has room.
pub(super) fn fits(pod: &PodInfo, row: &NodeRow) -> bool {
    let (wanted, all, used) = (&pod.request, &row.allocatable, &row.requested);
    let free = |wanted: i64, all: i64, used: i64| wanted == 0 || wanted <= all - used;
    used.pods < all.pods
        && free(wanted.cpu_millis, all.cpu_millis, used.cpu_millis)
        && free(wanted.memory_bytes, all.memory_bytes, used.memory_bytes)
        && free(wanted.storage_bytes, all.storage_bytes, used.storage_bytes)
        && wanted.others.iter().all(|(name, wanted)| {
            let amount = |of: &std::collections::BTreeMap<String, i64>| of.get(name).copied().unwrap_or(0);
            free(*wanted, amount(&all.others), amount(&used.others))
        })
}

/// What is short on the node, in upstream's wording.
pub fn shortages(pod: &PodInfo, row: &NodeRow) -> Vec<String> {
    let (wanted, all, used) = (&pod.request, &row.allocatable, &row.requested);
    let mut short = Vec::new();
    if used.pods + 1 > all.pods {
        short.push("Too many pods".to_owned());
    }
    let mut check = |name: &str, wanted: i64, all: i64, used: i64| {
        if wanted > 0 && wanted > all - used {
            short.push(format!("Insufficient {name}"));
        }
    };
    check("cpu", wanted.cpu_millis, all.cpu_millis, used.cpu_millis);
    check("memory", wanted.memory_bytes, all.memory_bytes, used.memory_bytes);
    check("ephemeral-storage", wanted.storage_bytes, all.storage_bytes, used.storage_bytes);
    for (name, amount) in &wanted.others {
        let of = |list: &std::collections::BTreeMap<String, i64>| list.get(name).copied().unwrap_or(0);
        check(name, *amount, of(&all.others), of(&used.others));
    }
    short
}
