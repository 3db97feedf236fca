//! Which form the answer has: encoding, transformation, indentation.

use trierarch_api::{ApiError, Reason, protobuf};

use crate::request::Options;

/// How bytes are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// `application/json`
    Json,
    /// `application/yaml`
    Yaml,
    /// `application/vnd.kubernetes.protobuf`
    Protobuf,
}

/// How the body of a request is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyEncoding {
    /// `application/json`
    Json,
    /// `application/yaml`
    Yaml,
    /// `application/vnd.kubernetes.protobuf`, as typed Go clients send
    Protobuf,
}

/// What is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// The object itself.
    Object,
    /// `meta.k8s.io/v1 Table`
    Table,
    /// `meta.k8s.io/v1 PartialObjectMetadata` or its list.
    Metadata,
}

/// The chosen answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// How.
    pub encoding: Encoding,
    /// What.
    pub form: Form,
    /// Indented.
    pub pretty: bool,
}

/// Plain JSON.
pub const JSON: Chosen = Chosen { encoding: Encoding::Json, form: Form::Object, pretty: false };

impl Chosen {
    /// The `Content-Type` of the answer.
    pub fn content_type(self) -> &'static str {
        match self.encoding {
            Encoding::Json => "application/json",
            Encoding::Yaml => "application/yaml",
            Encoding::Protobuf => protobuf::MEDIA_TYPE,
        }
    }
}

/// One clause of an `Accept` header.
#[derive(Debug)]
pub struct Clause<'a> {
    /// `type/subtype`
    pub media: &'a str,
    /// Parameters.
    pub params: Vec<(&'a str, &'a str)>,
    quality_millis: u32,
}

impl<'a> Clause<'a> {
    /// A parameter's value.
    pub fn param(&self, name: &str) -> Option<&'a str> {
        self.params.iter().find(|(key, _)| *key == name).map(|(_, value)| *value)
    }
}

/// The clauses of an `Accept` header, best first.
pub fn clauses(accept: &str) -> Vec<Clause<'_>> {
    let mut found: Vec<Clause<'_>> = accept
        .split(',')
        .filter_map(|clause| {
            let mut parts = clause.split(';').map(str::trim);
            let media = parts.next().filter(|media| !media.is_empty())?;
            let mut params = Vec::new();
            let mut quality_millis = 1000;
            for (key, value) in parts.filter_map(|part| part.split_once('=')) {
                if key == "q" {
                    quality_millis = thousandths(value);
                } else {
                    params.push((key, value.trim_matches('"')));
                }
            }
            Some(Clause { media, params, quality_millis })
        })
        .collect();
    found.sort_by_key(|clause| std::cmp::Reverse(clause.quality_millis));
    found
}

fn thousandths(quality: &str) -> u32 {
    let (whole, fraction) = quality.split_once('.').unwrap_or((quality, ""));
    let fraction: String = fraction.chars().chain("000".chars()).take(3).collect();
    if whole.trim() == "0" { fraction.parse().unwrap_or(0) } else { 1000 }
}

/// Chooses an answer. `transforms` tells whether Table and PartialObjectMetadata are offered here, `has_protobuf` whether the kind has such
/// a form.
///
/// # Errors
/// 406 when nothing that is accepted is offered.
pub fn choose(accept: Option<&str>, options: &Options, user_agent: &str, transforms: bool, has_protobuf: bool) -> Result<Chosen, ApiError> {
    let accept = accept.filter(|accept| !accept.trim().is_empty()).unwrap_or("*/*");
    let mut readable = false;
    for clause in clauses(accept) {
        let encoding = match clause.media {
            "application/json" | "application/*" | "*/*" => Encoding::Json,
            "application/yaml" => Encoding::Yaml,
            protobuf::MEDIA_TYPE if has_protobuf => Encoding::Protobuf,
            _ => continue,
        };
        readable = true;
        let group_fits = clause.param("g").is_none_or(|group| group == "meta.k8s.io")
            && clause.param("v").is_none_or(|version| version == "v1" || version == "v1beta1");
        let form = match clause.param("as") {
            None => Form::Object,
            Some("Table") if transforms && group_fits && encoding != Encoding::Protobuf => Form::Table,
            Some("PartialObjectMetadata" | "PartialObjectMetadataList") if transforms && group_fits => Form::Metadata,
            Some(_) => continue,
        };
        return Ok(Chosen { encoding, form, pretty: pretty(options, user_agent) });
    }
    if readable {
        return Err(not_acceptable());
    }
    let offered =
        "406: Not Acceptable\n\nAvailable representations: application/json, application/yaml, application/vnd.kubernetes.protobuf";
    Err(ApiError::new(Reason::NotAcceptable, offered))
}

