//! What an operator does to the store with the program itself, on masters that share nothing: look, save, remove and join, restore, recover.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails here")]

mod support;

use serde_json::{Value, json};
use support::operator::{Operator, fails, succeeds, until_readable, until_voters};
use support::{Master, eventually};
use trierarch_controlplane::identity::{LeafRequest, pki};

fn config_map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "default"}, "data": {"k": "v"}})
}

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_is_saved_lost_and_brought_back() {
    let _installed = rustls::crypto::ring::default_provider().install_default();
    let dir = tempfile::tempdir().unwrap();
    let first = Master::start(dir.path(), "m1", &["--init"]);
    let bundle = eventually("the first master's secrets", async || pki::load_bundle(&first.dir).ok().flatten()).await;
    let token_file = dir.path().join("token");
    std::fs::write(&token_file, bundle.token().unwrap().to_string()).unwrap();
    let token_file = token_file.to_str().unwrap();
    let operator = Operator { dir: dir.path().to_owned(), bundle };
    let client = first.client(&operator.bundle);
    until_readable(&client, "/api/v1/namespaces/default").await;
    let url = first.url();
    let join = ["--join", url.as_str(), "--token-file", token_file];
    let second = Master::start(dir.path(), "m2", &join);
    until_voters(&client, 2).await;
    let third = Master::start(dir.path(), "m3", &join);
    assert_eq!(until_voters(&client, 3).await, [1, 2, 3]);
    let kept: Value = client.create(MAPS, &config_map("kept")).await.unwrap();

    // what each verb shows
    let shown = succeeds(&operator.raft(&second, &["status"]));
    assert_eq!(shown.lines().filter(|line| line.contains("leader") || line.contains("follower")).count(), 3, "{shown}");
    let shown = succeeds(&operator.raft(&second, &["events", "--master", "2"]));
    assert!(shown.contains("voters {1, 2, 3}") && shown.contains("committed"), "{shown}");
    for said in ["Leadership was handed over to member 2.", "Member 2 leads already."] {
        let shown = succeeds(&operator.raft(&second, &["transfer", "2"]));
        assert!(shown.contains(said), "{shown}");
    }
    let refused = fails(&operator.raft(&second, &["campaign", "2"]));
    assert!(refused.contains("this member leads already"), "{refused}");
    succeeds(&operator.raft(&second, &["step-down"]));

    // whoever may look may not save or operate
    let viewer = operator.bundle.cluster.issue(&LeafRequest::client("viewer", None), jiff::Timestamp::now()).unwrap();
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "raft-viewer"},
        "rules": [{"nonResourceURLs": ["/raft/v1/*"], "verbs": ["get"]}]});
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "raft-viewer"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "raft-viewer"},
        "subjects": [{"kind": "User", "name": "viewer", "apiGroup": "rbac.authorization.k8s.io"}]});
    let _role: Value = client.create("/apis/rbac.authorization.k8s.io/v1/clusterroles", &role).await.unwrap();
    let _binding: Value = client.create("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", &binding).await.unwrap();
    let viewer = first.client_of(&operator.bundle, &viewer.certificate_pem, &viewer.key_pem);
    until_readable(&viewer, "/raft/v1/status").await;
    for (method, path, verb) in [(http::Method::GET, "/raft/v1/backup", "backup"), (http::Method::POST, "/raft/v1/campaign", "operate")] {
        let request = trierarch_client::Request { method, path: path.to_owned(), ..trierarch_client::Request::default() };
        let refused = viewer.request(request).await.err().unwrap().to_string();
        assert!(refused.contains(&format!("cannot {verb} path \"{path}\"")), "{refused}");
    }

    // a backup from every member, and what is no backup
    let file = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let saved = succeeds(&operator.raft(&first, &["backup", &file("save"), "--from", "3"]));
    assert!(saved.contains("checksum right") && saved.contains("from member 3"), "{saved}");
    let refused = fails(&operator.raft(&first, &["backup", &file("save")]));
    assert!(refused.contains("exists already"), "{refused}");
    succeeds(&operator.raft(&first, &["backup", "verify", &file("save")]));
    let mut damaged = std::fs::read(file("save")).unwrap();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    std::fs::write(file("damaged"), damaged).unwrap();
    let refused = fails(&operator.raft(&first, &["backup", "verify", &file("damaged")]));
    assert!(refused.contains("is damaged"), "{refused}");
    let _later: Value = client.create(MAPS, &config_map("later")).await.unwrap();

    // a dead master is removed, a removal too many refused, and a new one takes the free place
    let (third_dir, _) = third.kill();
    let refused = fails(&operator.raft(&first, &["remove", "2"]));
    assert!(refused.contains("only 1 of 2 voters would answer, 2 are needed"), "{refused}");
    succeeds(&operator.raft(&first, &["remove", "3"]));
    let fourth = Master::start(dir.path(), "m4", &join);
    assert_eq!(until_voters(&client, 3).await, [1, 2, 4]);

    // a master whose log was wiped does not start under its number
    let (second_dir, second_ports) = second.kill();
    std::fs::remove_dir_all(second_dir.join("store")).unwrap();
    let mut wiped = Master::start_at(&second_dir, second_ports, &join);
    let ended = eventually("it ends", async || wiped.child.try_wait().unwrap()).await;
    assert!(!ended.success());
    let log = std::fs::read_to_string(second_dir.join("log")).unwrap();
    assert!(log.contains("member 2 has taken part in its cluster before, but its log is gone"), "{log}");

    // two of three are lost for good: one goes on with everything
    let (_, first_ports) = first.kill();
    let (fourth_dir, fourth_ports) = fourth.kill();
    let nobody = operator.raft(&wiped, &["recover", "--data-dir", fourth_dir.to_str().unwrap()]);
    let asked = fails(&nobody);
    assert!(asked.contains("will go on alone") && asked.contains("say --yes"), "{asked}");
    let told = succeeds(&operator.raft(&wiped, &["recover", "--data-dir", fourth_dir.to_str().unwrap(), "--yes"]));
    assert!(told.contains("forgets    member 1 (127.0.0.1:") && told.contains("is the only one of its cluster now"), "{told}");
    let alone = Master::start_at(&fourth_dir, fourth_ports, &[]);
    let client = alone.client(&operator.bundle);
    for name in ["kept", "later"] {
        until_readable(&client, &format!("{MAPS}/{name}")).await;
    }
    assert_eq!(until_voters(&client, 1).await, [4]);
    let made: Value = eventually("it takes writes", async || client.create(MAPS, &config_map("recovered")).await.ok()).await;
    let version = |object: &Value| object["metadata"]["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap();
    assert!(version(&made) > 1_000_000_000, "{made}");
    // and new ones join
    let url = alone.url();
    let fifth = Master::start(dir.path(), "m5", &["--join", &url, "--token-file", token_file]);
    assert_eq!(until_voters(&client, 2).await, [4, 5]);
    drop((alone, fifth));

    // everything is lost: a new cluster from the backup
    let restored = dir.path().join("restored");
    let target = restored.to_str().unwrap();
    let refused = fails(&operator.raft(&wiped, &["restore", &file("damaged"), "--data-dir", target, "--token-file", token_file]));
    assert!(refused.contains("is damaged"), "{refused}");
    let refused = fails(&operator.raft(&wiped, &["restore", &file("save"), "--data-dir", target]));
    assert!(refused.contains("give --token-file"), "{refused}");
    let refused =
        fails(&operator.raft(&wiped, &["restore", &file("save"), "--data-dir", third_dir.to_str().unwrap(), "--token-file", token_file]));
    assert!(refused.contains("holds a master already"), "{refused}");
    succeeds(&operator.raft(&wiped, &["restore", &file("save"), "--data-dir", target, "--token-file", token_file]));
    let master = Master::start_at(&restored, first_ports, &[]);
    // the old administrator's certificate is as good as before
    let client = master.client(&operator.bundle);
    let again = until_readable(&client, &format!("{MAPS}/kept")).await;
    assert_eq!((again["metadata"]["uid"].clone(), version(&again)), (kept["metadata"]["uid"].clone(), version(&kept)));
    assert!(client.get::<Value>(&format!("{MAPS}/later")).await.is_err_and(|error| error.is_not_found()));
    let made: Value = eventually("it takes writes", async || client.create(MAPS, &config_map("restored")).await.ok()).await;
    assert!(version(&made) > 1_000_000_000, "{made}");
    let url = master.url();
    let sixth = Master::start(dir.path(), "m6", &["--join", &url, "--token-file", token_file]);
    assert_eq!(until_voters(&client, 2).await.len(), 2);
    drop(sixth);
}
