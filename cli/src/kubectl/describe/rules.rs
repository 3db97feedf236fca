//! The rules of roles, one line for each resource or address.

use serde_json::Value;

use super::parts::{shown, text};

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Line {
    verbs: Vec<String>,
    group: String,
    resource: String,
    name: Vec<String>,
    url: Vec<String>,
}

impl Line {
    /// `deployments.apps/scale`, addresses, names and verbs, as cells.
    pub fn cells(&self) -> [String; 4] {
        let resource = match (self.group.as_str(), self.resource.split_once('/')) {
            ("", _) => self.resource.clone(),
            (group, Some((name, sub))) => format!("{name}.{group}/{sub}"),
            (group, None) => format!("{}.{group}", self.resource),
        };
        let words = |list: &[String]| format!("[{}]", list.join(" "));
        [resource, words(&self.url), words(&self.name), words(&self.verbs)]
    }
}

/// Rules in pieces, verbs for the same thing together, in the order in which kubectl lists them.
pub fn lines<'a>(rules: impl Iterator<Item = &'a Value>) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    for rule in rules {
        let verbs: Vec<String> = rule["verbs"].as_array().into_iter().flatten().map(shown).collect();
        for group in rule["apiGroups"].as_array().into_iter().flatten().map(text) {
            for resource in rule["resources"].as_array().into_iter().flatten().map(text) {
                let names: Vec<Vec<String>> =
                    rule["resourceNames"].as_array().into_iter().flatten().map(|name| vec![shown(name)]).collect();
                for name in if names.is_empty() { vec![Vec::new()] } else { names } {
                    let same = lines
                        .iter_mut()
                        .find(|line| line.group == group && line.resource == resource && line.name == name && line.url.is_empty());
                    match same {
                        Some(line) => {
                            line.verbs.extend(verbs.iter().filter(|verb| !line.verbs.contains(verb)).cloned().collect::<Vec<_>>())
                        }
                        None => lines.push(Line {
                            verbs: verbs.clone(),
                            group: group.to_owned(),
                            resource: resource.to_owned(),
                            name,
                            url: Vec::new(),
                        }),
                    }
                }
            }
        }
        for url in rule["nonResourceURLs"].as_array().into_iter().flatten() {
            lines.push(Line {
                verbs: verbs.clone(),
                group: String::new(),
                resource: String::new(),
                name: Vec::new(),
                url: vec![shown(url)],
            });
        }
    }
    let joined = |list: &[String]| format!("[{}]", list.join(" "));
    lines.sort_by_cached_key(|line| {
        format!("{}[{}][{}]{}{}", joined(&line.verbs), line.group, line.resource, joined(&line.name), joined(&line.url))
    });
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn verbs_of_one_resource_come_together() {
        let rules = [
            json!({"verbs": ["get"], "apiGroups": ["", "apps"], "resources": ["x", "y/z"]}),
            json!({"verbs": ["list"], "apiGroups": [""], "resources": ["x"]}),
            json!({"verbs": ["get"], "nonResourceURLs": ["/a", "/b"]}),
        ];
        let cells: Vec<String> = lines(rules.iter()).iter().map(|line| line.cells().join(" ")).collect();
        assert_eq!(
            cells,
            ["x [] [] [get list]", " [/a] [] [get]", " [/b] [] [get]", "y/z [] [] [get]", "x.apps [] [] [get]", "y.apps/z [] [] [get]"]
        );
    }
}
