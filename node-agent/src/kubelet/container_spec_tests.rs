//! Cases of container specifications.

use super::*;
use serde_json::{Value, json};

fn build_of(container: Value, pod_spec: Value, image_user: &str) -> Result<ContainerSpec, ConfigError> {
    let mut spec = json!({"containers": []});
    spec.as_object_mut().unwrap().extend(pod_spec.as_object().unwrap().clone());
    let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": spec})).unwrap();
    let container: Container = serde_json::from_value(container).unwrap();
    let image = ImageDefaults {
        entrypoint: vec!["/entry".into()],
        cmd: vec!["cmd".into()],
        env: vec!["PATH=/x".into(), "A=image".into()],
        user: image_user.into(),
        ..ImageDefaults::default()
    };
    build(&Input {
        pod: &pod,
        container: &container,
        id: "id".into(),
        attempt: 0,
        image: &image,
        rootfs: RootfsSpec::directory("/r"),
        env: &[("A".into(), "pod".into())],
        volumes: &BTreeMap::from([("v".into(), PathBuf::from("/vol"))]),
        files: &[(PathBuf::from("/h"), "/etc/hosts".into())],
        processes_of: None,
        node_memory_bytes: 1 << 30,
        seccomp_dir: Path::new("/seccomp"),
        resolve_user: &|user| Ok(User { uid: user.split(':').next().unwrap().parse().unwrap_or(0), gid: 0, additional_gids: vec![] }),
    })
}

fn args(container: Value) -> Vec<String> {
    build_of(container, json!({}), "").unwrap().args
}

#[test]
fn command_and_args_replace_the_images() {
    assert_eq!(args(json!({"name": "c"})), ["/entry", "cmd"]);
    assert_eq!(args(json!({"name": "c", "args": ["x"]})), ["/entry", "x"]);
    assert_eq!(args(json!({"name": "c", "command": ["y"]})), ["y"]);
    assert_eq!(args(json!({"name": "c", "command": ["y"], "args": ["$(A)", "$$(A)"]})), ["y", "pod", "$(A)"]);
}

#[test]
fn the_pods_environment_wins_over_the_images() {
    let env = build_of(json!({"name": "c"}), json!({}), "").unwrap().env;
    assert_eq!(env, ["PATH=/x", "HOSTNAME=p", "A=pod"]);
}

#[test]
fn users_and_groups() {
    let spec = build_of(
        json!({"name": "c", "securityContext": {"runAsUser": 7}}),
        json!({"securityContext": {"runAsUser": 5, "runAsGroup": 6, "fsGroup": 9, "supplementalGroups": [8]}}),
        "",
    )
    .unwrap();
    assert_eq!((spec.user.uid, spec.user.gid, spec.user.additional_gids), (7, 6, vec![6, 8, 9]));
}

#[test]
fn non_root_is_verified() {
    let non_root = |user: &str| {
        build_of(json!({"name": "c", "securityContext": {"runAsNonRoot": true}}), json!({}), user).map(|s| s.user.uid).map_err(|e| e.0)
    };
    assert_eq!(non_root("1000:5"), Ok(1000));
    assert_eq!(non_root("").unwrap_err(), "container has runAsNonRoot and image will run as root (pod: \"p_n(u)\", container: c)");
    assert!(non_root("bob").unwrap_err().contains("non-numeric user (bob)"));
}

#[test]
fn mounts_with_sub_paths() {
    let paths = |mount: Value| build_of(json!({"name": "c", "volumeMounts": [mount]}), json!({}), "").map(|s| s.mounts).map_err(|e| e.0);
    let found = paths(json!({"name": "v", "mountPath": "/a/b/c", "subPathExpr": "x/$(A)", "readOnly": true})).unwrap();
    assert_eq!(found[0].destination, Path::new("/etc/hosts"));
    match &found[1].kind {
        MountKind::Bind { source, subpath, read_only, .. } => {
            assert_eq!((source.as_path(), subpath.as_deref(), *read_only), (Path::new("/vol"), Some(Path::new("x/pod")), ReadOnly::Yes));
        }
        other => panic!("{other:?}"),
    }
    assert!(paths(json!({"name": "v", "mountPath": "/a", "subPathExpr": "$(NOPE)"})).is_err());
    assert!(paths(json!({"name": "v", "mountPath": "/a", "subPath": "/abs"})).is_err());
    assert!(paths(json!({"name": "gone", "mountPath": "/a"})).unwrap_err().starts_with("cannot find volume"));
    assert_eq!(paths(json!({"name": "v", "mountPath": "/etc/hosts"})).unwrap().len(), 1);
}

#[test]
fn security_settings_reach_the_runtime() {
    let spec = build_of(json!({"name": "c", "securityContext": {"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"add": ["NET_ADMIN"], "drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"}, "procMount": "Unmasked"}}), json!({}), "").unwrap();
    assert!(
        spec.no_new_privileges && spec.rootfs.read_only && spec.seccomp == Seccomp::RuntimeDefault && spec.masked_paths == Some(vec![])
    );
    assert_eq!(spec.capabilities, Capabilities::Default { add: vec!["NET_ADMIN".into()], drop: vec!["ALL".into()] });
    assert_eq!((signal_number("SIGUSR1"), signal_number("TERM"), signal_number("9")), (Some(10), Some(15), Some(9)));
}
