//! Removes Events that nobody has written for a while: they tell what happened lately. `Spec:` kube-apiserver `--event-ttl`.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;
use trierarch_api::snapshot::Change;
use trierarch_api::{Object, ObjectKey, Snapshot};

use crate::action::{Action, Plan};
use crate::resources::EVENTS;
use crate::runner::{Context, Controller};

/// The only key.
const OLD_EVENTS: &str = "old-events";
/// Removals come together, not one by one.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// How many are removed in one go.
const REMOVED_AT_ONCE_MAX: usize = 500;

/// Keeps each Event this long after its last occurrence.
pub struct EventTtl {
    ttl: Duration,
}

impl EventTtl {
    /// With a time to live.
    pub fn new(ttl: Duration) -> Self {
        Self { ttl }
    }
}

/// When the event was last seen to happen; its creation at the earliest.
fn last_seen(event: &Object) -> Option<Timestamp> {
    let value = event.value();
    let time = |value: &Value| value.as_str().and_then(|text| text.parse().ok());
    let named = [&value["lastTimestamp"], &value["eventTime"], &value["series"]["lastObservedTime"]].into_iter().filter_map(time);
    named.chain(event.creation_timestamp).max()
}

impl Controller for EventTtl {
    fn name(&self) -> &'static str {
        "event-ttl-controller"
    }

    fn all(&self, _: &dyn Snapshot) -> Vec<ObjectKey> {
        vec![ObjectKey::new(EVENTS, "", OLD_EVENTS)]
    }

    fn wake(&self, _: &Change, _: &dyn Snapshot, _: &mut Vec<ObjectKey>) {}

    fn decide(&self, _: &ObjectKey, context: &Context<'_>) -> Plan {
        let is_old = |event: &Object| {
            let age = last_seen(event).and_then(|seen| Duration::try_from(context.now.duration_since(seen)).ok());
            age.is_some_and(|age| age >= self.ttl)
        };
        let old = context.view.list(&EVENTS, None).into_iter().filter(|event| is_old(event));
        let actions: Vec<Action> = old.take(REMOVED_AT_ONCE_MAX).map(|event| Action::delete_now(&event)).collect();
        let requeue_after = Some(if actions.len() < REMOVED_AT_ONCE_MAX { LOOK_AGAIN } else { Duration::ZERO });
        Plan { actions, requeue_after, ..Plan::nothing() }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::events::seconds;
    use crate::fake::FakeCluster;

    fn add(cluster: &FakeCluster, name: &str) -> ObjectKey {
        let event = json!({
            "apiVersion": "v1", "kind": "Event", "metadata": {"name": name, "namespace": "default"},
            "involvedObject": {"kind": "Pod", "name": "p", "namespace": "default"}, "reason": "Tested",
            "firstTimestamp": seconds(cluster.now()), "lastTimestamp": seconds(cluster.now()),
        });
        cluster.add(event).key()
    }

    fn run(cluster: &FakeCluster) -> Plan {
        let view = cluster.view();
        let controller = EventTtl::new(Duration::from_secs(3600));
        let key = controller.all(&view).remove(0);
        controller.decide(&key, &Context { view: &view, now: cluster.now(), failure: None })
    }

    #[test]
    fn events_go_an_hour_after_they_last_happened() {
        let cluster = FakeCluster::new();
        add(&cluster, "old");
        let again = add(&cluster, "again");
        cluster.advance(Duration::from_secs(3000));
        let now = seconds(cluster.now());
        cluster.change(&again, |event| event["lastTimestamp"] = now.into());
        assert!(run(&cluster).is_empty());
        cluster.advance(Duration::from_secs(600));
        let plan = run(&cluster);
        assert_eq!(plan.requeue_after, Some(LOOK_AGAIN));
        cluster.apply(plan).unwrap();
        let left: Vec<_> = cluster.list(&EVENTS).into_iter().map(|event| event.name.to_string()).collect();
        assert_eq!(left, ["again"]);
        assert!(run(&cluster).is_empty());
        cluster.advance(Duration::from_secs(3000));
        cluster.apply(run(&cluster)).unwrap();
        assert!(cluster.list(&EVENTS).is_empty());
    }
}
