//! Links in what a proxied server says: those to itself must lead through the proxy again.
//!
//! Redirects name one link; an HTML page holds many, in attributes of its tags. A page is rewritten as it passes, tag by tag.

/// A tag longer than this is passed on as it is.
const TAG_MAX: usize = 64 * 1024;

/// Attributes that hold a link, by element (`Spec:` HTML, index of attributes).
const LINKS: [(&str, &[&str]); 26] = [
    ("a", &["href"]),
    ("applet", &["codebase"]),
    ("area", &["href"]),
    ("audio", &["src"]),
    ("base", &["href"]),
    ("blockquote", &["cite"]),
    ("body", &["background"]),
    ("button", &["formaction"]),
    ("command", &["icon"]),
    ("del", &["cite"]),
    ("embed", &["src"]),
    ("form", &["action"]),
    ("frame", &["longdesc", "src"]),
    ("head", &["profile"]),
    ("html", &["manifest"]),
    ("iframe", &["longdesc", "src"]),
    ("img", &["longdesc", "src", "usemap"]),
    ("input", &["src", "usemap", "formaction"]),
    ("ins", &["cite"]),
    ("link", &["href"]),
    ("object", &["classid", "codebase", "data", "usemap"]),
    ("q", &["cite"]),
    ("script", &["src"]),
    ("source", &["src"]),
    ("video", &["poster", "src"]),
    ("track", &["src"]),
];
/// Elements whose content is text, whatever it looks like.
const RAW: [&str; 4] = ["script", "style", "textarea", "title"];

/// Where the proxied server is, as its clients see it.
#[derive(Clone, Debug)]
pub struct Place {
    /// The path of its root below this server, without a closing slash.
    pub base: String,
    /// The hosts (with ports) by which it knows itself.
    pub hosts: Vec<String>,
}

impl Place {
    /// The link as clients must follow it.
    pub fn rewrite(&self, link: &str) -> String {
        let (path, foreign) = match link.split_once("://") {
            Some((scheme, rest)) if scheme.bytes().all(|byte| byte.is_ascii_alphanumeric()) && !scheme.is_empty() => {
                let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
                (&rest[end..], !self.hosts.iter().any(|host| host == &rest[..end]))
            }
            _ => match link.strip_prefix("//") {
                Some(rest) => {
                    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
                    (&rest[end..], !self.hosts.iter().any(|host| host == &rest[..end]))
                }
                None => (link, false),
            },
        };
        if foreign || !path.starts_with('/') {
            return link.to_owned();
        }
        let below = path.strip_prefix(self.base.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '?', '#']));
        if below { path.to_owned() } else { format!("{}{path}", self.base) }
    }
}

/// Rewrites the links of a page that comes in pieces.
#[derive(Debug)]
pub struct Page {
    place: Place,
    /// The beginning of a tag whose end has not come yet.
    rest: Vec<u8>,
    /// The element whose text is passed over.
    raw: Option<&'static str>,
}

impl Page {
    /// A page of the server at a place.
    pub fn new(place: Place) -> Self {
        Self { place, rest: Vec::new(), raw: None }
    }

    /// What can be passed on after this piece.
    pub fn push(&mut self, piece: &[u8]) -> Vec<u8> {
        let mut text = std::mem::take(&mut self.rest);
        text.extend_from_slice(piece);
        let mut out = Vec::with_capacity(text.len());
        let mut at = 0;
        while let Some(start) = text[at..].iter().position(|byte| *byte == b'<').map(|offset| at + offset) {
            out.extend_from_slice(&text[at..start]);
            let Some(length) = tag_length(&text[start..], self.raw.is_some()) else {
                if text.len() - start > TAG_MAX {
                    out.extend_from_slice(&text[start..]);
                } else {
                    self.rest = text[start..].to_vec();
                }
                return out;
            };
            self.tag(&text[start..start + length], &mut out);
            at = start + length;
        }
        out.extend_from_slice(&text[at..]);
        out
    }

    /// What is left when no more comes.
    pub fn finish(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.rest)
    }

    fn tag(&mut self, tag: &[u8], out: &mut Vec<u8>) {
        let closing = tag.get(1) == Some(&b'/');
        let begin = if closing { 2 } else { 1 };
        let end =
            tag[begin.min(tag.len())..].iter().position(|byte| !byte.is_ascii_alphanumeric()).map_or(tag.len(), |length| begin + length);
        let name = String::from_utf8_lossy(&tag[begin.min(end)..end]).to_ascii_lowercase();
        if let Some(raw) = self.raw {
            if closing && name == raw {
                self.raw = None;
            }
            out.extend_from_slice(tag);
            return;
        }
        if !closing {
            self.raw = RAW.into_iter().find(|raw| *raw == name);
        }
        match LINKS.iter().find(|(element, _)| *element == name) {
            Some((_, attributes)) if !closing => self.attributes(tag, end, attributes, out),
            _ => out.extend_from_slice(tag),
        }
    }

    /// Copies a tag whose name ends at `at`, with its links rewritten.
    fn attributes(&self, tag: &[u8], mut at: usize, wanted: &[&str], out: &mut Vec<u8>) {
        out.extend_from_slice(&tag[..at]);
        let is_space = |byte: u8| byte.is_ascii_whitespace();
        while at < tag.len() {
            let name_begin = at + tag[at..].iter().position(|byte| !is_space(*byte) && *byte != b'/').unwrap_or(tag.len() - at);
            let name_end =
                name_begin + tag[name_begin..].iter().position(|b| is_space(*b) || matches!(*b, b'=' | b'>' | b'/')).unwrap_or(0);
            let after = name_end + tag[name_end..].iter().position(|byte| !is_space(*byte)).unwrap_or(tag.len() - name_end);
            if tag.get(after) != Some(&b'=') {
                // an attribute without a value, or the end of the tag
                let next = name_end.max(name_begin + 1).min(tag.len());
                out.extend_from_slice(&tag[at..next]);
                at = next;
                continue;
            }
            let begin = after + 1 + tag[after + 1..].iter().position(|byte| !is_space(*byte)).unwrap_or(0);
            let (from, to, next) = match tag.get(begin) {
                Some(quote @ (b'"' | b'\'')) => {
                    let length = tag[begin + 1..].iter().position(|byte| byte == quote).unwrap_or(tag.len() - begin - 1);
                    (begin + 1, begin + 1 + length, (begin + 2 + length).min(tag.len()))
                }
                _ => {
                    let length = tag[begin..].iter().position(|b| is_space(*b) || *b == b'>').unwrap_or(tag.len() - begin);
                    (begin, begin + length, begin + length)
                }
            };
            let name = String::from_utf8_lossy(&tag[name_begin..name_end]).to_ascii_lowercase();
            out.extend_from_slice(&tag[at..from]);
            match std::str::from_utf8(&tag[from..to]) {
                Ok(link) if wanted.contains(&name.as_str()) => out.extend_from_slice(self.place.rewrite(link).as_bytes()),
                _ => out.extend_from_slice(&tag[from..to]),
            }
            out.extend_from_slice(&tag[to..next]);
            at = next;
        }
    }
}

