//! Sizes, counts and durations as text, and sizes as users type them.
//!
//! Sizes are decimal (kB, MB, GB), as the Hub and disk vendors count.

/// Formats bytes as `18.2 GB`: three digits at most before the point, one after it.
#[must_use]
pub fn bytes(n: u64) -> String {
    scaled(n, &["B", "kB", "MB", "GB", "TB", "PB"])
}

/// Formats a count as `9.41 B` would be read by people who count parameters: `15.0 M`.
#[must_use]
pub fn count(n: u64) -> String {
    scaled(n, &["", "K", "M", "B", "T", "P"]).trim_end().to_owned()
}

fn scaled(n: u64, suffixes: &[&str]) -> String {
    if n < 1000 {
        return format!("{n} {}", suffixes[0]);
    }
    let mut value = n as f64;
    let mut step = 0;
    // 999.95 would print as 1000.0: move on to the next suffix before that.
    while value >= 999.95 && step + 1 < suffixes.len() {
        value /= 1000.0;
        step += 1;
    }
    format!("{value:.1} {}", suffixes[step])
}

/// Formats seconds as `42s`, `1m 02s`, `3h 05m`.
#[must_use]
pub fn duration(secs: f64) -> String {
    let total = secs.max(0.0).round() as u64;
    match total {
        0..=59 if secs < 10.0 => format!("{secs:.1}s"),
        0..=59 => format!("{total}s"),
        60..=3599 => format!("{}m {:02}s", total / 60, total % 60),
        _ => format!("{}h {:02}m", total / 3600, total % 3600 / 60),
    }
}

/// A text that is no amount of what it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not {wanted}")]
pub struct NoAmount {
    /// What was given.
    pub text: String,
    /// What it should be.
    pub wanted: &'static str,
    /// How that is written.
    pub help: &'static str,
}

/// Parses a size such as `50GB`, `500M`, `4096`: decimal suffixes, as transformers and
/// llama.cpp read them.
///
/// # Errors
/// Names the text that is not a size.
pub fn parse_size(text: &str) -> Result<u64, NoAmount> {
    let bad = || NoAmount {
        text: text.to_owned(),
        wanted: "a size above zero",
        help: "write 500MB or 50GB",
    };
    let trimmed = text.trim();
    let split = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
    let (number, suffix) = trimmed.split_at(split);
    let factor: f64 = match suffix.trim().to_ascii_uppercase().as_str() {
        "" | "B" => 1.0,
        "K" | "KB" => 1e3,
        "M" | "MB" => 1e6,
        "G" | "GB" => 1e9,
        "T" | "TB" => 1e12,
        _ => return Err(bad()),
    };
    let size = number.parse::<f64>().map_err(|_| bad())? * factor;
    if (1.0..9e18).contains(&size) { Ok(size as u64) } else { Err(bad()) }
}

/// Returns `1 file`, `3 files` or `2 trajectories`.
#[must_use]
pub fn plural(n: u64, word: &str) -> String {
    amount(n as f64, word)
}

/// Returns `1 point`, `0.5 points` or `2 points`: two digits after the point at most.
#[must_use]
pub fn amount(value: f64, word: &str) -> String {
    let digits = format!("{value:.2}");
    let digits = digits.trim_end_matches('0').trim_end_matches('.');
    match word.strip_suffix('y') {
        _ if digits == "1" => format!("1 {word}"),
        Some(stem) if !stem.ends_with(['a', 'e', 'o', 'u']) => format!("{digits} {stem}ies"),
        _ => format!("{digits} {word}s"),
    }
}

/// Returns bytes as lower-case hexadecimal digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        write!(text, "{byte:02x}").expect("strings grow");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{amount, bytes, count, duration, parse_size, plural};

    #[test]
    fn sizes_read_as_people_write_them() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(999_950), "1.0 MB");
        assert_eq!(bytes(18_200_000_000), "18.2 GB");
        assert_eq!(count(1_882_000_000), "1.9 B");
        assert_eq!(duration(62.0), "1m 02s");
        assert_eq!(plural(1, "file"), "1 file");
        assert_eq!(plural(20, "file"), "20 files");
        assert_eq!(plural(0, "trajectory"), "0 trajectories");
        assert_eq!(plural(2, "key"), "2 keys");
        assert_eq!(amount(0.01 * 100.0, "point"), "1 point");
        assert_eq!(amount(0.07 * 100.0, "point"), "7 points");
        assert_eq!(amount(0.5, "point"), "0.5 points");
        assert_eq!(plural(u64::MAX >> 12, "byte"), "4503599627370495 bytes");
    }

    #[test]
    fn sizes_parse_and_refuse() {
        assert_eq!(parse_size("50GB"), Ok(50_000_000_000));
        assert_eq!(parse_size("1.5k"), Ok(1500));
        for bad in ["", "GB", "5 apples", "-1", "0", "1e30T"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }
}