/// Whether a client would rather read protobuf than anything else.
pub fn prefers_protobuf(accept: Option<&str>) -> bool {
    accept.is_some_and(|accept| clauses(accept).first().is_some_and(|best| best.media == protobuf::MEDIA_TYPE))
}

/// 406, as upstream says it.
pub fn not_acceptable() -> ApiError {
    ApiError::new(
        Reason::NotAcceptable,
        "only the following media types are accepted: application/json, application/yaml, application/vnd.kubernetes.protobuf",
    )
}

/// 415, as upstream says it.
pub fn unsupported_media_type(accepted: &[&str]) -> ApiError {
    ApiError::new(
        Reason::UnsupportedMediaType,
        format!("the body of the request was in an unknown format - accepted media types include: {}", accepted.join(", ")),
    )
}

/// Whether a person looks at the answer.
fn pretty(options: &Options, user_agent: &str) -> bool {
    match options.maybe_flag("pretty") {
        Some(wanted) => wanted,
        None => ["curl", "Wget", "Mozilla/5.0"].iter().any(|agent| user_agent.starts_with(agent)),
    }
}

/// The encoding of a request's body.
///
/// # Errors
/// 415
pub fn body_encoding(content_type: Option<&str>) -> Result<BodyEncoding, ApiError> {
    match media_type(content_type.unwrap_or_default()) {
        "" | "application/json" => Ok(BodyEncoding::Json),
        "application/yaml" => Ok(BodyEncoding::Yaml),
        protobuf::MEDIA_TYPE => Ok(BodyEncoding::Protobuf),
        _ => Err(unsupported_media_type(&["application/json", "application/yaml", protobuf::MEDIA_TYPE])),
    }
}

/// A `Content-Type` without its parameters.
pub fn media_type(content_type: &str) -> &str {
    content_type.split(';').next().unwrap_or_default().trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(accept: &str, expected: Option<(Encoding, Form)>) {
        let chosen = choose(Some(accept), &Options::default(), "", true, true).ok().map(|chosen| (chosen.encoding, chosen.form));
        assert_eq!(chosen, expected, "{accept}");
    }

    #[test]
    fn the_first_acceptable_form_wins() {
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        check(kubectl, Some((Encoding::Json, Form::Table)));
        check("application/json", Some((Encoding::Json, Form::Object)));
        check("*/*", Some((Encoding::Json, Form::Object)));
        check("application/yaml", Some((Encoding::Yaml, Form::Object)));
        check("application/vnd.kubernetes.protobuf,application/json", Some((Encoding::Protobuf, Form::Object)));
        check("application/vnd.kubernetes.protobuf, */*", Some((Encoding::Protobuf, Form::Object)));
        check(
            "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;v=v1;g=meta.k8s.io",
            Some((Encoding::Protobuf, Form::Metadata)),
        );
        check("application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io,application/json", Some((Encoding::Json, Form::Object)));
        check("application/json;q=0.5,application/yaml", Some((Encoding::Yaml, Form::Object)));
        check("application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io", Some((Encoding::Json, Form::Metadata)));
        check("application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io", None);
        let without = choose(Some("application/vnd.kubernetes.protobuf"), &Options::default(), "", true, false);
        assert!(without.is_err(), "a kind without a protobuf form");
        check("application/json;as=Chair;v=v1;g=meta.k8s.io", None);
        assert_eq!(choose(None, &Options::default(), "curl/8", false, false).map(|chosen| chosen.pretty), Ok(true));
    }
}
