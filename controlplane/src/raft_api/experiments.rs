//! `/raft/v1/experiments`: faults and timers of this member, for whoever studies elections. Off unless the master was started with
//! `--experiments`; everything ends by itself, and the store logs and tells who began it.

use actix_web::{HttpRequest, HttpResponse, web};
use bytes::Bytes;
use serde::de::DeserializeOwned;
use trierarch_api::kind::GroupResource;
use trierarch_api::status::Cause;
use trierarch_api::{ApiError, Reason};
use trierarch_apiserver::routes;
use trierarch_raft::experiment::{ExperimentError, Problem};

use super::{RaftApi, caller};

/// Adds the routes.
pub(super) fn mount(config: &mut web::ServiceConfig) {
    config.service(
        web::scope("/experiments")
            .route("", web::get().to(show))
            .route("/faults", web::post().to(begin))
            .route("/faults", web::delete().to(end_all))
            .route("/faults/{id}", web::delete().to(end))
            .route("/timers", web::put().to(change_timers)),
    );
}

async fn show(api: web::Data<RaftApi>) -> HttpResponse {
    match enabled(&api) {
        Ok(()) => HttpResponse::Ok().json(api.store.experiments()),
        Err(refusal) => routes::refuse(&refusal),
    }
}

async fn begin(request: HttpRequest, api: web::Data<RaftApi>, body: Bytes) -> HttpResponse {
    let fault = match enabled(&api).and_then(|()| parse(&body)) {
        Ok(fault) => fault,
        Err(refusal) => return routes::refuse(&refusal),
    };
    match api.store.begin_fault(fault, &caller(&request)).await {
        Ok(fault) => HttpResponse::Created().json(fault),
        Err(error) => refused("Fault", &error),
    }
}

async fn end_all(request: HttpRequest, api: web::Data<RaftApi>) -> HttpResponse {
    match enabled(&api) {
        Ok(()) => HttpResponse::Ok().json(serde_json::json!({"faults": api.store.end_faults(&caller(&request))})),
        Err(refusal) => routes::refuse(&refusal),
    }
}

async fn end(request: HttpRequest, api: web::Data<RaftApi>, id: web::Path<String>) -> HttpResponse {
    if let Err(refusal) = enabled(&api) {
        return routes::refuse(&refusal);
    }
    let Ok(number) = id.parse() else { return routes::refuse(&no_fault(&id)) };
    match api.store.end_fault(number, &caller(&request)) {
        Ok(fault) => HttpResponse::Ok().json(fault),
        Err(error) => refused("Fault", &error),
    }
}

async fn change_timers(request: HttpRequest, api: web::Data<RaftApi>, body: Bytes) -> HttpResponse {
    let change = match enabled(&api).and_then(|()| parse(&body)) {
        Ok(change) => change,
        Err(refusal) => return routes::refuse(&refusal),
    };
    match api.store.change_timers(change, &caller(&request)).await {
        Ok(timers) => HttpResponse::Ok().json(timers),
        Err(error) => refused("Timers", &error),
    }
}

fn enabled(api: &RaftApi) -> Result<(), ApiError> {
    let how =
        "experiments are off on this master: start it with --experiments (trierarch up --experiments, trierarch server --experiments)";
    if api.experiments { Ok(()) } else { Err(ApiError::new(Reason::Forbidden, how)) }
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    serde_json::from_slice(body).map_err(|error| ApiError::bad_request(format!("error decoding the request body: {error}")))
}

fn no_fault(id: &str) -> ApiError {
    ApiError::not_found(&GroupResource::new("", "faults"), id)
}

fn refused(kind: &str, error: &ExperimentError) -> HttpResponse {
    match error {
        ExperimentError::Invalid(problems) => routes::refuse(&invalid(kind, problems)),
        ExperimentError::NotFound(id) => routes::refuse(&no_fault(&id.to_string())),
        ExperimentError::TooMany => routes::refuse(&ApiError::new(Reason::TooManyRequests, error.to_string())),
        ExperimentError::Store(error) => super::refused(error),
    }
}

/// 422 with every problem and its field.
fn invalid(kind: &str, problems: &[Problem]) -> ApiError {
    let summary = match problems {
        [only] => only.to_string(),
        many => format!("[{}]", many.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
    };
    let cause = |problem: &Problem| {
        let (reason, field) = match problem {
            Problem::Required { field, .. } => ("FieldValueRequired", field),
            Problem::Invalid { field, .. } => ("FieldValueInvalid", field),
            Problem::Forbidden { field, .. } => ("FieldValueForbidden", field),
        };
        let message = problem.to_string();
        let message = message.strip_prefix(&format!("{field}: ")).unwrap_or(&message).to_owned();
        Cause { reason: reason.to_owned(), message, field: (*field).to_owned() }
    };
    ApiError {
        kind: kind.to_owned(),
        causes: problems.iter().map(cause).collect(),
        ..ApiError::new(Reason::Invalid, format!("{kind} \"\" is invalid: {summary}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_every_field() {
        let problems = [
            Problem::Required { field: "forMs", why: "an experiment ends by itself".into() },
            Problem::Invalid { field: "probability", value: "2".into(), why: "must be between 0 and 1".into() },
        ];
        let status = invalid("Fault", &problems).to_status();
        assert_eq!(
            status["message"],
            "Fault \"\" is invalid: [forMs: Required value: an experiment ends by itself, probability: Invalid value: 2: must be between 0 and 1]"
        );
        assert_eq!(status["code"], 422);
        assert_eq!(
            status["details"]["causes"][0],
            serde_json::json!({"reason": "FieldValueRequired", "message": "Required value: an experiment ends by itself", "field": "forMs"})
        );
    }
}
