//! The walks over values.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::merge::field_set::{FieldSet, path_text};
use crate::schema::named;

fn texts(set: &FieldSet) -> Vec<String> {
    set.paths().iter().map(|path| path_text(path)).collect()
}

#[test]
fn lists_keep_their_order_and_take_the_configurations() {
    let schema = named("core.v1.PodSpec").unwrap();
    let check = |live: &str, config: &str, expected: &str| {
        let spec = |names: &str| json!({"containers": names.chars().map(|name| json!({"name": name.to_string()})).collect::<Vec<_>>()});
        let merged = merge(Shape::of(&schema), &spec(live), &spec(config));
        let names: String =
            merged["containers"].as_array().into_iter().flatten().map(|item| item["name"].as_str().unwrap_or_default()).collect();
        assert_eq!(names, expected, "{live} + {config}");
    };
    // the cases are those of structured-merge-diff's description of its order
    check("abc", "", "abc");
    check("abc", "d", "abcd");
    check("abc", "b", "abc");
    check("abc", "cb", "acb");
    check("abc", "ca", "bca");
    check("acb", "abc", "abc");
    check("ab", "cab", "cab");
    check("", "ab", "ab");
}

#[test]
fn an_empty_thing_and_none_are_told_apart() {
    let schema = named("core.v1.PodSpec").unwrap();
    let shape = Shape::of(&schema);
    let with = json!({"securityContext": {}, "nodeName": "n"});
    assert_eq!(texts(&fields_of(shape, &with)), [".nodeName", ".securityContext"]);
    let changed = compare(shape, &json!({}), &with);
    assert_eq!(texts(&changed.added), [".nodeName", ".securityContext"]);
    let changed = compare(shape, &json!({"containers": null}), &json!({"containers": [{"name": "c", "image": "i"}]}));
    assert_eq!(
        texts(&changed.added),
        [".containers[name=\"c\"]", ".containers[name=\"c\"].image", ".containers[name=\"c\"].name"],
        "the list itself was there"
    );
}

#[test]
fn items_of_one_name_are_one_leaf() {
    let schema = named("core.v1.Container").unwrap();
    let shape = Shape::of(&schema);
    let env = |values: &[&str]| json!({"env": values.iter().map(|value| json!({"name": "A", "value": value})).collect::<Vec<_>>()});
    assert!(compare(shape, &env(&["1", "2"]), &env(&["1", "2"])).is_empty());
    assert_eq!(texts(&compare(shape, &env(&["1", "2"]), &env(&["1", "3"])).modified), [".env[name=\"A\"]"]);
    let less = compare(shape, &env(&["1", "2"]), &env(&["1"]));
    assert_eq!((texts(&less.removed).len(), less.added.is_empty()), (1, false));
    assert_eq!(texts(&fields_of(shape, &env(&["1", "2"]))), [".env[name=\"A\"]"]);
}

fn any_container() -> impl Strategy<Value = Value> {
    let env = prop::collection::btree_map("[A-C]", "[x-y]", 0..3)
        .prop_map(|env| env.into_iter().map(|(name, value)| json!({"name": name, "value": value})).collect::<Vec<_>>());
    let ports = prop::collection::btree_set(1_i64..4, 0..3)
        .prop_map(|ports| ports.into_iter().map(|port| json!({"containerPort": port})).collect::<Vec<_>>());
    (env, ports, prop::option::of("[i-j]"), prop::collection::vec("[p-q]", 0..3)).prop_map(|(env, ports, image, command)| {
        let mut container = json!({"name": "c"});
        for (name, value) in [("env", json!(env)), ("ports", json!(ports)), ("command", json!(command))] {
            if value.as_array().is_some_and(|list| !list.is_empty()) {
                container[name] = value;
            }
        }
        if let Some(image) = image {
            container["image"] = image.into();
        }
        container
    })
}

proptest! {
    #[test]
    fn a_merge_holds_the_configuration(live in any_container(), config in any_container()) {
        let schema = named("core.v1.Container").unwrap();
        let shape = Shape::of(&schema);
        let merged = merge(shape, &live, &config);
        // what the configuration states is so, and nothing of the other is gone
        prop_assert!(compare(shape, &merged, &merge(shape, &merged, &config)).is_empty());
        let all = fields_of(shape, &merged);
        for path in fields_of(shape, &config).paths().iter().chain(&fields_of(shape, &live).paths()) {
            prop_assert!(all.contains(path), "{}", path_text(path));
        }
        prop_assert!(compare(shape, &live, &merged).removed.is_empty());
    }

    #[test]
    fn a_comparison_tells_what_came_and_went(old in any_container(), new in any_container()) {
        let schema = named("core.v1.Container").unwrap();
        let shape = Shape::of(&schema);
        let changed = compare(shape, &old, &new);
        let back = compare(shape, &new, &old);
        prop_assert_eq!(&changed.added, &back.removed);
        prop_assert_eq!(&changed.modified, &back.modified);
        prop_assert_eq!(changed.is_empty(), same(&old, &new));
        // without what came, nothing came
        let without = remove(shape, &new, &changed.added);
        prop_assert!(compare(shape, &old, &without).added.is_empty());
    }
}
