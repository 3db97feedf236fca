//! Lists: tags, repositories, referrers. Spec: distribution-spec, "Content Discovery".

use std::collections::BTreeSet;

use http::header::{HeaderName, LINK};
use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::response::{Refusal, full, json as json_response, set};
use super::route::{Query, Repository};
use super::{Body, Registry, RegistryConfig, blocking};
use crate::image::media_type_of;

const FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");
/// Page size where the client asks for none.
const PAGE_MAX: usize = 10_000;

impl Registry {
    pub(super) async fn tags(&self, repository: &Repository, query: &Query) -> Result<Response<Body>, Refusal> {
        let store = self.store.clone();
        let wanted = repository.full();
        let (known, tags) = blocking(move || {
            let records: Vec<_> = store.names()?.into_iter().filter(|record| record.name.repository() == wanted).collect();
            let tags: BTreeSet<String> = records.iter().filter_map(|record| record.name.tag().map(str::to_owned)).collect();
            Ok((!records.is_empty(), tags))
        })
        .await?;
        if !known {
            return Err(Refusal::new(
                StatusCode::NOT_FOUND,
                "NAME_UNKNOWN",
                format!("repository {} not known to registry", repository.full()),
            ));
        }
        let (tags, next) = page(tags, query)?;
        let mut response = json_response(StatusCode::OK, &json!({ "name": repository.spelled, "tags": tags }));
        if let Some((count, last)) = next {
            let base = repository.location("tags/list");
            let joint = if base.contains('?') { '&' } else { '?' };
            set(&mut response, LINK, &format!("<{base}{joint}n={count}&last={last}>; rel=\"next\""));
        }
        Ok(response)
    }

    pub(super) async fn catalog(&self, query: &Query) -> Result<Response<Body>, Refusal> {
        let store = self.store.clone();
        let config = self.config.clone();
        let namespace = query.get("ns").map(str::to_owned);
        let names: BTreeSet<String> = blocking(move || {
            Ok(store
                .names()?
                .iter()
                .filter_map(|record| shown(record.name.host(), record.name.path(), namespace.as_deref(), &config))
                .collect())
        })
        .await?;
        let (names, next) = page(names, query)?;
        let mut response = json_response(StatusCode::OK, &json!({ "repositories": names }));
        if let Some((count, last)) = next {
            set(&mut response, LINK, &format!("</v2/_catalog?n={count}&last={last}>; rel=\"next\""));
        }
        Ok(response)
    }

    pub(super) async fn referrers(&self, text: &str, query: &Query) -> Result<Response<Body>, Refusal> {
        let digest = super::route::digest(text).ok_or_else(|| Refusal::digest_invalid(text))?;
        let wanted = query.get("artifactType").map(str::to_owned);
        let filtered = wanted.is_some();
        let store = self.store.clone();
        let manifests = blocking(move || {
            let mut manifests = Vec::new();
            for referrer in store.referrers(&digest)? {
                let bytes = store.read_blob(&referrer)?;
                let manifest: Value = serde_json::from_slice(&bytes).unwrap_or_default();
                let kind = manifest.get("artifactType").or_else(|| manifest.pointer("/config/mediaType")).cloned().unwrap_or_default();
                if wanted.as_deref().is_some_and(|wanted| kind != wanted) {
                    continue;
                }
                let mut descriptor = json!({
                    "mediaType": media_type_of(&bytes, &referrer)?, "digest": referrer, "size": bytes.len(), "artifactType": kind,
                });
                if let Some(annotations) = manifest.get("annotations") {
                    descriptor["annotations"] = annotations.clone();
                }
                manifests.push(descriptor);
            }
            Ok(manifests)
        })
        .await?;
        let media_type = "application/vnd.oci.image.index.v1+json";
        let index = json!({ "schemaVersion": 2, "mediaType": media_type, "manifests": manifests });
        let mut response = full(StatusCode::OK, media_type, index.to_string().into());
        if filtered {
            set(&mut response, FILTERS_APPLIED, "artifactType");
        }
        Ok(response)
    }
}

/// How a repository is spelled in a catalogue so that its path can be asked for.
fn shown(host: &str, path: &str, namespace: Option<&str>, config: &RegistryConfig) -> Option<String> {
    match namespace {
        Some(namespace) => (namespace == host).then(|| path.to_owned()),
        None if host == config.own_host => Some(path.to_owned()),
        None => Some(format!("{host}/{path}")),
    }
}

/// How to ask for what a page left out: how many, and after which name.
type Rest = Option<(usize, String)>;

/// The names after `last`, at most `n`, and how to ask for the rest.
fn page(names: BTreeSet<String>, query: &Query) -> Result<(Vec<String>, Rest), Refusal> {
    let count = match query.get("n") {
        None => PAGE_MAX,
        Some(text) => text.parse::<usize>().map_err(|_not_a_number| {
            Refusal::new(StatusCode::BAD_REQUEST, "PAGINATION_NUMBER_INVALID", format!("{text:?} is not a number"))
        })?,
    };
    let last = query.get("last").unwrap_or("");
    let mut rest: Vec<String> = names.into_iter().filter(|name| name.as_str() > last).collect();
    let more = rest.len() > count;
    rest.truncate(count);
    let next = rest.last().filter(|_| more).map(|last| (count, last.clone()));
    Ok((rest, next))
}
