//! Quantities: parse, compare, add, and write them in the one canonical form (`Spec:` apimachinery `resource.Quantity`).

use std::fmt;
use std::str::FromStr;

/// Billionths: the finest a quantity can be.
const NANO: i128 = 1_000_000_000;
/// No quantity is greater than this many units.
const MAX_UNITS: i128 = i64::MAX as i128;

/// How a quantity was written, and is written again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// `m`, none, `k`, `M`, ...
    DecimalSi,
    /// `Ki`, `Mi`, ...
    BinarySi,
    /// `e3`, `e6`, ...
    DecimalExponent,
}

/// An exact number of units with the format it is written in. Equality and order look at the number alone.
#[derive(Clone, Copy, Debug)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

/// Text that is no quantity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// Not of the grammar.
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Syntax,
    /// A number that has digits in wrong places.
    #[error("unable to parse numeric part of quantity")]
    Number,
    /// A suffix that means nothing.
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

impl Quantity {
    /// Nothing at all.
    pub const ZERO: Self = Self { nanos: 0, format: Format::DecimalSi };

    /// Whole units.
    pub fn from_units(units: i64, format: Format) -> Self {
        Self { nanos: i128::from(units) * NANO, format }
    }

    /// Thousandths, as CPU is counted.
    pub fn from_millis(millis: i64) -> Self {
        Self { nanos: i128::from(millis) * (NANO / 1000), format: Format::DecimalSi }
    }

    /// Whole units, rounded up; saturates.
    pub fn units(self) -> i64 {
        saturate(div_up(self.nanos, NANO))
    }

    /// Thousandths, rounded up; saturates.
    pub fn millis(self) -> i64 {
        saturate(div_up(self.nanos, NANO / 1000))
    }

    /// Rounded up to thousandths, as resource lists keep quantities.
    #[must_use]
    pub fn rounded_to_millis(self) -> Self {
        const STEP: i128 = NANO / 1000;
        Self { nanos: div_up(self.nanos, STEP).saturating_mul(STEP), format: self.format }
    }

    /// How it is written.
    pub fn format(self) -> Format {
        self.format
    }

    /// Whether it is below zero.
    pub fn is_negative(self) -> bool {
        self.nanos < 0
    }

    /// Whether it is nothing.
    pub fn is_zero(self) -> bool {
        self.nanos == 0
    }

    /// Whether it is a whole number of units.
    pub fn is_integer(self) -> bool {
        self.nanos % NANO == 0
    }

    /// The sum, in this one's format (the other's if this is zero).
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        let format = if self.is_zero() { other.format } else { self.format };
        Self { nanos: self.nanos.saturating_add(other.nanos), format }
    }

    /// The difference, in this one's format.
    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        let format = if self.is_zero() { other.format } else { self.format };
        Self { nanos: self.nanos.saturating_sub(other.nanos), format }
    }

    /// The canonical text of any quantity's text.
    ///
    /// # Errors
    /// [`QuantityError`] when it is no quantity.
    pub fn canonical(text: &str) -> Result<String, QuantityError> {
        text.parse::<Self>().map(|quantity| quantity.to_string())
    }
}

fn saturate(value: i128) -> i64 {
    i64::try_from(value).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX })
}

/// Rounds away from zero.
fn div_up(value: i128, by: i128) -> i128 {
    let whole = value / by;
    if value % by == 0 { whole } else { whole + value.signum() }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

impl FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let (negative, unsigned) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            Some(_) => (false, text),
            None => return Err(QuantityError::Syntax),
        };
        let number_end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
        let (number, suffix) = unsigned.split_at(number_end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && fraction.is_empty() {
            return Err(QuantityError::Syntax);
        }
        if fraction.contains('.') {
            return Err(QuantityError::Number);
        }
        let (numerator, denominator, format) = scale(suffix)?;
        let nanos = magnitude(whole, fraction, numerator, denominator).min(MAX_UNITS * NANO);
        Ok(Self { nanos: if negative { -nanos } else { nanos }, format })
    }
}

/// The suffix as a fraction of whole powers.
fn scale(suffix: &str) -> Result<(i128, i128, Format), QuantityError> {
    let decimal = |exponent: u32| Ok((10_i128.pow(exponent), 1, Format::DecimalSi));
    let small = |exponent: u32| Ok((1, 10_i128.pow(exponent), Format::DecimalSi));
    let binary = |exponent: u32| Ok((1_i128 << exponent, 1, Format::BinarySi));
    match suffix {
        "n" => small(9),
        "u" => small(6),
        "m" => small(3),
        "" => decimal(0),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(10),
        "Mi" => binary(20),
        "Gi" => binary(30),
        "Ti" => binary(40),
        "Pi" => binary(50),
        "Ei" => binary(60),
        _ => {
            let Some(exponent) = suffix.strip_prefix(['e', 'E']) else {
                let known = suffix.chars().all(|c| "eEinumkKMGTP+-0123456789".contains(c));
                return Err(if known { QuantityError::Suffix } else { QuantityError::Syntax });
            };
            let digits = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
            if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
                return Err(QuantityError::Suffix);
            }
            let exponent: i32 = exponent.parse().map_err(|_too_large: std::num::ParseIntError| QuantityError::Suffix)?;
            let power = 10_i128.pow(exponent.unsigned_abs().min(30));
            Ok(if exponent < 0 { (1, power, Format::DecimalExponent) } else { (power, 1, Format::DecimalExponent) })
        }
    }
}

