//! Experiments with elections on real processes: who may begin them, what they do, and that each ends by itself.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails here")]

mod support;

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use support::operator::{Operator, fails, succeeds, until_readable, until_voters};
use support::{Master, eventually};
use trierarch_client::{Client, Request};
use trierarch_controlplane::identity::{LeafRequest, pki};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// Three masters, of which the third takes no experiments.
struct Group {
    masters: [Master; 3],
    operator: Operator,
}

impl Group {
    async fn start(dir: &std::path::Path) -> Self {
        let _installed = rustls::crypto::ring::default_provider().install_default();
        let first = Master::start(dir, "m1", &["--init", "--experiments"]);
        let bundle = eventually("the first master's secrets", async || pki::load_bundle(&first.dir).ok().flatten()).await;
        let token_file = dir.join("token");
        std::fs::write(&token_file, bundle.token().unwrap().to_string()).unwrap();
        let client = first.client(&bundle);
        until_readable(&client, "/api/v1/namespaces/default").await;
        let url = first.url();
        let join = ["--join", &url, "--token-file", token_file.to_str().unwrap()];
        let second = Master::start(dir, "m2", &[join.as_slice(), &["--experiments"]].concat());
        until_voters(&client, 2).await;
        let third = Master::start(dir, "m3", &join);
        assert_eq!(until_voters(&client, 3).await, [1, 2, 3]);
        Self { masters: [first, second, third], operator: Operator { dir: dir.to_owned(), bundle } }
    }

    fn client(&self, id: u64) -> Client {
        self.masters[usize::try_from(id).unwrap() - 1].client(&self.operator.bundle)
    }

    /// What `trierarch raft` says when it succeeds.
    fn raft(&self, line: &str) -> String {
        succeeds(&self.operator.raft(&self.masters[2], &line.split(' ').collect::<Vec<_>>()))
    }

    fn refused(&self, line: &str) -> String {
        fails(&self.operator.raft(&self.masters[2], &line.split(' ').collect::<Vec<_>>()))
    }

    async fn status(&self, id: u64) -> Value {
        until_readable(&self.client(id), "/raft/v1/status").await
    }

    /// Makes member `id` lead.
    async fn let_lead(&self, id: u64) {
        eventually("it leads", async || {
            let leads = self.status(id).await["role"] == "leader";
            (leads || self.operator.raft(&self.masters[2], &["transfer", &id.to_string()]).status.success()).then_some(())
        })
        .await;
    }

    async fn until_no_faults(&self) {
        eventually("all faults are over", async || {
            let shown: Value = serde_json::from_str(&self.raft("fault ls -o json")).unwrap();
            ["1", "2"].iter().all(|id| shown[id]["faults"].as_array().is_some_and(Vec::is_empty)).then_some(())
        })
        .await;
    }
}

fn config_map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "default"}, "data": {"k": "v"}})
}

