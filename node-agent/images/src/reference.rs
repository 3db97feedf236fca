//! Image references: what people write, and the one full form everything else uses.
//!
//! Spec: the grammar of the reference implementation (distribution/reference), including its familiar forms: a name without a host
//! belongs to `docker.io`, one without a slash to `docker.io/library`, and a missing tag is `latest`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// The host of names that carry none.
pub const DEFAULT_HOST: &str = "docker.io";
/// The tag of names that carry neither tag nor digest.
pub const DEFAULT_TAG: &str = "latest";

const NAME_BYTES_MAX: usize = 255;
const TAG_BYTES_MAX: usize = 128;

/// A full image name: host, path, and a tag or a digest or both.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Reference {
    host: String,
    path: String,
    /// Invariant: `tag` or `digest` is present.
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Why a text names no image. The words are those of the reference implementation, since kubelet's messages end with them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// The grammar does not match.
    #[error("invalid reference format")]
    Format,
    /// Only a part's case is wrong.
    #[error("invalid reference format: repository name ({0}) must be lowercase")]
    Uppercase(String),
    /// A bare image ID.
    #[error("invalid repository name ({0}), cannot specify 64-byte hexadecimal strings")]
    LooksLikeId(String),
    /// The repository's path is longer than 255 bytes.
    #[error("repository name must not be more than 255 characters")]
    TooLong,
    /// The digest is of another algorithm.
    #[error("unsupported digest algorithm")]
    DigestAlgorithm,
    /// The digest has the wrong number of digits.
    #[error("invalid checksum digest length")]
    DigestLength,
}

impl Reference {
    /// The full name that this text stands for.
    ///
    /// # Errors
    /// The text does not follow the grammar.
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        if text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(ReferenceError::LooksLikeId(text.to_owned()));
        }
        let (host, rest) = split_host(text);
        let (name, digest) = match rest.split_once('@') {
            Some((name, digest)) => (name, Some(digest)),
            None => (rest, None),
        };
        let (path, tag) = match name.split_once(':') {
            Some((path, tag)) => (path, Some(tag)),
            None => (name, None),
        };
        if path.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(ReferenceError::Uppercase(path.to_owned()));
        }
        let path = if host == DEFAULT_HOST && !path.contains('/') { format!("library/{path}") } else { path.to_owned() };
        if !is_host(host) || !is_path(&path) || tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(ReferenceError::Format);
        }
        if path.len() > NAME_BYTES_MAX {
            return Err(ReferenceError::TooLong);
        }
        let digest = digest.map(parse_digest).transpose()?;
        let tag = match (tag, &digest) {
            (None, None) => Some(DEFAULT_TAG.to_owned()),
            (tag, _) => tag.map(str::to_owned),
        };
        Ok(Self { host: host.to_owned(), path, tag, digest })
    }

    /// Where the image comes from: `docker.io`, `registry.k8s.io`, `localhost:5000`.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The path below the host: `library/busybox`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The tag, if it has one.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, if it has one.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// Host and path without tag and digest: `docker.io/library/busybox`.
    pub fn repository(&self) -> String {
        format!("{}/{}", self.host, self.path)
    }

    /// The same repository's image with this digest, without a tag: the form of `imageID`.
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self { host: self.host.clone(), path: self.path.clone(), tag: None, digest: Some(digest) }
    }

    /// The same repository's image with this tag, without a digest.
    ///
    /// # Errors
    /// The tag does not follow the grammar.
    pub fn with_tag(&self, tag: &str) -> Result<Self, ReferenceError> {
        if !is_tag(tag) {
            return Err(ReferenceError::Format);
        }
        Ok(Self { host: self.host.clone(), path: self.path.clone(), tag: Some(tag.to_owned()), digest: None })
    }

    /// What a registry is asked for: the digest if there is one, else the tag.
    pub fn selector(&self) -> &str {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.as_str(),
            (None, Some(tag)) => tag,
            (None, None) => DEFAULT_TAG,
        }
    }

    /// The short form people know: `busybox:1.36` for `docker.io/library/busybox:1.36`.
    pub fn familiar(&self) -> String {
        let full = self.to_string();
        let short = full.strip_prefix("docker.io/library/").filter(|rest| !rest.contains('/'));
        match short.or_else(|| full.strip_prefix("docker.io/").filter(|rest| !rest.starts_with("library/"))) {
            Some(short) => short.to_owned(),
            None => full,
        }
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        Self::parse(text)
    }
}

