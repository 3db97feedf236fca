//! Which objects a command means: `TYPE`, `TYPE NAME...`, `TYPE/NAME...`, types with commas, categories, files; with selectors.

use std::sync::Arc;

use anyhow::{anyhow, bail};
use serde_json::Value;
use trierarch_api::Reason;

use super::discovery::{Discovery, Resource, escape};
use super::errors::{self, Plain};
use super::manifest::Loaded;
use super::session::Session;

/// How many objects one page of a list holds.
pub const CHUNK: u32 = 500;

/// How objects are narrowed down.
#[derive(Clone, Debug, Default)]
pub struct Narrow {
    /// `-l`.
    pub labels: Option<String>,
    /// `--field-selector`.
    pub fields: Option<String>,
    /// `-A`.
    pub all_namespaces: bool,
    /// `--all`: a type without a name means every object.
    pub all: bool,
    /// Page size, 0 for one page.
    pub chunk: u32,
}

/// What a word on the command line stands for.
#[derive(Clone, Debug, PartialEq)]
pub enum Wanted {
    /// One object.
    One {
        /// Its resource.
        resource: Arc<Resource>,
        /// Its namespace; `None` for cluster-scoped ones.
        namespace: Option<String>,
        /// Its name.
        name: String,
        /// As a file gives it.
        given: Option<Loaded>,
    },
    /// All objects of a resource, narrowed down.
    All {
        /// Which.
        resource: Arc<Resource>,
        /// Where; `None` for everywhere.
        namespace: Option<String>,
    },
}

/// An object that was read.
#[derive(Clone, Debug)]
pub struct Found {
    /// Its resource.
    pub resource: Arc<Resource>,
    /// Its namespace; `None` for cluster-scoped ones.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
    /// What the server holds.
    pub object: Value,
    /// The file that named it.
    pub source: Option<String>,
}

impl Found {
    /// The address of the object.
    pub fn path(&self) -> String {
        self.resource.path(self.namespace.as_deref(), &self.name)
    }

    /// `deployment.apps/shop`.
    pub fn title(&self) -> String {
        format!("{}/{}", self.resource.kind_name(), self.name)
    }
}

/// What kubectl says when nothing was named.
pub const NOTHING_NAMED: &str = "You must provide one or more resources by argument or filename.\n\
Example resource specifications include:\n   '-f rsrc.yaml'\n   '--filename=rsrc.json'\n   '<resource> <name>'\n   '<resource>'";

/// The objects that arguments mean.
///
/// # Errors
/// In kubectl's words when the arguments make no sense together or a type does not exist.
pub fn arguments(discovery: &Discovery, args: &[String], namespace: &str, narrow: &Narrow) -> anyhow::Result<Vec<Wanted>> {
    let selected = narrow.labels.is_some() || narrow.fields.is_some() || narrow.all;
    let place = |resource: &Resource| (resource.namespaced && !narrow.all_namespaces).then(|| namespace.to_owned());
    let one = |resource: Arc<Resource>, name: &str| -> anyhow::Result<Wanted> {
        if narrow.all_namespaces && resource.namespaced {
            bail!("a resource cannot be retrieved by name across all namespaces");
        }
        Ok(Wanted::One { namespace: place(&resource), resource, name: name.to_owned(), given: None })
    };
    if args.iter().any(|arg| arg.contains('/')) {
        let mut wanted = Vec::new();
        for arg in args {
            let Some((kind, name)) = arg.split_once('/') else {
                bail!(
                    "there is no need to specify a resource type as a separate argument when passing arguments in resource/name form (e.g. 'kubectl get resource/<resource_name>' instead of 'kubectl get resource resource/<resource_name>'"
                );
            };
            if kind.is_empty() || name.is_empty() || name.contains('/') {
                bail!("arguments in resource/name form must have a single resource and name");
            }
            if selected {
                return Err(Plain("error: name cannot be provided when a selector is specified".to_owned()).into());
            }
            wanted.push(one(discovery.resource(kind)?, name)?);
        }
        return Ok(wanted);
    }
    let Some((types, names)) = args.split_first() else { bail!("{NOTHING_NAMED}") };
    let mut resources = Vec::new();
    for word in types.split(',').filter(|word| !word.is_empty()) {
        resources.extend(discovery.category_or_resource(word)?);
    }
    if names.is_empty() {
        return Ok(resources.into_iter().map(|resource| Wanted::All { namespace: place(&resource), resource }).collect());
    }
    if selected {
        bail!("name cannot be provided when a selector is specified");
    }
    let mut wanted = Vec::new();
    for resource in resources {
        for name in names {
            wanted.push(one(Arc::clone(&resource), name)?);
        }
    }
    Ok(wanted)
}

