//! Numbers out of resource quantities.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// Resource names to amounts, as in `limits` and `requests`.
pub type ResourceList = BTreeMap<String, Quantity>;

/// A quantity in billionths, or nothing when it cannot be read.
pub fn nanos(text: &str) -> Option<i128> {
    let text = text.trim();
    let split = text.find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '+' | '-'))).unwrap_or(text.len());
    let (number, suffix) = text.split_at(split);
    let (scale_num, scale_den): (i128, i128) = match suffix {
        "" => (1, 1),
        "n" => (1, 1_000_000_000),
        "u" => (1, 1_000_000),
        "m" => (1, 1_000),
        "k" => (1_000, 1),
        "M" => (1_000_000, 1),
        "G" => (1_000_000_000, 1),
        "T" => (1_000_000_000_000, 1),
        "P" => (1_000_000_000_000_000, 1),
        "E" => (1_000_000_000_000_000_000, 1),
        "Ki" => (1 << 10, 1),
        "Mi" => (1 << 20, 1),
        "Gi" => (1 << 30, 1),
        "Ti" => (1 << 40, 1),
        "Pi" => (1 << 50, 1),
        "Ei" => (1 << 60, 1),
        exponent => {
            let power: i32 = exponent.strip_prefix(['e', 'E'])?.parse().ok()?;
            let magnitude = 10i128.checked_pow(power.unsigned_abs())?;
            if power >= 0 { (magnitude, 1) } else { (1, magnitude) }
        }
    };
    let (negative, digits) = match number.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, number.strip_prefix('+').unwrap_or(number)),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let all: i128 = format!("{whole}{fraction}").parse().ok()?;
    let denominator = 10i128.checked_pow(u32::try_from(fraction.len()).ok()?)?.checked_mul(scale_den)?;
    let value = all.checked_mul(scale_num)?.checked_mul(1_000_000_000)? / denominator;
    Some(if negative { -value } else { value })
}

/// The amount in thousandths, rounded up, clamped to what an `i64` holds.
pub fn millis(quantity: &Quantity) -> i64 {
    clamp(ceil(nanos(&quantity.0).unwrap_or(0), 1_000_000))
}

/// The amount in whole units, rounded up.
pub fn units(quantity: &Quantity) -> i64 {
    clamp(ceil(nanos(&quantity.0).unwrap_or(0), 1_000_000_000))
}

/// `value / divisor` rounded up, as the downward API prints resources.
pub fn divided(value: &Quantity, divisor: &Quantity) -> i64 {
    let divisor = match nanos(&divisor.0).unwrap_or(0) {
        0 => 1_000_000_000,
        n => n,
    };
    clamp(ceil(nanos(&value.0).unwrap_or(0), divisor))
}

/// The thousandths of a named resource, nothing when it is not in the list.
pub fn get_millis(list: Option<&ResourceList>, name: &str) -> Option<i64> {
    list?.get(name).map(millis)
}

/// The whole units of a named resource.
pub fn get_units(list: Option<&ResourceList>, name: &str) -> Option<i64> {
    list?.get(name).map(units)
}

fn ceil(value: i128, by: i128) -> i128 {
    let quotient = value.div_euclid(by);
    if value.rem_euclid(by) > 0 { quotient + 1 } else { quotient }
}

fn clamp(value: i128) -> i64 {
    i64::try_from(value).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_become_numbers() {
        for (text, millis_expected) in [
            ("1", 1000),
            ("100m", 100),
            ("1.5", 1500),
            ("0.5", 500),
            ("1Ki", 1_024_000),
            ("2e3", 2_000_000),
            ("1E3", 1_000_000),
            ("1u", 1),
            ("-1", -1000),
        ] {
            assert_eq!(millis(&Quantity(text.to_owned())), millis_expected, "{text}");
        }
        assert_eq!(units(&Quantity("64Mi".to_owned())), 64 << 20);
        assert_eq!(units(&Quantity("1500m".to_owned())), 2);
        assert_eq!(nanos("many"), None);
        assert_eq!(nanos(""), None);
    }

    #[test]
    fn a_divisor_rounds_up() {
        let q = |t: &str| Quantity(t.to_owned());
        assert_eq!(divided(&q("250m"), &q("1")), 1);
        assert_eq!(divided(&q("250m"), &q("1m")), 250);
        assert_eq!(divided(&q("64Mi"), &q("1Mi")), 64);
        assert_eq!(divided(&q("32Mi"), &q("0")), 32 << 20);
    }
}
