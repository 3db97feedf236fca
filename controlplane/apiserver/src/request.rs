//! What a request's path and query mean (`Spec:` Kubernetes API concepts, "Resource URIs").

use percent::decode;

use trierarch_api::{ApiError, Reason};

/// What a request is about, as authorization sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestInfo {
    /// Whether the path names a resource (below `/api/VERSION` or `/apis/GROUP/VERSION`).
    pub is_resource: bool,
    /// The decoded path.
    pub path: String,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`, or the lower-case method.
    pub verb: String,
    /// API group; empty for the core group.
    pub group: String,
    /// API version.
    pub version: String,
    /// Namespace, empty when cluster-scoped or across all.
    pub namespace: String,
    /// Plural.
    pub resource: String,
    /// Subresource, if any.
    pub subresource: String,
    /// Name, if any.
    pub name: String,
    /// Below a `proxy` subresource: the raw rest of the path, with its leading slash (or empty).
    pub rest: String,
}

impl RequestInfo {
    /// Reads method, raw path and query.
    pub fn parse(method: &str, raw_path: &str, options: &Options) -> Self {
        let raw: Vec<&str> = raw_path.split('/').filter(|part| !part.is_empty()).collect();
        let mut info = Self { path: decode(raw_path), verb: method.to_ascii_lowercase(), ..Self::default() };
        let (group, version, mut parts) = match raw.as_slice() {
            ["api", version, rest @ ..] if !rest.is_empty() => ("", *version, rest),
            ["apis", group, version, rest @ ..] if !rest.is_empty() => (*group, *version, rest),
            _ => return info,
        };
        info.is_resource = true;
        info.group = decode(group);
        info.version = decode(version);
        info.verb = match method {
            "POST" => "create",
            "GET" | "HEAD" => "get",
            "PUT" => "update",
            "PATCH" => "patch",
            "DELETE" => "delete",
            _ => "",
        }
        .to_owned();
        let mut legacy_watch = false;
        if parts[0] == "watch" && parts.len() > 1 {
            legacy_watch = true;
            parts = &parts[1..];
        }
        if parts[0] == "namespaces" && parts.len() > 1 {
            info.namespace = decode(parts[1]);
            if parts.len() > 2 && parts[2] != "status" && parts[2] != "finalize" {
                parts = &parts[2..];
            }
        }
        info.resource = decode(parts[0]);
        info.name = parts.get(1).map(|part| decode(part)).unwrap_or_default();
        info.subresource = parts.get(2).map(|part| decode(part)).unwrap_or_default();
        if info.subresource == "proxy" {
            info.rest = rest_after_proxy(raw_path);
        }
        if info.resource == "namespaces" {
            info.namespace.clone_from(&info.name);
        }
        if info.name.is_empty() && info.verb == "get" {
            info.verb = if options.flag("watch") { "watch" } else { "list" }.to_owned();
            if let Some(name) = options.get("fieldSelector").and_then(name_of_selector) {
                info.name = name;
            }
        } else if info.name.is_empty() && info.verb == "delete" {
            info.verb = "deletecollection".to_owned();
        }
        if legacy_watch {
            info.verb = "watch".to_owned();
        }
        info
    }

    /// Whether the verb changes something.
    pub fn writes(&self) -> bool {
        !matches!(self.verb.as_str(), "get" | "list" | "watch" | "head" | "options")
    }

    /// Whether the answer may take for ever: not counted as in flight, no deadline.
    pub fn long_running(&self) -> bool {
        self.verb == "watch" || matches!(self.subresource.as_str(), "exec" | "attach" | "portforward" | "log" | "proxy")
    }

    /// `pods` or `pods/log`.
    pub fn resource_path(&self) -> String {
        if self.subresource.is_empty() { self.resource.clone() } else { format!("{}/{}", self.resource, self.subresource) }
    }
}

fn rest_after_proxy(raw_path: &str) -> String {
    // .../RESOURCE/NAME/proxy[/REST]: the first `proxy` segment that follows a name
    let mut seen = 0;
    let wanted = if raw_path.starts_with("/api/v1/nodes/") { 5 } else { 7 };
    for (index, byte) in raw_path.bytes().enumerate() {
        if byte == b'/' {
            seen += 1;
            if seen == wanted + 1 {
                return raw_path[index..].to_owned();
            }
        }
    }
    // no further slash: `/proxy` itself ends the path
    String::new()
}

fn name_of_selector(selector: &str) -> Option<String> {
    selector
        .split(',')
        .find_map(|term| term.strip_prefix("metadata.name="))
        .map(|name| name.trim_start_matches('=').to_owned())
        .filter(|name| !name.is_empty())
}

/// The query, in order, decoded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options(pub Vec<(String, String)>);

impl Options {
    /// Reads a raw query string.
    pub fn parse(query: &str) -> Self {
        Self(serde_urlencoded::from_str(query).unwrap_or_default())
    }

    /// The first value of a parameter.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The first value that is not empty.
    pub fn text(&self, name: &str) -> &str {
        self.get(name).unwrap_or_default()
    }

    /// Every value of a parameter.
    pub fn all(&self, name: &str) -> Vec<&str> {
        self.0.iter().filter(|(key, _)| key == name).map(|(_, value)| value.as_str()).collect()
    }

    /// A boolean as apimachinery converts it: present and neither `0` nor `false`.
    pub fn flag(&self, name: &str) -> bool {
        self.get(name).is_some_and(|value| !matches!(value.to_ascii_lowercase().as_str(), "0" | "false"))
    }

    /// An optional boolean.
    pub fn maybe_flag(&self, name: &str) -> Option<bool> {
        self.get(name).map(|_| self.flag(name))
    }

    /// An integer.
    ///
    /// # Errors
    /// 400 with Go's wording when it is none.
    pub fn integer(&self, name: &str) -> Result<Option<i64>, ApiError> {
        match self.get(name) {
            None | Some("") => Ok(None),
            Some(text) => text
                .parse()
                .map(Some)
                .map_err(|_ignored| ApiError::new(Reason::BadRequest, format!("strconv.ParseInt: parsing {text:?}: invalid syntax"))),
        }
    }
}

/// Percent-encoding of path segments.
pub mod percent {
    /// Decodes `%XX`; what is not valid stays as it is.
    pub fn decode(text: &str) -> String {
        if !text.contains('%') {
            return text.to_owned();
        }
        let bytes = text.as_bytes();
        let mut out = Vec::with_capacity(bytes.len());
        let mut at = 0;
        while at < bytes.len() {
            let pair = bytes.get(at + 1..at + 3).and_then(|pair| std::str::from_utf8(pair).ok());
            match (bytes[at], pair.and_then(|pair| u8::from_str_radix(pair, 16).ok())) {
                (b'%', Some(byte)) => {
                    out.push(byte);
                    at += 3;
                }
                (byte, _) => {
                    out.push(byte);
                    at += 1;
                }
            }
        }
        String::from_utf8_lossy(&out).into_owned()
    }

    /// Encodes everything but unreserved characters.
    pub fn encode(text: &str) -> String {
        use std::fmt::Write as _;
        let mut out = String::with_capacity(text.len());
        for byte in text.bytes() {
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                out.push(char::from(byte));
            } else {
                let _ = write!(out, "%{byte:02X}");
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[allow(clippy::too_many_arguments, reason = "a table of cases reads best flat")]
    fn check(method: &str, url: &str, verb: &str, group: &str, namespace: &str, resource: &str, subresource: &str, name: &str) {
        let (path, query) = url.split_once('?').unwrap_or((url, ""));
        let info = RequestInfo::parse(method, path, &Options::parse(query));
        assert_eq!(
            (
                info.verb.as_str(),
                info.group.as_str(),
                info.namespace.as_str(),
                info.resource.as_str(),
                info.subresource.as_str(),
                info.name.as_str()
            ),
            (verb, group, namespace, resource, subresource, name),
            "{method} {url}"
        );
    }

    #[test]
    fn paths_mean_what_upstream_reads_in_them() {
        check("GET", "/api/v1/namespaces", "list", "", "", "namespaces", "", "");
        check("GET", "/api/v1/namespaces/other", "get", "", "other", "namespaces", "", "other");
        check("PUT", "/api/v1/namespaces/other/finalize", "update", "", "other", "namespaces", "finalize", "other");
        check("PUT", "/api/v1/namespaces/other/status", "update", "", "other", "namespaces", "status", "other");
        check("GET", "/api/v1/namespaces/other/pods", "list", "", "other", "pods", "", "");
        check("GET", "/api/v1/namespaces/other/pods/foo", "get", "", "other", "pods", "", "foo");
        check("GET", "/api/v1/namespaces/other/pods/foo/log", "get", "", "other", "pods", "log", "foo");
        check("GET", "/api/v1/pods", "list", "", "", "pods", "", "");
        check("GET", "/api/v1/pods?watch=true", "watch", "", "", "pods", "", "");
        check("GET", "/api/v1/pods?watch=false", "list", "", "", "pods", "", "");
        check("GET", "/api/v1/watch/namespaces/other/pods", "watch", "", "other", "pods", "", "");
        check("GET", "/api/v1/namespaces/a/pods?fieldSelector=metadata.name%3Dx", "list", "", "a", "pods", "", "x");
        check("DELETE", "/apis/apps/v1/namespaces/a/deployments", "deletecollection", "apps", "a", "deployments", "", "");
        check("DELETE", "/apis/apps/v1/namespaces/a/deployments/d", "delete", "apps", "a", "deployments", "", "d");
        check("PATCH", "/apis/apps/v1/namespaces/a/deployments/d/scale", "patch", "apps", "a", "deployments", "scale", "d");
        check("POST", "/api/v1/nodes", "create", "", "", "nodes", "", "");
        check("GET", "/healthz", "get", "", "", "", "", "");
        check("GET", "/apis/apps/v1", "get", "", "", "", "", "");
        check("GET", "/api/v1/namespaces/a/pods/http%3Afoo%3A80/proxy/x", "get", "", "a", "pods", "proxy", "http:foo:80");
    }

    #[test]
    fn the_rest_below_proxy_stays_raw() {
        for (path, rest) in [
            ("/api/v1/namespaces/a/pods/foo/proxy", ""),
            ("/api/v1/namespaces/a/pods/foo/proxy/", "/"),
            ("/api/v1/namespaces/a/services/foo:80/proxy/a%2Fb/c", "/a%2Fb/c"),
            ("/api/v1/nodes/n1:10250/proxy/logs/", "/logs/"),
        ] {
            assert_eq!(RequestInfo::parse("GET", path, &Options::default()).rest, rest, "{path}");
        }
    }
}
