//! `--max-rate`: a rate as tc(8) writes it.

use std::{
    fmt::{self, Display, Formatter},
    str::FromStr,
};

use mirror_common::budget::{RATE_MAX, Unit};

/// Bytes or frames a second, at least 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// How many.
    pub per_second: u64,
    /// Of what.
    pub unit: Unit,
}

/// What a unit stands for, in the smallest one of its kind: bits or frames a second.
const UNITS: [(&str, f64, Unit); 9] = [
    ("bit", 1.0, Unit::Bytes),
    ("kbit", 1e3, Unit::Bytes),
    ("mbit", 1e6, Unit::Bytes),
    ("gbit", 1e9, Unit::Bytes),
    ("tbit", 1e12, Unit::Bytes),
    ("pps", 1.0, Unit::Frames),
    ("kpps", 1e3, Unit::Frames),
    ("mpps", 1e6, Unit::Frames),
    ("gpps", 1e9, Unit::Frames),
];

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const FORM: &str = "a number and bit, kbit, mbit or gbit (bits a second), or pps, kpps or mpps (frames a second), \
                            as in 500mbit or 80kpps";
        let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = text.split_at(split);
        let unit = unit.trim().to_ascii_lowercase();
        let number: f64 = number.parse().map_err(|_| format!("expected {FORM}"))?;
        let Some((_, factor, unit)) = UNITS.into_iter().find(|(name, ..)| *name == unit) else {
            return Err(match unit.as_str() {
                "" => format!("the unit is missing: expected {FORM}"),
                // tc's are bytes a second, which hardly anybody knows who writes them.
                "bps" | "kbps" | "mbps" | "gbps" => format!("{unit} may be bits or bytes: expected {FORM}"),
                _ => format!("{unit} is not a unit: expected {FORM}"),
            });
        };
        let (least, most) = match unit {
            Unit::Bytes => (8.0, RATE_MAX as f64 * 8.0),
            Unit::Frames => (1.0, RATE_MAX as f64),
        };
        let count = number * factor;
        if count < least {
            return Err(format!("must be at least 8bit or 1pps: expected {FORM}"));
        }
        if count > most {
            return Err("must be at most 400gbit or 50gpps".into());
        }
        // Within 1 and RATE_MAX.
        let per_second = if unit == Unit::Bytes { count / 8.0 } else { count } as u64;
        Ok(Self { per_second, unit })
    }
}

/// In the largest unit that leaves a number of at least 1.
impl Display for Rate {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let count = self.per_second as f64 * if self.unit == Unit::Bytes { 8.0 } else { 1.0 };
        let mut of_kind = UNITS.iter().filter(|(_, factor, unit)| *unit == self.unit && *factor <= count);
        match of_kind.next_back() {
            Some((name, factor, _)) => write!(f, "{}{name}", count / factor),
            None => write!(f, "{count}"),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn rates_are_those_of_tc() {
        for (text, per_second, unit, shown) in [
            ("500mbit", 62_500_000, Unit::Bytes, "500mbit"),
            ("2Gbit", 250_000_000, Unit::Bytes, "2gbit"),
            ("1.5gbit", 187_500_000, Unit::Bytes, "1.5gbit"),
            ("64 kbit", 8_000, Unit::Bytes, "64kbit"),
            ("8bit", 1, Unit::Bytes, "8bit"),
            ("400gbit", RATE_MAX, Unit::Bytes, "400gbit"),
            ("80kpps", 80_000, Unit::Frames, "80kpps"),
            ("1mpps", 1_000_000, Unit::Frames, "1mpps"),
            ("1pps", 1, Unit::Frames, "1pps"),
        ] {
            let rate: Rate = text.parse().unwrap();
            assert_eq!(rate, Rate { per_second, unit }, "{text}");
            assert_eq!(rate.to_string(), shown);
        }
    }

    #[test]
    fn what_is_no_rate_says_what_one_is() {
        for (text, word) in [
            ("", "500mbit"),
            ("fast", "500mbit"),
            ("100", "unit is missing"),
            ("100mbps", "bits or bytes"),
            ("100mib", "not a unit"),
            ("0mbit", "at least"),
            ("7bit", "at least"),
            ("0.5pps", "at least"),
            ("-1mbit", "500mbit"),
            ("1.2.3mbit", "500mbit"),
            ("1tbit", "at most"),
            ("99999999999999999999999gbit", "at most"),
        ] {
            let error = text.parse::<Rate>().unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
        }
    }
}
