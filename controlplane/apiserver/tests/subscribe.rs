//! What the parts of the leading master hear of changes.

mod support;

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use trierarch_api::GroupResource;
use trierarch_apiserver::local::Heard;
use trierarch_apiserver::{Local, User};

use support::Standalone;

#[actix_rt::test]
async fn a_change_that_comes_before_the_subscription_has_had_a_turn_is_heard() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let server = Standalone::start(dir.path(), 0).await;
    let local = Local::new(Arc::clone(server.handle.api()), User::system("system:test"));
    let mut changes = local.subscribe(16);
    // this thread, which would run the subscription's task, waits until the change is committed
    let writer = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let object = json!({"metadata": {"name": "early"}});
        runtime.block_on(local.create(&GroupResource::new("", "configmaps"), "default", object)).expect("created")
    });
    let created = writer.join().expect("the writer ends");
    let heard = tokio::time::timeout(Duration::from_secs(20), changes.recv()).await.expect("heard in time");
    let Some(Heard::Changed(change)) = heard else { panic!("it hears of the change") };
    assert_eq!((change.revision, change.new.as_ref().map(|object| object.name.as_str())), (created.resource_version, Some("early")));
    server.stop().await;
}
