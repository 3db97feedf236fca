//! What the server has: groups, versions, resources, and which of them a name on the command line means.
//!
//! `Spec:` aggregated discovery (`apidiscovery.k8s.io/v2`), with the older documents as the way out.

use std::sync::Arc;

use serde_json::Value;
use trierarch_client::Request;

use super::errors::NoResource;
use super::print::name;
use super::session::Session;

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";

/// One resource of one version.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resource {
    /// Empty for the core group.
    pub group: String,
    /// Such as `v1`.
    pub version: String,
    /// Such as `Pod`.
    pub kind: String,
    /// Such as `pods`.
    pub plural: String,
    /// Such as `pod`.
    pub singular: String,
    /// Such as `po`.
    pub short_names: Vec<String>,
    /// Such as `all`.
    pub categories: Vec<String>,
    /// What may be done.
    pub verbs: Vec<String>,
    /// `status`, `scale`, `log`, ...
    pub subresources: Vec<String>,
    /// Whether its objects live in namespaces.
    pub namespaced: bool,
}

impl Resource {
    /// `v1`, `apps/v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }

    /// `pod`, `deployment.apps`: before a name in what verbs print.
    pub fn kind_name(&self) -> String {
        name::kind(&self.api_version(), &self.kind)
    }

    /// `pods`, `deployments.apps`: as errors call it.
    pub fn group_resource(&self) -> String {
        if self.group.is_empty() { self.plural.clone() } else { format!("{}.{}", self.plural, self.group) }
    }

    /// Whether a verb may be used.
    pub fn allows(&self, verb: &str) -> bool {
        self.verbs.iter().any(|own| own == verb)
    }

    /// The address of the collection (`name` empty) or of an object.
    pub fn path(&self, namespace: Option<&str>, name: &str) -> String {
        let mut path =
            if self.group.is_empty() { format!("/api/{}", self.version) } else { format!("/apis/{}/{}", self.group, self.version) };
        if self.namespaced
            && let Some(namespace) = namespace
        {
            path.push_str("/namespaces/");
            path.push_str(&escape(namespace));
        }
        path.push('/');
        path.push_str(&self.plural);
        if !name.is_empty() {
            path.push('/');
            path.push_str(&escape(name));
        }
        path
    }
}

