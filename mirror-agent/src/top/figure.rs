//! Figures in few characters.

/// A number with three digits or four characters, such as `0`, `7.5`, `12.3k`, `999M`.
#[must_use]
pub fn short(number: f64) -> String {
    const UNITS: [&str; 6] = ["", "k", "M", "G", "T", "P"];
    let mut number = number.max(0.0);
    let mut unit = 0;
    // What would be rounded up to 1000 has the next unit.
    while number >= 999.5 && unit + 1 < UNITS.len() {
        number /= 1000.0;
        unit += 1;
    }
    let decimals = match number {
        number if number == number.round() && unit == 0 => 0,
        number if number < 9.995 && unit > 0 => 2,
        number if number < 99.95 => 1,
        _ => 0,
    };
    format!("{number:.decimals$}{}", UNITS[unit])
}

/// A rate, or `-` where it is not known yet.
#[must_use]
pub fn rate(rate: Option<f64>) -> String {
    rate.map_or_else(|| "-".into(), short)
}

/// Bytes in powers of two, such as `16.0 MiB`.
#[must_use]
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut number = bytes as f64;
    let mut unit = 0;
    while number >= 1024.0 && unit + 1 < UNITS.len() {
        number /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{number:.1} {}", UNITS[unit]) }
}

/// A time, such as `59s`, `12m03s`, `2h05m`, `3d04h`.
#[must_use]
pub fn time(seconds: f64) -> String {
    // What is not a number is 0.
    let seconds = seconds.max(0.0) as u64;
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{minutes}m{:02}s", seconds % 60),
        3600..86_400 => format!("{hours}h{:02}m", minutes % 60),
        _ => format!("{days}d{:02}h", hours % 24),
    }
}

/// A part of a whole, such as `12.3%`.
#[must_use]
pub fn share(part: f64, whole: f64) -> String {
    if whole > 0.0 { format!("{:.1}%", part * 100.0 / whole) } else { "-".into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_short() {
        for (number, text) in [
            (0.0, "0"),
            (-1.0, "0"),
            (0.25, "0.2"),
            (7.0, "7"),
            (12.34, "12.3"),
            (999.0, "999"),
            (999.7, "1.00k"),
            (1234.0, "1.23k"),
            (12_345.0, "12.3k"),
            (123_456.0, "123k"),
            (999_499.0, "999k"),
            (999_500.0, "1.00M"),
            (9.996e9, "10.0G"),
            (1e18, "1000P"),
        ] {
            assert_eq!(short(number), text, "{number}");
        }
        assert_eq!((rate(None).as_str(), rate(Some(2e3)).as_str()), ("-", "2.00k"));
        assert_eq!([0, 1023, 1024, 16 << 20].map(bytes), ["0 B", "1023 B", "1.0 KiB", "16.0 MiB"]);
        assert_eq!(
            [0.9, 59.9, 723.0, 7500.0, 273_600.0].map(time),
            ["0s", "59s", "12m03s", "2h05m", "3d04h"]
        );
        assert_eq!((share(1.0, 8.0).as_str(), share(1.0, 0.0).as_str()), ("12.5%", "-"));
    }
}