impl TryFrom<String> for Reference {
    type Error = ReferenceError;

    fn try_from(text: String) -> Result<Self, ReferenceError> {
        Self::parse(&text)
    }
}

impl From<Reference> for String {
    fn from(reference: Reference) -> Self {
        reference.to_string()
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.path)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

/// Whether the text can be a repository's path.
pub(crate) fn is_path(text: &str) -> bool {
    text.split('/').all(is_path_component)
}

/// Whether the text can be a tag.
pub(crate) fn is_tag(text: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    text.len() <= TAG_BYTES_MAX
        && text.bytes().next().is_some_and(word)
        && text.bytes().all(|byte| word(byte) || byte == b'.' || byte == b'-')
}

/// Whether the text can be a registry's host, with or without a port.
pub(crate) fn is_host(text: &str) -> bool {
    let (name, port) = match text.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, "")) => return is_ipv6(address),
            Some((address, after)) => match after.strip_prefix(':') {
                Some(port) if is_ipv6(address) => return is_port(port),
                _ => return false,
            },
            None => return false,
        },
        None => match text.split_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (text, None),
        },
    };
    name.split('.').all(is_host_component) && port.is_none_or(is_port)
}

/// The host a familiar name stands for, and the rest. The first part is a host if it looks like one: a dot, a colon, an upper-case letter
/// or the word `localhost`.
fn split_host(text: &str) -> (&str, &str) {
    let (host, rest) = match text.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':']) || first == "localhost" || first.bytes().any(|byte| byte.is_ascii_uppercase()) =>
        {
            (first, rest)
        }
        _ => (DEFAULT_HOST, text),
    };
    (if host == "index.docker.io" { DEFAULT_HOST } else { host }, rest)
}

fn parse_digest(text: &str) -> Result<Digest, ReferenceError> {
    let (algorithm, digits) = text.split_once(':').ok_or(ReferenceError::Format)?;
    let algorithm_valid = algorithm
        .split(['-', '_', '+', '.'])
        .all(|part| part.bytes().next().is_some_and(|b| b.is_ascii_alphabetic()) && part.bytes().all(|b| b.is_ascii_alphanumeric()));
    if !algorithm_valid || digits.len() < 32 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(ReferenceError::Format);
    }
    match (algorithm, digits.len()) {
        ("sha256", 64) => text.parse().map_err(|_upper_case_digits| ReferenceError::Format),
        ("sha256", _) => Err(ReferenceError::DigestLength),
        _ => Err(ReferenceError::DigestAlgorithm),
    }
}

/// Letters and digits, separated by one dot, one or two underscores, or any number of dashes.
fn is_path_component(text: &str) -> bool {
    let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    if !bytes.first().copied().is_some_and(alphanumeric) || !bytes.last().copied().is_some_and(alphanumeric) {
        return false;
    }
    bytes.split(|byte| alphanumeric(*byte)).all(|gap| matches!(gap, b"" | b"." | b"_" | b"__") || gap.iter().all(|byte| *byte == b'-'))
}

fn is_host_component(text: &str) -> bool {
    !text.is_empty() && !text.starts_with('-') && !text.ends_with('-') && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

fn is_ipv6(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b':')
}