/// A part of an address.
pub fn escape(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// Everything that a server has.
#[derive(Debug, Default)]
pub struct Discovery {
    /// In the order of the server: groups by preference, preferred versions first.
    pub resources: Vec<Arc<Resource>>,
    /// `apps/v1`, `v1`: every version of every group.
    pub versions: Vec<String>,
}

impl Discovery {
    /// Asks the server.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn fetch(session: &Session) -> anyhow::Result<Self> {
        let ask = |path: &str| Request { accept: Some(AGGREGATED.to_owned()), ..Request::get(path) };
        let (core, groups) = futures::try_join!(session.json(ask("/api")), session.json(ask("/apis")))?;
        let mut found = Self::default();
        for document in [&core, &groups] {
            if document["kind"] == "APIGroupDiscoveryList" {
                found.aggregated(document);
            } else {
                found.plain(session, document).await?;
            }
        }
        Ok(found)
    }

    fn aggregated(&mut self, document: &Value) {
        for group in document["items"].as_array().into_iter().flatten() {
            let group_name = text(&group["metadata"]["name"]);
            for version in group["versions"].as_array().into_iter().flatten() {
                let version_name = text(&version["version"]);
                self.versions.push(join(&group_name, &version_name));
                for entry in version["resources"].as_array().into_iter().flatten() {
                    self.resources.push(Arc::new(Resource {
                        group: group_name.clone(),
                        version: version_name.clone(),
                        kind: text(&entry["responseKind"]["kind"]),
                        plural: text(&entry["resource"]),
                        singular: text(&entry["singularResource"]),
                        short_names: texts(&entry["shortNames"]),
                        categories: texts(&entry["categories"]),
                        verbs: texts(&entry["verbs"]),
                        subresources: entry["subresources"].as_array().into_iter().flatten().map(|sub| text(&sub["subresource"])).collect(),
                        namespaced: entry["scope"] == "Namespaced",
                    }));
                }
            }
        }
    }

    async fn plain(&mut self, session: &Session, document: &Value) -> anyhow::Result<()> {
        let mut versions: Vec<(String, String)> =
            texts(&document["versions"]).into_iter().map(|version| (String::new(), version)).collect();
        for group in document["groups"].as_array().into_iter().flatten() {
            for version in group["versions"].as_array().into_iter().flatten() {
                versions.push((text(&group["name"]), text(&version["version"])));
            }
        }
        for (group, version) in versions {
            self.versions.push(join(&group, &version));
            let path = if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") };
            // a group whose own server is away hides itself only
            if let Ok(list) = session.json(Request::get(path)).await {
                self.resource_list(&group, &version, &list);
            }
        }
        Ok(())
    }

    fn resource_list(&mut self, group: &str, version: &str, list: &Value) {
        let entries = list["resources"].as_array().map(Vec::as_slice).unwrap_or_default();
        for entry in entries.iter().filter(|entry| !text(&entry["name"]).contains('/')) {
            let plural = text(&entry["name"]);
            let prefix = format!("{plural}/");
            let subresources =
                entries.iter().filter_map(|other| other["name"].as_str()?.strip_prefix(&prefix).map(str::to_owned)).collect();
            self.resources.push(Arc::new(Resource {
                group: group.to_owned(),
                version: version.to_owned(),
                kind: text(&entry["kind"]),
                singular: text(&entry["singularName"]),
                short_names: texts(&entry["shortNames"]),
                categories: texts(&entry["categories"]),
                verbs: texts(&entry["verbs"]),
                namespaced: entry["namespaced"] == true,
                subresources,
                plural,
            }));
        }
    }

    /// What a word means: `po`, `pods`, `Pod`, `deployments.apps`, `deployments.v1.apps`.
    ///
    /// # Errors
    /// [`NoResource`].
    pub fn resource(&self, word: &str) -> Result<Arc<Resource>, NoResource> {
        let lower = word.to_lowercase();
        let mut parts = lower.splitn(3, '.');
        let (name, second, third) = (parts.next().unwrap_or_default(), parts.next(), parts.next());
        let matches = |resource: &Resource, name: &str| {
            resource.plural == name
                || resource.singular == name
                || resource.kind.to_lowercase() == name
                || resource.short_names.iter().any(|short| short == name)
        };
        let exact = |group: &str, version: Option<&str>| {
            self.resources
                .iter()
                .find(|resource| {
                    matches(resource, name) && resource.group == group && version.is_none_or(|version| resource.version == version)
                })
                .cloned()
        };
        let found = match (second, third) {
            (None, _) => {
                // full names win over short ones of an earlier group
                let full = |resource: &&Arc<Resource>| {
                    resource.plural == name || resource.singular == name || resource.kind.to_lowercase() == name
                };
                self.resources.iter().find(full).or_else(|| self.resources.iter().find(|resource| matches(resource, name))).cloned()
            }
            (Some(second), None) => exact(second, None),
            (Some(second), Some(third)) => exact(third, Some(second)).or_else(|| exact(&format!("{second}.{third}"), None)),
        };
        let found = found.or_else(|| {
            // a group may be cut short: ingresses.networking
            let group = lower.split_once('.')?.1;
            self.resources.iter().find(|resource| matches(resource, name) && resource.group.starts_with(group)).cloned()
        });
        found.ok_or_else(|| NoResource(word.to_owned()))
    }

    /// The resource of an object's `apiVersion` and `kind`.
    pub fn by_kind(&self, api_version: &str, kind: &str) -> Option<Arc<Resource>> {
        self.resources.iter().find(|resource| resource.kind == kind && resource.api_version() == api_version).cloned()
    }

    /// The resources of a category, or of a single word.
    ///
    /// # Errors
    /// [`NoResource`].
    pub fn category_or_resource(&self, word: &str) -> Result<Vec<Arc<Resource>>, NoResource> {
        let mut of_category: Vec<Arc<Resource>> = Vec::new();
        for resource in &self.resources {
            let known = of_category.iter().any(|have| have.group == resource.group && have.plural == resource.plural);
            if !known && resource.categories.iter().any(|category| category == word) && resource.allows("list") {
                of_category.push(Arc::clone(resource));
            }
        }
        if of_category.is_empty() { Ok(vec![self.resource(word)?]) } else { Ok(of_category) }
    }
}

