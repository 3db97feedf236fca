//! Taints that ask pods to stay away (TaintToleration).

use crate::filters::tolerates;
use crate::pod::PodInfo;
use crate::snapshot::NodeRow;

/// How many of them the pod does not tolerate.
pub(super) fn intolerable(pod: &PodInfo, row: &NodeRow) -> i64 {
    let soft = row.taints.iter().filter(|taint| taint.effect == "PreferNoSchedule");
    let count = soft.filter(|taint| !tolerates(&pod.tolerations, &taint.key, &taint.value, &taint.effect)).count();
    i64::try_from(count).unwrap_or(i64::MAX)
}