/// The objects of files.
///
/// # Errors
/// When a kind does not exist, or `-n` contradicts an object.
pub fn files(discovery: &Discovery, loaded: Vec<Loaded>, session: &Session) -> anyhow::Result<Vec<Wanted>> {
    let mut wanted = Vec::new();
    let mut failures = Vec::new();
    for mut given in loaded {
        match place_object(discovery, &mut given, &session.namespace, session.namespace_given) {
            Ok((resource, namespace)) => {
                let name = given.object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
                wanted.push(Wanted::One { resource, namespace, name, given: Some(given) });
            }
            Err(error) => failures.push(error),
        }
    }
    errors::aggregate(failures)?;
    Ok(wanted)
}

/// The resource and namespace of an object in a file. The object gets the namespace if it names none.
///
/// # Errors
/// When the kind does not exist, or `-n` contradicts the object.
pub fn place_object(
    discovery: &Discovery,
    given: &mut Loaded,
    namespace: &str,
    namespace_given: bool,
) -> anyhow::Result<(Arc<Resource>, Option<String>)> {
    let text = |field: &str| given.object[field].as_str().unwrap_or_default().to_owned();
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    let meta = |field: &str| given.object["metadata"][field].as_str().unwrap_or_default().to_owned();
    let own = meta("namespace");
    let Some(resource) = discovery.by_kind(&api_version, &kind) else {
        return Err(anyhow!(
            "resource mapping not found for name: {:?} namespace: {own:?} from {:?}: no matches for kind {kind:?} in version {api_version:?}\nensure CRDs are installed first",
            meta("name"),
            given.source
        ));
    };
    if !resource.namespaced {
        return Ok((resource, None));
    }
    if own.is_empty() {
        given.object["metadata"]["namespace"] = Value::String(namespace.to_owned());
        return Ok((resource, Some(namespace.to_owned())));
    }
    if namespace_given && own != namespace {
        bail!(
            "the namespace from the provided object {own:?} does not match the namespace {namespace:?}. You must pass '--namespace={own}' to perform this operation."
        );
    }
    Ok((resource, Some(own)))
}

/// The query of a list.
pub fn query(narrow: &Narrow, limit: u32, token: &str) -> String {
    let mut parts = Vec::new();
    for (name, value) in [("labelSelector", &narrow.labels), ("fieldSelector", &narrow.fields)] {
        if let Some(value) = value.as_deref().filter(|value| !value.is_empty()) {
            parts.push(format!("{name}={}", escape(value)));
        }
    }
    if limit > 0 {
        parts.push(format!("limit={limit}"));
    }
    if !token.is_empty() {
        parts.push(format!("continue={}", escape(token)));
    }
    if parts.is_empty() { String::new() } else { format!("?{}", parts.join("&")) }
}

/// A whole list, page by page, as one list object.
///
/// # Errors
/// When a page cannot be read.
pub async fn list(session: &Session, path: &str, narrow: &Narrow, accept: Option<&str>, more: &str) -> anyhow::Result<Value> {
    let mut whole: Option<Value> = None;
    let mut token = String::new();
    loop {
        let mut address = format!("{path}{}", query(narrow, narrow.chunk, &token));
        if !more.is_empty() {
            address.push(if address.contains('?') { '&' } else { '?' });
            address.push_str(more);
        }
        let request = trierarch_client::Request { accept: accept.map(str::to_owned), ..trierarch_client::Request::get(address) };
        let mut page = match session.json(request).await {
            // the pages grew too old: start again, all at once
            Err(error) if errors::is(&error, Reason::Expired) && !token.is_empty() => {
                let once = Narrow { chunk: 0, ..narrow.clone() };
                return Box::pin(list(session, path, &once, accept, more)).await;
            }
            outcome => outcome?,
        };
        token = page["metadata"]["continue"].as_str().unwrap_or_default().to_owned();
        match &mut whole {
            None => whole = Some(page),
            Some(whole) => {
                for part in ["items", "rows"] {
                    if let (Some(all), Some(new)) = (whole[part].as_array_mut(), page[part].as_array_mut()) {
                        all.append(new);
                    }
                }
            }
        }
        if token.is_empty() {
            return Ok(whole.unwrap_or_default());
        }
    }
}

