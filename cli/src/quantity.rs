//! Amounts on the command line.

/// CPUs as Kubernetes writes them, in thousandths: `2`, `1.5`, `500m`.
///
/// # Errors
/// A text for the user.
pub fn cpu_millis(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is no amount of CPUs: write 2, 1.5 or 500m");
    if let Some(millis) = text.strip_suffix('m') {
        return millis.parse().map_err(|_invalid: std::num::ParseIntError| wrong());
    }
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if fraction.len() > 3 || (whole.is_empty() && fraction.is_empty()) {
        return Err(wrong());
    }
    let number = |digits: &str| if digits.is_empty() { Ok(0) } else { digits.parse::<u64>().map_err(|_invalid| wrong()) };
    Ok(number(whole)? * 1000 + number(&format!("{fraction:0<3}"))?)
}

/// Bytes as Kubernetes writes them: `512Mi`, `2Gi`, `1000000`.
///
/// # Errors
/// A text for the user.
pub fn bytes(text: &str) -> Result<u64, String> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    let factor: u64 = match unit {
        "" => 1,
        "k" => 1000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        _ => return Err(format!("{text:?} is no amount of memory: write 512Mi or 2Gi")),
    };
    digits
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(factor))
        .ok_or_else(|| format!("{text:?} is no amount of memory: write 512Mi or 2Gi"))
}

/// Thousandths of CPUs for people: `1`, `1.5`.
pub fn show_cpu(millis: u64) -> String {
    let text = format!("{}.{:03}", millis / 1000, millis % 1000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_read_as_kubernetes_writes_them() {
        assert_eq!((cpu_millis("2"), cpu_millis("1.5"), cpu_millis("250m"), cpu_millis(".5")), (Ok(2000), Ok(1500), Ok(250), Ok(500)));
        assert!(cpu_millis("two").is_err() && cpu_millis("").is_err() && cpu_millis("1.2345").is_err());
        assert_eq!((bytes("512Mi"), bytes("2Gi"), bytes("7")), (Ok(512 << 20), Ok(2 << 30), Ok(7)));
        assert!(bytes("2GB").is_err() && bytes("").is_err());
        assert_eq!((show_cpu(1000), show_cpu(1500), show_cpu(250)), ("1".to_owned(), "1.5".to_owned(), "0.25".to_owned()));
    }
}