/// How long the tag, comment or lone `<` is that the text begins with; `None` when its end has not come.
fn tag_length(text: &[u8], in_raw_text: bool) -> Option<usize> {
    let after = |found: Option<usize>, more: usize| found.map(|at| at + more);
    let find = |needle: &[u8], from: usize| text.get(from..)?.windows(needle.len()).position(|w| w == needle).map(|at| at + from);
    match text.get(1)? {
        b'!' if b"<!--".starts_with(&text[..text.len().min(4)]) && text.len() < 4 => None,
        b'!' if !in_raw_text && text.starts_with(b"<!--") => after(find(b"-->", 4), 3),
        b'/' => after(find(b">", 2), 1),
        b'!' | b'?' if !in_raw_text => after(find(b">", 2), 1),
        letter if letter.is_ascii_alphabetic() && !in_raw_text => {
            let mut quote = None;
            let mut value = false;
            for (at, byte) in text.iter().enumerate().skip(2) {
                match (quote, *byte) {
                    (Some(open), byte) if open == byte => quote = None,
                    (Some(_), _) => {}
                    (None, b'>') => return Some(at + 1),
                    // a quote opens a value only where one begins
                    (None, byte @ (b'"' | b'\'')) if value => quote = Some(byte),
                    (None, byte) => value = byte == b'=' || (value && byte.is_ascii_whitespace()),
                }
            }
            None
        }
        _ => Some(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> Place {
        Place { base: "/api/v1/namespaces/n/pods/p/proxy".to_owned(), hosts: vec!["10.0.0.2:80".to_owned()] }
    }

    #[test]
    fn links_to_the_server_itself_lead_through_the_proxy() {
        let check = |link: &str, expected: &str| assert_eq!(place().rewrite(link), expected, "{link}");
        check("/x?y=/z#w", "/api/v1/namespaces/n/pods/p/proxy/x?y=/z#w");
        check("http://10.0.0.2:80/x", "/api/v1/namespaces/n/pods/p/proxy/x");
        check("//10.0.0.2:80/x", "/api/v1/namespaces/n/pods/p/proxy/x");
        check("/api/v1/namespaces/n/pods/p/proxy/x", "/api/v1/namespaces/n/pods/p/proxy/x");
        check("/api/v1/namespaces/n/pods/p/proxyx", "/api/v1/namespaces/n/pods/p/proxy/api/v1/namespaces/n/pods/p/proxyx");
        for same in ["x/y", "../x", "https://example.test/x", "//example.test/x", "mailto:a@example.test", "#here", "?q=http://a/b", ""] {
            check(same, same);
        }
    }

    #[test]
    fn tags_are_rewritten_however_they_are_cut() {
        let page = "<!DOCTYPE html><html><!-- <a href=\"/c\"> --><A class=big HREF = '/a?b=1&amp;c' title=\"x > y\">1 < 2</A>\
            <img src=/i/><script>if (a<b) { s = '<a href=\"/no\">' }</script><a name=q href=\"rel\">r</a><br/><form action=\"/f\" disabled></form>";
        let base = place().base;
        let expected = format!(
            "<!DOCTYPE html><html><!-- <a href=\"/c\"> --><A class=big HREF = '{base}/a?b=1&amp;c' title=\"x > y\">1 < 2</A>\
            <img src={base}/i/><script>if (a<b) {{ s = '<a href=\"/no\">' }}</script><a name=q href=\"rel\">r</a><br/>\
            <form action=\"{base}/f\" disabled></form>"
        );
        for cut in 1..page.len() {
            let mut rewriter = Page::new(place());
            let mut out = Vec::new();
            for piece in page.as_bytes().chunks(cut) {
                out.extend(rewriter.push(piece));
            }
            out.extend(rewriter.finish());
            assert_eq!(String::from_utf8(out).unwrap(), expected, "in pieces of {cut}");
        }
    }

    #[test]
    fn what_is_no_page_passes_unharmed() {
        for text in ["<", "a < b", "<a href=\"/unfinished", "<a href=/x", "<!--", "</", "<a =\"/x\">", "<a href>", "<a href=>", "<a/>"] {
            let mut rewriter = Page::new(place());
            let mut out = rewriter.push(text.as_bytes());
            out.extend(rewriter.finish());
            assert_eq!(String::from_utf8(out).unwrap(), text);
        }
    }
}
