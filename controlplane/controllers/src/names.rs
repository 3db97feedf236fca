//! Names derived from what is known, so that deciding twice cannot create twice.

use sha2::{Digest, Sha256};

/// Without vowels and look-alikes, as upstream: no words by accident.
const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
const SUFFIX_LENGTH: usize = 5;
const NAME_MAX: usize = 63;

/// `PREFIX` and five characters that depend on the parts. The prefix is cut so that the name stays a label.
pub(crate) fn derived(prefix: &str, parts: &[&str]) -> String {
    let prefix: String = prefix.chars().take(NAME_MAX - SUFFIX_LENGTH).collect();
    format!("{prefix}{}", suffix(parts))
}

fn suffix(parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    hash.finalize().iter().take(SUFFIX_LENGTH).map(|byte| char::from(ALPHABET[usize::from(*byte) % ALPHABET.len()])).collect()
}

/// A text as characters of the same alphabet, one for one.
pub(crate) fn safe_encode(text: &str) -> String {
    text.bytes().map(|byte| char::from(ALPHABET[usize::from(byte) % ALPHABET.len()])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_labels_and_differ() {
        let long = "x".repeat(70);
        assert_eq!(derived(&long, &["a"]).len(), 63);
        assert_ne!(derived("web-", &["uid", "1"]), derived("web-", &["uid", "2"]));
        assert_eq!(derived("web-", &["uid", "1"]), derived("web-", &["uid", "1"]));
    }
}