/// Says what was looked for when a list is refused.
pub fn list_failure(resource: &Resource, narrow: &Narrow, error: anyhow::Error) -> anyhow::Error {
    let mut refused = match error.downcast::<trierarch_client::Error>() {
        Ok(trierarch_client::Error::Api(refused)) => refused,
        Ok(other) => return other.into(),
        Err(other) => return other,
    };
    let title = format!("{}/{}, Resource={}", resource.group, resource.version, resource.plural);
    let (labels, fields) = (narrow.labels.as_deref().unwrap_or_default(), narrow.fields.as_deref().unwrap_or_default());
    if refused.reason == Reason::BadRequest || refused.reason == Reason::NotFound {
        refused.message = if labels.is_empty() && fields.is_empty() {
            format!("Unable to list {title:?}: {}", refused.message)
        } else {
            format!("Unable to find {title:?} that match label selector {labels:?}, field selector {fields:?}: {}", refused.message)
        };
    }
    trierarch_client::Error::Api(refused).into()
}

/// Reads objects. What cannot be read does not keep the rest from being read.
pub async fn fetch(session: &Session, wanted: Vec<Wanted>, narrow: &Narrow) -> (Vec<Found>, Vec<anyhow::Error>) {
    let (mut found, mut failures) = (Vec::new(), Vec::new());
    for one in wanted {
        match one {
            Wanted::One { resource, namespace, name, given } => {
                let source = given.map(|given| given.source);
                match session.get(&resource.path(namespace.as_deref(), &name)).await {
                    Ok(object) => found.push(Found { resource, namespace, name, object, source }),
                    Err(error) => failures.push(error),
                }
            }
            Wanted::All { resource, namespace } => match list(session, &resource.path(namespace.as_deref(), ""), narrow, None, "").await {
                Ok(mut list) => {
                    for object in items_of(&resource, &mut list) {
                        let meta = |field: &str| object["metadata"][field].as_str().map(str::to_owned);
                        found.push(Found {
                            namespace: meta("namespace"),
                            name: meta("name").unwrap_or_default(),
                            resource: Arc::clone(&resource),
                            object,
                            source: None,
                        });
                    }
                }
                Err(error) => failures.push(error),
            },
        }
    }
    (found, failures)
}

/// The items of a list, each with the kind that lists leave out.
pub fn items_of(resource: &Resource, list: &mut Value) -> Vec<Value> {
    let mut items = list["items"].as_array_mut().map(std::mem::take).unwrap_or_default();
    for item in &mut items {
        if item["kind"].is_null()
            && let Some(map) = item.as_object_mut()
        {
            map.insert("apiVersion".to_owned(), Value::String(resource.api_version()));
            map.insert("kind".to_owned(), Value::String(resource.kind.clone()));
        }
    }
    items
}

/// The objects of arguments or files, read.
///
/// # Errors
/// When arguments make no sense.
pub async fn find(
    session: &Session,
    args: &[String],
    files_given: &super::manifest::FileArgs,
    narrow: &Narrow,
) -> anyhow::Result<(Vec<Found>, Vec<anyhow::Error>)> {
    let discovery = session.discovery().await?;
    let mut wanted = if files_given.is_empty() { Vec::new() } else { files(&discovery, files_given.load()?, session)? };
    if !args.is_empty() {
        if !wanted.is_empty() {
            bail!("when paths, URLs, or stdin is provided as input, you may not specify resource arguments as well");
        }
        wanted = arguments(&discovery, args, &session.namespace, narrow)?;
        // verbs that change objects want a name or a selector
        let named = narrow.all || narrow.labels.is_some() || narrow.fields.is_some();
        if !named && wanted.iter().any(|one| matches!(one, Wanted::All { .. })) {
            bail!("resource(s) were provided, but no name was specified");
        }
    } else if files_given.is_empty() {
        bail!("{NOTHING_NAMED}");
    }
    Ok(fetch(session, wanted, narrow).await)
}