fn join(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().map(text).collect()
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use serde_json::json;

    /// What a small server has.
    pub fn small() -> Discovery {
        let resource = |plural: &str, kind: &str, short: &[&str], categories: &[&str], scope: &str| {
            json!({"resource": plural, "responseKind": {"kind": kind}, "singularResource": kind.to_lowercase(), "scope": scope,
                "verbs": ["list", "get"], "shortNames": short, "categories": categories, "subresources": [{"subresource": "status"}]})
        };
        let mut discovery = Discovery::default();
        discovery.aggregated(&json!({"items": [{"metadata": {}, "versions": [{"version": "v1", "resources": [
            resource("pods", "Pod", &["po"], &["all"], "Namespaced"), resource("services", "Service", &["svc"], &["all"], "Namespaced"),
            resource("events", "Event", &["ev"], &[], "Namespaced"), resource("namespaces", "Namespace", &["ns"], &[], "Cluster")]}]}]}));
        discovery.aggregated(&json!({"items": [
            {"metadata": {"name": "apps"}, "versions": [{"version": "v1", "resources": [resource("deployments", "Deployment", &["deploy"], &["all"], "Namespaced")]},
                {"version": "v1beta1", "resources": [resource("deployments", "Deployment", &["deploy"], &["all"], "Namespaced")]}]},
            {"metadata": {"name": "events.k8s.io"}, "versions": [{"version": "v1", "resources": [resource("events", "Event", &["ev"], &[], "Namespaced")]}]},
            {"metadata": {"name": "networking.k8s.io"}, "versions": [{"version": "v1", "resources": [resource("ingresses", "Ingress", &["ing"], &[], "Namespaced")]}]}]}));
        discovery
    }

    #[test]
    fn words_mean_resources() {
        let discovery = small();
        for (word, expected) in [
            ("po", "v1 pods"),
            ("pod", "v1 pods"),
            ("Pods", "v1 pods"),
            ("deploy", "apps/v1 deployments"),
            ("deployments.apps", "apps/v1 deployments"),
            ("deployments.v1beta1.apps", "apps/v1beta1 deployments"),
            ("events", "v1 events"),
            ("events.events.k8s.io", "events.k8s.io/v1 events"),
            ("ev.v1.events.k8s.io", "events.k8s.io/v1 events"),
            ("ingress.networking", "networking.k8s.io/v1 ingresses"),
        ] {
            let found = discovery.resource(word).expect(word);
            assert_eq!(format!("{} {}", found.api_version(), found.plural), expected, "{word}");
        }
        assert_eq!(discovery.resource("zzz").expect_err("no such").to_string(), "the server doesn't have a resource type \"zzz\"");
    }

    #[test]
    fn categories_hold_each_resource_once() {
        let all: Vec<String> =
            small().category_or_resource("all").expect("a category").iter().map(|resource| resource.group_resource()).collect();
        assert_eq!(all, ["pods", "services", "deployments.apps"]);
    }

    #[test]
    fn addresses() {
        let discovery = small();
        let at = |word: &str, namespace: Option<&str>, name: &str| discovery.resource(word).expect(word).path(namespace, name);
        assert_eq!(at("po", Some("shop"), "a b"), "/api/v1/namespaces/shop/pods/a%20b");
        assert_eq!(at("deploy", None, ""), "/apis/apps/v1/deployments");
        assert_eq!(at("ns", Some("ignored"), "x"), "/api/v1/namespaces/x");
    }
}