/// Billionths of `whole.fraction * numerator / denominator`, rounded up, saturating.
fn magnitude(whole: &str, fraction: &str, numerator: i128, denominator: i128) -> i128 {
    let mut digits: i128 = 0;
    let mut places: u32 = 0;
    let mut rest = false;
    for (index, digit) in whole.bytes().chain(fraction.bytes()).enumerate() {
        if index >= whole.len() {
            if places >= 18 {
                rest |= digit != b'0';
                continue;
            }
            places += 1;
        }
        digits = digits.saturating_mul(10).saturating_add(i128::from(digit - b'0'));
    }
    // multiply in steps, so that small numbers with long fractions stay exact
    let divisor = denominator.saturating_mul(10_i128.pow(places));
    let Some(scaled) = digits.checked_mul(numerator) else { return i128::MAX };
    let (units, left) = (scaled / divisor, scaled % divisor);
    let Some(units) = units.checked_mul(NANO) else { return i128::MAX };
    // `left < divisor`; when that is huge, what the product loses is below a billionth
    let nanos = match left.checked_mul(NANO) {
        Some(product) => div_up(product, divisor),
        None => div_up(left, (divisor / NANO).max(1)),
    };
    let sum = units.saturating_add(nanos);
    if rest && scaled == 0 { sum.max(1) } else { sum }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const DECIMAL: [&str; 10] = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"];
        const BINARY: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
        if self.nanos == 0 {
            return f.write_str("0");
        }
        // below 1 Ki, and for fractions, binary quantities are written as decimal ones
        let binary = self.format == Format::BinarySi && self.nanos % NANO == 0 && (self.nanos / NANO).abs() >= 1024;
        if binary {
            let (mut value, mut step) = (self.nanos / NANO, 0);
            while value % 1024 == 0 && step + 1 < BINARY.len() {
                value /= 1024;
                step += 1;
            }
            return write!(f, "{value}{}", BINARY[step]);
        }
        let (mut value, mut step) = (self.nanos, 0);
        while value % 1000 == 0 && step + 1 < DECIMAL.len() {
            value /= 1000;
            step += 1;
        }
        if self.format == Format::DecimalExponent {
            let exponent = i32::try_from(step).unwrap_or(0) * 3 - 9;
            return if exponent == 0 { write!(f, "{value}") } else { write!(f, "{value}e{exponent}") };
        }
        write!(f, "{value}{}", DECIMAL[step])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn canonical_forms_are_upstreams() {
        for (text, expected) in [
            ("0", "0"),
            ("0Mi", "0"),
            ("-0", "0"),
            ("1.5", "1500m"),
            ("1.5Gi", "1536Mi"),
            ("1024Mi", "1Gi"),
            ("0.5Ki", "512"),
            ("1000m", "1"),
            ("100m", "100m"),
            ("1000k", "1M"),
            ("1024", "1024"),
            ("1000", "1k"),
            ("1e3", "1e3"),
            ("1E3", "1e3"),
            ("12e4", "120e3"),
            ("1E", "1E"),
            ("0.1m", "100u"),
            ("1.0000000001", "1000000001n"),
            (".5", "500m"),
            ("5.", "5"),
            ("+7", "7"),
            ("-7Mi", "-7Mi"),
            ("500Mi", "500Mi"),
            ("1.1Mi", "1153433600m"),
            ("100000", "100k"),
            ("9223372036854775808", "9223372036854775807"),
            ("64Gi", "64Gi"),
        ] {
            assert_eq!(Quantity::canonical(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for (text, expected) in [
            ("", QuantityError::Syntax),
            ("abc", QuantityError::Syntax),
            ("1 Mi", QuantityError::Syntax),
            ("1.1.1", QuantityError::Number),
            ("1mm", QuantityError::Suffix),
            ("1e", QuantityError::Suffix),
            ("--1", QuantityError::Syntax),
        ] {
            assert_eq!(text.parse::<Quantity>().unwrap_err(), expected, "{text}");
        }
    }

    #[test]
    fn comparing_and_adding_look_at_the_number() {
        let q = |text: &str| text.parse::<Quantity>().unwrap();
        assert_eq!(q("1"), q("1000m"));
        assert!(q("1Gi") > q("1G"));
        assert_eq!(q("100m").plus(q("1")).to_string(), "1100m");
        assert_eq!(q("0").plus(q("1Gi")).to_string(), "1Gi");
        assert_eq!(q("1Gi").minus(q("512Mi")).to_string(), "512Mi");
        assert_eq!((q("1.5").millis(), q("1.5").units(), q("-1.5").units()), (1500, 2, -2));
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(units in -1_000_000_000_000_i64..1_000_000_000_000, milli in 0_i64..1000,
                                      suffix in prop::sample::select(vec!["", "m", "k", "M", "Ki", "Mi", "e3"])) {
            let text = format!("{units}.{milli:03}{suffix}");
            let quantity: Quantity = text.parse().unwrap();
            let written = quantity.to_string();
            let again: Quantity = written.parse().unwrap();
            prop_assert_eq!(quantity, again);
            prop_assert_eq!(again.to_string(), written);
        }
    }
}