#[cfg(test)]
mod tests {
    use super::super::discovery::tests::small;
    use super::*;
    use serde_json::json;

    fn meant(args: &[&str], narrow: &Narrow) -> anyhow::Result<Vec<String>> {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        Ok(arguments(&small(), &args, "shop", narrow)?
            .into_iter()
            .map(|wanted| match wanted {
                Wanted::One { resource, namespace, name, .. } => resource.path(namespace.as_deref(), &name),
                Wanted::All { resource, namespace } => resource.path(namespace.as_deref(), ""),
            })
            .collect())
    }

    #[test]
    fn words_become_addresses() {
        let none = Narrow::default();
        assert_eq!(meant(&["po", "a", "b"], &none).expect("fine"), ["/api/v1/namespaces/shop/pods/a", "/api/v1/namespaces/shop/pods/b"]);
        assert_eq!(
            meant(&["po/a", "deploy/b"], &none).expect("fine"),
            ["/api/v1/namespaces/shop/pods/a", "/apis/apps/v1/namespaces/shop/deployments/b"]
        );
        assert_eq!(meant(&["po,svc"], &none).expect("fine"), ["/api/v1/namespaces/shop/pods", "/api/v1/namespaces/shop/services"]);
        assert_eq!(
            meant(&["all"], &Narrow { all_namespaces: true, ..none.clone() }).expect("fine"),
            ["/api/v1/pods", "/api/v1/services", "/apis/apps/v1/deployments"]
        );
        assert_eq!(meant(&["ns", "x"], &none).expect("fine"), ["/api/v1/namespaces/x"]);
    }

    #[test]
    fn contradictions_are_told() {
        let labels = Narrow { labels: Some("a=b".to_owned()), ..Narrow::default() };
        assert!(
            meant(&["po", "a"], &labels).expect_err("both").to_string().contains("name cannot be provided when a selector is specified")
        );
        assert!(meant(&["po", "po/a"], &Narrow::default()).is_err() && meant(&["po/"], &Narrow::default()).is_err());
        let everywhere = Narrow { all_namespaces: true, ..Narrow::default() };
        assert!(meant(&["po", "a"], &everywhere).expect_err("where").to_string().contains("across all namespaces"));
        assert!(meant(&[], &Narrow::default()).expect_err("nothing").to_string().starts_with("You must provide one or more resources"));
    }

    #[test]
    fn objects_of_files_get_their_namespace() {
        let mut pod = Loaded { object: json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}}), source: "f".to_owned() };
        let (_, namespace) = place_object(&small(), &mut pod, "shop", true).expect("the kind exists");
        assert_eq!((namespace.as_deref(), &pod.object["metadata"]["namespace"]), (Some("shop"), &json!("shop")));
        pod.object["metadata"]["namespace"] = json!("other");
        let error = place_object(&small(), &mut pod, "shop", true).expect_err("they differ").to_string();
        assert!(error.starts_with("the namespace from the provided object \"other\" does not match the namespace \"shop\"."), "{error}");
        pod.object["kind"] = json!("Nope");
        let error = place_object(&small(), &mut pod, "shop", false).expect_err("no such kind").to_string();
        assert!(error.ends_with("no matches for kind \"Nope\" in version \"v1\"\nensure CRDs are installed first"), "{error}");
    }

    #[test]
    fn queries_are_escaped() {
        let narrow = Narrow { labels: Some("a in (b,c)".to_owned()), fields: Some("x=y".to_owned()), ..Narrow::default() };
        assert_eq!(query(&narrow, 5, "t=="), "?labelSelector=a%20in%20%28b%2Cc%29&fieldSelector=x%3Dy&limit=5&continue=t%3D%3D");
        assert_eq!(query(&Narrow::default(), 0, ""), "");
    }
}