async fn create_takes(client: &Client, name: &str) -> Duration {
    let begun = tokio::time::Instant::now();
    let _made: Value = client.create(MAPS, &config_map(name)).await.unwrap();
    begun.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn experiments_do_what_they_say_and_end_by_themselves() {
    let dir = tempfile::tempdir().unwrap();
    let group = Group::start(dir.path()).await;

    // off unless the master was started for it, and nonsense is told apart field by field
    let refused = group.refused("fault add pause --master 3 --for 1s");
    assert!(refused.contains("experiments are off on this master: start it with --experiments"), "{refused}");
    let refused = group.refused("fault add drop --master 1 --delay 5ms --probability 2 --for 11m");
    for problem in [
        "Fault \"\" is invalid: [",
        "probability: Invalid value: 2: must be between 0 and 1",
        "delayMs: Forbidden: does not apply to kind \"drop\"",
        "forMs: Invalid value: 660000: must be at most 600000",
    ] {
        assert!(refused.contains(problem), "{problem} not in {refused}");
    }
    let refused = group.refused("timers --master 1 --election-min 90ms --for 10s");
    assert!(refused.contains("electionMinMs: Invalid value: 90: must be greater than heartbeatMs (100)"), "{refused}");
    let refused = group.refused("fault clear 77 --master 1");
    assert!(refused.contains("faults \"77\" not found"), "{refused}");

    // whoever may look may not experiment
    let viewer = group.operator.bundle.cluster.issue(&LeafRequest::client("viewer", None), jiff::Timestamp::now()).unwrap();
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "raft-viewer"},
        "rules": [{"nonResourceURLs": ["/raft/v1/*"], "verbs": ["get"]}]});
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "raft-viewer"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "raft-viewer"},
        "subjects": [{"kind": "User", "name": "viewer", "apiGroup": "rbac.authorization.k8s.io"}]});
    let admin = group.client(1);
    let _role: Value = admin.create("/apis/rbac.authorization.k8s.io/v1/clusterroles", &role).await.unwrap();
    let _binding: Value = admin.create("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", &binding).await.unwrap();
    let viewer = group.masters[0].client_of(&group.operator.bundle, &viewer.certificate_pem, &viewer.key_pem);
    until_readable(&viewer, "/raft/v1/experiments").await;
    let pause = json!({"kind": "pause", "forMs": 1000});
    for (method, path) in [(http::Method::POST, "faults"), (http::Method::DELETE, "faults/1"), (http::Method::PUT, "timers")] {
        let path = format!("/raft/v1/experiments/{path}");
        let refused = viewer.request(Request::json(method, path.clone(), &pause)).await.err().unwrap().to_string();
        assert!(refused.contains(&format!("cannot experiment path \"{path}\"")), "{refused}");
    }

    // a paused leader is replaced, its admin endpoint answers, and it comes back by itself
    group.let_lead(1).await;
    let mut events = group.operator.command(&group.masters[2], &["events", "-f", "-o", "json", "--master", "1"]);
    let mut events = events.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(events.stdout.take().unwrap()).lines();
    let mut next = |wanted: &str| {
        let event = lines.by_ref().map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap());
        event.into_iter().find(|event| event["event"] == wanted).unwrap()
    };
    assert_eq!(next("role")["role"], "leader");
    let said = group.raft("fault add pause --master leader --for 4s");
    assert!(said.contains("1: fault 1 began: pause; it ends by itself in 4.0s"), "{said}");
    let began = next("fault-began");
    assert_eq!((&began["by"], &began["fault"]["kind"], &began["nodeId"]), (&json!("admin"), &json!("pause"), &json!(1)));
    let successor = eventually("another master leads", async || {
        let leader = group.status(2).await["leader"].as_u64();
        leader.filter(|leader| *leader != 1)
    })
    .await;
    let shown = group.raft("fault ls --master 1");
    assert!(shown.contains("pause"), "{shown}");
    let paused = group.status(1).await;
    assert_eq!((&paused["role"], paused["faults"].as_array().map(Vec::len)), (&json!("leader"), Some(1)), "it does not know yet");
    let _made: Value = group.client(successor).create(MAPS, &config_map("meanwhile")).await.unwrap();
    let ended = next("fault-ended");
    assert_eq!(ended["why"], "its time is over");
    assert!(ended["atMs"].as_f64().unwrap() - began["atMs"].as_f64().unwrap() >= 4000.0, "{began} {ended}");
    until_readable(&group.client(1), &format!("{MAPS}/meanwhile")).await;
    assert_ne!(next("leader")["leader"], json!(1));
    events.kill().unwrap();
    events.wait().unwrap();
    let log = std::fs::read_to_string(group.masters[0].dir.join("log")).unwrap();
    assert!(log.lines().any(|line| line.contains("An experiment began") && line.contains("admin")), "{log}");

    // one way: the second hears nothing of the first, which hears the second
    group.let_lead(1).await;
    group.raft("fault add drop --master 1 --peer 2 --direction out --for 4s");
    eventually("it is deaf", async || {
        let deaf = group.status(2).await;
        (deaf["heard_ms"].as_u64()? > 1500).then_some(())
    })
    .await;
    let said = group.raft("status");
    assert!(said.contains("1: experiment: drop to member 2; ends in"), "{said}");
    group.until_no_faults().await;
    eventually("it hears again", async || (group.status(2).await["heard_ms"].as_u64()? < 500).then_some(())).await;

    // slow disks: of any two that agree one is slow
    let (first, third) = (group.client(1), group.client(3));
    group.raft("fault add slow-sync --master 1 --master 2 --delay 400ms --for 1m");
    let slow = create_takes(&third, "slow").await;
    assert!(slow >= Duration::from_millis(400), "{slow:?}");
    let said = group.raft("fault clear 3 --master 1");
    assert!(said.contains("1: 1 fault ended"), "{said}");
    let refused = group.refused("fault clear");
    assert!(
        refused.contains("1: 0 faults ended") && refused.contains("2: 1 fault ended") && refused.contains("off on this master"),
        "{refused}"
    );
    until_readable(&first, &format!("{MAPS}/slow")).await;

    // timers
    let said = group.raft("timers --master 2 --heartbeat 200ms --election-min 600ms --election-max 1200ms --for 3s");
    assert!(said.contains("200ms") && said.contains("1.2s"), "{said}");
    let shown = || serde_json::from_str::<Value>(&group.raft("timers --master 2 -o json")).unwrap();
    assert_eq!(shown()["2"]["electionMaxMs"], 1200);
    let _made: Value = eventually("it takes writes", async || group.client(2).create(MAPS, &config_map("timers")).await.ok()).await;
    let back = eventually("the configured timers are back", async || {
        let shown = shown();
        (shown["2"]["electionMaxMs"] == 300).then_some(shown)
    })
    .await;
    assert_eq!(back["2"], json!({"heartbeatMs": 100, "electionMinMs": 150, "electionMaxMs": 300, "preVote": true}));
    until_readable(&group.client(2), &format!("{MAPS}/timers")).await;
}
