//! `/livez`, `/readyz` and `/healthz`: is this process alive, and can it serve?

use std::time::Duration;

use trierarch_api::ApiError;

use crate::apiserver::ApiServer;
use crate::dispatch::Answer;
use crate::request::Options;

/// How long a quorum is waited for.
const PATIENCE: Duration = Duration::from_secs(1);

/// The checks of an endpoint, in order.
fn checks(which: &str) -> &'static [&'static str] {
    match which {
        "/livez" => &["ping", "log"],
        "/readyz" => &["ping", "log", "store", "shutdown"],
        _ => &["ping", "log", "store"],
    }
}

async fn check(server: &ApiServer, name: &str) -> Result<(), String> {
    match name {
        "store" => server.store.ready(PATIENCE).await.map_err(|error| error.to_string()),
        "shutdown" if server.stopping.is_cancelled() => Err("the server is shutting down".to_owned()),
        _ => Ok(()),
    }
}

/// All checks of an endpoint; `?verbose` lists them, `?exclude=NAME` leaves one out.
pub(crate) async fn all(server: &ApiServer, which: &str, options: &Options) -> Answer {
    let excluded = options.all("exclude");
    let mut text = String::new();
    let mut failed = false;
    for name in checks(which) {
        if excluded.contains(name) {
            text.push_str(&format!("[+]{name} excluded: ok\n"));
            continue;
        }
        match check(server, name).await {
            Ok(()) => text.push_str(&format!("[+]{name} ok\n")),
            Err(why) => {
                failed = true;
                text.push_str(&format!("[-]{name} failed: {why}\n"));
            }
        }
    }
    let name = which.trim_start_matches('/');
    if failed {
        Answer::text(503, format!("{text}{name} check failed\n"))
    } else if options.get("verbose").is_some() {
        Answer::text(200, format!("{text}{name} check passed\n"))
    } else {
        Answer::text(200, "ok")
    }
}

/// One check.
pub(crate) async fn one(server: &ApiServer, which: &str, name: &str) -> Result<Answer, ApiError> {
    if !checks(which).contains(&name) {
        return Err(ApiError::no_such_path());
    }
    Ok(match check(server, name).await {
        Ok(()) => Answer::text(200, "ok"),
        Err(why) => Answer::text(503, format!("internal server error: {why}\n")),
    })
}