fn is_port(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SHA: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn check(text: &str, full: &str, familiar: &str) {
        let reference = Reference::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(reference.to_string(), full, "{text}");
        assert_eq!(reference.familiar(), familiar, "{text}");
    }

    #[test]
    fn familiar_names_become_full_ones() {
        check("busybox", "docker.io/library/busybox:latest", "busybox:latest");
        check("busybox:1.36", "docker.io/library/busybox:1.36", "busybox:1.36");
        check("library/busybox", "docker.io/library/busybox:latest", "busybox:latest");
        check("bitnami/redis:7", "docker.io/bitnami/redis:7", "bitnami/redis:7");
        check("docker.io/busybox", "docker.io/library/busybox:latest", "busybox:latest");
        check("index.docker.io/library/busybox:1", "docker.io/library/busybox:1", "busybox:1");
        check("registry.k8s.io/pause:3.10", "registry.k8s.io/pause:3.10", "registry.k8s.io/pause:3.10");
        check("localhost/app", "localhost/app:latest", "localhost/app:latest");
        check("localhost:5000/a/b:c", "localhost:5000/a/b:c", "localhost:5000/a/b:c");
        check("[::1]:5000/app:v1", "[::1]:5000/app:v1", "[::1]:5000/app:v1");
        check("Upper/app", "Upper/app:latest", "Upper/app:latest");
        check("a/b/c", "docker.io/a/b/c:latest", "a/b/c:latest");
        check("docker.io/library/a/b", "docker.io/library/a/b:latest", "docker.io/library/a/b:latest");
        check("a__b.c---d", "docker.io/library/a__b.c---d:latest", "a__b.c---d:latest");
        check("busybox:Tag_1.x-y", "docker.io/library/busybox:Tag_1.x-y", "busybox:Tag_1.x-y");
        check(&format!("busybox@{SHA}"), &format!("docker.io/library/busybox@{SHA}"), &format!("busybox@{SHA}"));
        check(&format!("k.io/a:v1@{SHA}"), &format!("k.io/a:v1@{SHA}"), &format!("k.io/a:v1@{SHA}"));
    }

    #[test]
    fn wrong_names_are_refused_with_known_words() {
        let error = |text: &str| Reference::parse(text).map(|reference| reference.to_string()).unwrap_err().to_string();
        for text in [
            "",
            " ",
            ":tag",
            "a:",
            "a b",
            "a//b",
            "/a",
            "a/",
            "-a",
            "a-",
            "a..b",
            "a___b",
            "a._b",
            "a:-x",
            "k.io/",
            "k..io/a",
            "h:x/a",
            "a@b",
            "[::1/a",
            "a@sha256:zz",
            "a:b:c",
            "bad_host.io:5000/x",
            "../../etc/passwd",
        ] {
            assert_eq!(error(text), "invalid reference format", "{text:?}");
        }
        assert_eq!(error("Busybox"), "invalid reference format: repository name (Busybox) must be lowercase");
        assert_eq!(error(&SHA[7..]), format!("invalid repository name ({}), cannot specify 64-byte hexadecimal strings", &SHA[7..]));
        assert_eq!(error(&format!("k.io/{}", "a".repeat(256))), "repository name must not be more than 255 characters");
        assert_eq!(error(&format!("a:{}", "t".repeat(129))), "invalid reference format");
        assert_eq!(error(&format!("a@sha256:{}", "a".repeat(40))), "invalid checksum digest length");
        assert_eq!(error(&format!("a@sha512:{}", "a".repeat(128))), "unsupported digest algorithm");
    }

    #[test]
    fn parts_can_be_asked_for() {
        let reference = Reference::parse(&format!("k.io/x/y:v1@{SHA}")).unwrap();
        assert_eq!((reference.host(), reference.path(), reference.tag()), ("k.io", "x/y", Some("v1")));
        assert_eq!(reference.selector(), SHA);
        assert_eq!(reference.with_digest(Digest::of(b"")).to_string(), format!("k.io/x/y@{SHA}"));
        assert_eq!(reference.with_tag("v2").unwrap().to_string(), "k.io/x/y:v2");
    }

    proptest! {
        #[test]
        fn parsing_the_full_or_familiar_form_gives_the_same(
            text in "(([a-z0-9]{1,5}\\.)?[a-z]{1,4}(:[0-9]{1,4})?/)?([a-z0-9]{1,4}((\\.|_|__|-{1,3})[a-z0-9]{1,3})?/){0,2}[a-z0-9]{1,8}(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,12})?"
        ) {
            if let Ok(reference) = Reference::parse(&text) {
                prop_assert_eq!(&Reference::parse(&reference.to_string()).unwrap(), &reference);
                prop_assert_eq!(&Reference::parse(&reference.familiar()).unwrap(), &reference);
            }
        }

        #[test]
        fn no_text_makes_it_panic_and_paths_stay_inside(text in "\\PC{0,80}") {
            if let Ok(reference) = Reference::parse(&text) {
                prop_assert!(!reference.path().split('/').any(|part| part == ".." || part == "." || part.is_empty()));
                prop_assert!(!reference.host().contains('/'));
            }
        }
    }
}
