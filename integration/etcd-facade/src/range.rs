//! What a range request answers: filter, order, cut. Pure.

use crate::messages::kv::{KeyValue, RangeRequest, RangeResponse, SortOrder, SortTarget};

/// The answer without its header; `found` are all keys of the range in key order.
pub fn answer(request: &RangeRequest, mut found: Vec<KeyValue>) -> RangeResponse {
    let count = i64::try_from(found.len()).unwrap_or(i64::MAX);
    if request.count_only {
        return RangeResponse { count, ..RangeResponse::default() };
    }
    found.retain(|kv| {
        within(kv.mod_revision, request.min_mod_revision, request.max_mod_revision)
            && within(kv.create_revision, request.min_create_revision, request.max_create_revision)
    });
    order(request, &mut found);
    let limit = if request.limit > 0 { usize::try_from(request.limit).unwrap_or(usize::MAX) } else { usize::MAX };
    let more = found.len() > limit;
    found.truncate(limit);
    if request.keys_only {
        found.iter_mut().for_each(|kv| kv.value.clear());
    }
    RangeResponse { header: None, kvs: found, more, count }
}

/// A bound of 0 is none.
fn within(revision: i64, least: i64, most: i64) -> bool {
    (least == 0 || revision >= least) && (most == 0 || revision <= most)
}

fn order(request: &RangeRequest, found: &mut [KeyValue]) {
    let target = request.sort_target();
    let order = request.sort_order();
    // keys come in order; another target without an order means ascending
    if order == SortOrder::None && target == SortTarget::Key {
        return;
    }
    found.sort_by(|left, right| {
        let compared = match target {
            SortTarget::Key => left.key.cmp(&right.key),
            SortTarget::Version => left.version.cmp(&right.version),
            SortTarget::Create => left.create_revision.cmp(&right.create_revision),
            SortTarget::Mod => left.mod_revision.cmp(&right.mod_revision),
            SortTarget::Value => left.value.cmp(&right.value),
        };
        if order == SortOrder::Descend { compared.reverse() } else { compared }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found() -> Vec<KeyValue> {
        [("a", 5, 1), ("b", 3, 3), ("c", 9, 2)]
            .map(|(key, mod_revision, version)| KeyValue {
                key: key.into(),
                mod_revision,
                version,
                value: "v".into(),
                ..KeyValue::default()
            })
            .to_vec()
    }

    fn check(request: RangeRequest, expected: &[&str], more: bool) {
        let response = answer(&request, found());
        let keys: Vec<&str> = response.kvs.iter().map(|kv| std::str::from_utf8(&kv.key).unwrap()).collect();
        assert_eq!((keys.as_slice(), response.more, response.count), (expected, more, 3));
    }

    #[test]
    fn ranges_are_filtered_ordered_and_cut() {
        let plain = RangeRequest::default;
        check(plain(), &["a", "b", "c"], false);
        check(RangeRequest { limit: 2, ..plain() }, &["a", "b"], true);
        check(RangeRequest { sort_order: SortOrder::Descend.into(), ..plain() }, &["c", "b", "a"], false);
        check(RangeRequest { sort_target: SortTarget::Mod.into(), limit: 1, ..plain() }, &["b"], true);
        check(RangeRequest { min_mod_revision: 4, max_mod_revision: 8, ..plain() }, &["a"], false);
        check(RangeRequest { count_only: true, ..plain() }, &[], false);
        let keys_only = answer(&RangeRequest { keys_only: true, ..plain() }, found());
        assert!(keys_only.kvs.iter().all(|kv| kv.value.is_empty()));
    }
}
