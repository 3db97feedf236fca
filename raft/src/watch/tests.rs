//! Routes and rings; the whole watch is tested with the store.

use std::sync::OnceLock;

use bytes::Bytes;

use super::*;

fn event(key: &str, revision: Revision) -> Arc<Event> {
    let record = Record {
        key: Bytes::from(key.to_owned()),
        value: Bytes::from("v"),
        split: 0,
        terms: Vec::new(),
        revision,
        create_revision: revision,
        parsed: OnceLock::new(),
    };
    Arc::new(Event { kind: EventKind::Put, revision, record: Arc::new(record), previous: None, encoded: Mutex::default() })
}

fn revisions(read: RingRead) -> Option<Vec<Revision>> {
    match read {
        RingRead::Events(events) => Some(events.iter().map(|event| event.revision).collect()),
        RingRead::Nothing => Some(Vec::new()),
        RingRead::Behind { .. } => None,
    }
}

#[test]
fn a_change_reaches_exactly_the_routes_above_it() {
    for (prefix, route) in [
        ("", ""),
        ("apps/", ""),
        ("apps/deployments", ""),
        ("apps/deployments/", "apps/deployments/"),
        ("apps/deployments/ns", "apps/deployments/"),
        ("apps/deployments/ns/", "apps/deployments/ns/"),
        ("apps/deployments/ns/name", "apps/deployments/ns/"),
        ("/pods/", "/pods/"),
    ] {
        assert_eq!(route_of_prefix(prefix.as_bytes()), route.as_bytes(), "{prefix:?}");
        // whatever starts with the prefix is published on the route
        let key = [prefix.as_bytes(), b"x/y/z/w"].concat();
        assert!(routes_of_key(&key).any(|name| name == route.as_bytes()), "{prefix:?}");
    }
}

#[test]
fn watchers_of_other_prefixes_are_neither_fed_nor_woken() {
    let hub = Hub::new(0);
    let (pods, secrets) = (hub.join(b"/pods/"), hub.join(b"/secrets/"));
    let woken = secrets.notify.notified();
    let mut woken = std::pin::pin!(woken);
    assert!(!woken.as_mut().enable());
    hub.publish(&[event("/pods/ns/a", 1)], 1);
    assert_eq!(revisions(pods.read(b"/pods/", 0, 1)), Some(vec![1]));
    assert!(secrets.ring.lock().events.is_empty());
    assert!(futures::FutureExt::now_or_never(woken).is_none(), "nothing happened to secrets");
}

#[test]
fn a_transaction_is_seen_whole_or_not_yet() {
    let hub = Hub::new(0);
    let route = hub.join(b"");
    route.ring.lock().push(event("a", 1));
    // the rest of revision 1 is still to come
    assert_eq!(revisions(route.read(b"", 0, hub.published())), Some(Vec::new()));
    hub.publish(&[event("b", 1)], 1);
    assert_eq!(revisions(route.read(b"", 0, hub.published())), Some(vec![1, 1]));
}

#[test]
fn whoever_is_behind_the_ring_is_told_so() {
    let hub = Hub::new(0);
    let route = hub.join(b"");
    for revision in 1..=RING_EVENTS_MAX as u64 + 10 {
        hub.publish(&[event("a", revision)], revision);
    }
    let published = hub.published();
    assert!(matches!(route.read(b"", 9, published), RingRead::Behind { floor: 10 }));
    assert_eq!(revisions(route.read(b"", published - 2, published)), Some(vec![published - 1, published]));
    // a transaction that loses its first event loses all of them
    let last = published + 1;
    let large: Vec<_> = (0..RING_EVENTS_MAX + 5).map(|_| event("a", last)).collect();
    hub.publish(&large, last);
    assert!(matches!(route.read(b"", published, last), RingRead::Behind { floor } if floor == last));
    assert_eq!(revisions(route.read(b"", last, last)), Some(Vec::new()));
    hub.publish(&[event("a", last + 1)], last + 1);
    assert_eq!(revisions(route.read(b"", last, last + 1)), Some(vec![last + 1]));
}

#[test]
fn a_route_lives_as_long_as_somebody_watches() {
    let hub = Hub::new(5);
    drop(hub.join(b"/pods/"));
    let kept = hub.join(b"/secrets/");
    assert_eq!(hub.routes.read().len(), 1);
    // a later start knows that it has not seen what came before
    assert!(matches!(kept.read(b"/secrets/", 4, 5), RingRead::Behind { floor: 5 }));
}
