//! The arithmetic of a rollout: how large each ReplicaSet may be. Plain numbers in and out.

use serde_json::Value;

/// What the Deployment asks for, with percentages resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) replicas: i64,
    /// 0 unless the strategy is RollingUpdate.
    pub(super) max_surge: i64,
    /// 0 unless the strategy is RollingUpdate.
    pub(super) max_unavailable: i64,
}

impl Wanted {
    pub(super) fn of(spec: &Value) -> Self {
        let replicas = spec["replicas"].as_i64().unwrap_or(1);
        if is_recreate(spec) {
            return Self { replicas, max_surge: 0, max_unavailable: 0 };
        }
        let rolling = &spec["strategy"]["rollingUpdate"];
        let max_surge = resolve(&rolling["maxSurge"], replicas, true);
        let mut max_unavailable = resolve(&rolling["maxUnavailable"], replicas, false);
        if max_surge == 0 && max_unavailable == 0 {
            // validation forbids two zeros, but two percentages of a small number may both come to none
            max_unavailable = 1;
        }
        Self { replicas, max_surge, max_unavailable: max_unavailable.min(replicas) }
    }

    pub(super) fn max_total(self) -> i64 {
        self.replicas + self.max_surge
    }

    pub(super) fn min_available(self) -> i64 {
        self.replicas - self.max_unavailable
    }
}

pub(super) fn is_recreate(spec: &Value) -> bool {
    spec["strategy"]["type"] == "Recreate"
}

/// A number or a percentage of `total`; a quarter when it is missing.
fn resolve(value: &Value, total: i64, round_up: bool) -> i64 {
    if let Some(number) = value.as_i64() {
        return number.max(0);
    }
    let percent: i64 = value.as_str().and_then(|text| text.strip_suffix('%')).and_then(|text| text.parse().ok()).unwrap_or(25);
    let hundredths = percent.max(0) * total;
    if round_up { (hundredths + 99) / 100 } else { hundredths / 100 }
}

/// The size of one ReplicaSet and how much of it is available.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) replicas: i64,
    pub(super) available: i64,
}

/// How large the new ReplicaSet may grow now. `total` counts the replicas of all.
pub(super) fn new_size(wanted: Wanted, new: i64, total: i64, recreate: bool) -> i64 {
    if recreate || new >= wanted.replicas {
        return wanted.replicas;
    }
    let room = (wanted.max_total() - total).max(0);
    new + room.min(wanted.replicas - new)
}

/// How large the old ReplicaSets, oldest first, may stay now: first those lose pods that are not available anyway, then as many go as
/// the available ones allow.
pub(super) fn old_sizes(wanted: Wanted, new: Size, old: &[Size]) -> Vec<i64> {
    let mut sizes: Vec<i64> = old.iter().map(|set| set.replicas).collect();
    let total: i64 = sizes.iter().sum::<i64>() + new.replicas;
    let mut may_go = total - wanted.min_available() - (new.replicas - new.available);
    if may_go <= 0 {
        return sizes;
    }
    for (size, set) in sizes.iter_mut().zip(old) {
        let unhealthy = (set.replicas - set.available).clamp(0, *size).min(may_go);
        *size -= unhealthy;
        may_go -= unhealthy;
    }
    let available: i64 = old.iter().map(|set| set.available).sum::<i64>() + new.available;
    let mut spare = available - wanted.min_available();
    for size in &mut sizes {
        let down = spare.clamp(0, *size);
        *size -= down;
        spare -= down;
    }
    sizes
}

/// A ReplicaSet that takes its share when a Deployment is scaled in the middle of a rollout.
#[derive(Clone, Copy, Debug)]
pub(super) struct Share {
    pub(super) replicas: i64,
    /// The Deployment's largest size when this ReplicaSet was last scaled.
    pub(super) former_max: i64,
}

/// New sizes in proportion to the old ones. The first entry takes what rounding leaves over.
pub(super) fn proportional(wanted: Wanted, sets: &[Share]) -> Vec<i64> {
    let allowed = if wanted.replicas > 0 { wanted.max_total() } else { 0 };
    let to_add = allowed - sets.iter().map(|set| set.replicas).sum::<i64>();
    let mut added = 0;
    let mut sizes: Vec<i64> = sets
        .iter()
        .map(|set| {
            if to_add == 0 || set.replicas == 0 || to_add == added {
                return set.replicas;
            }
            let fair = if wanted.replicas == 0 {
                -set.replicas
            } else {
                rounded_div(set.replicas * wanted.max_total(), set.former_max.max(1)) - set.replicas
            };
            let left = to_add - added;
            let share = if to_add > 0 { fair.min(left) } else { fair.max(left) };
            added += share;
            set.replicas + share
        })
        .collect();
    if let Some(first) = sizes.first_mut() {
        *first = (*first + to_add - added).max(0);
    }
    sizes
}

/// Halves are rounded away from zero, as upstream rounds.
fn rounded_div(dividend: i64, divisor: i64) -> i64 {
    (2 * dividend + divisor) / (2 * divisor)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn percentages_are_rounded_in_the_safe_direction() {
        let spec = |surge: Value, unavailable: Value, replicas: i64| {
            Wanted::of(&json!({"replicas": replicas, "strategy": {"rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}}}))
        };
        assert_eq!(spec(json!("25%"), json!("25%"), 10), Wanted { replicas: 10, max_surge: 3, max_unavailable: 2 });
        assert_eq!(spec(json!("0%"), json!("10%"), 3), Wanted { replicas: 3, max_surge: 0, max_unavailable: 1 });
        assert_eq!(spec(json!(1), json!(5), 3), Wanted { replicas: 3, max_surge: 1, max_unavailable: 3 });
        assert_eq!(Wanted::of(&json!({"replicas": 4, "strategy": {"type": "Recreate"}})).max_surge, 0);
    }

    #[test]
    fn scaling_in_a_rollout_is_proportional() {
        // Kubernetes' documentation: 10 replicas, maxSurge 3, maxUnavailable 2, sizes 8 and 5; scaled to 15
        let wanted = Wanted { replicas: 15, max_surge: 3, max_unavailable: 2 };
        let sets = [Share { replicas: 8, former_max: 13 }, Share { replicas: 5, former_max: 13 }];
        assert_eq!(proportional(wanted, &sets), vec![11, 7]);
        let none = Wanted { replicas: 0, max_surge: 0, max_unavailable: 0 };
        assert_eq!(proportional(none, &sets), vec![0, 0]);
    }

    #[test]
    fn unavailable_pods_go_first() {
        let wanted = Wanted { replicas: 10, max_surge: 0, max_unavailable: 2 };
        let old = [Size { replicas: 3, available: 0 }, Size { replicas: 7, available: 7 }];
        assert_eq!(old_sizes(wanted, Size { replicas: 0, available: 0 }, &old), vec![1, 7]);
    }
}
