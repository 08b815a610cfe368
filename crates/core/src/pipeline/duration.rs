//! Durations as people write them: `500ms`, `30s`, `1h30m`, `14d`.

/// Longest duration that a file may name: a year.
const LONGEST_MS: u64 = 366 * 24 * 3_600 * 1_000;

/// Milliseconds of `1h30m`; `None` when it is not a duration or too long. Units must descend.
#[must_use]
pub fn duration_ms(text: &str) -> Option<u64> {
    let mut rest = text.trim();
    let mut total: u64 = 0;
    let mut smallest = u64::MAX;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        if digits == 0 || digits > 9 {
            return None;
        }
        let number: u64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let letters = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
        let unit = match &rest[..letters] {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return None,
        };
        if unit >= smallest {
            return None;
        }
        smallest = unit;
        total = total.checked_add(number.checked_mul(unit)?)?;
        rest = &rest[letters..];
    }
    (total <= LONGEST_MS).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_strictly() {
        for (text, ms) in [
            ("500ms", 500),
            ("30s", 30_000),
            ("1h30m", 5_400_000),
            ("14d", 14 * 86_400_000),
            ("0s", 0),
        ] {
            assert_eq!(duration_ms(text), Some(ms), "{text}");
        }
        for bad in [
            "",
            "1",
            "h",
            "-1s",
            "1m1h",
            "1m1m",
            "1.5h",
            "999999999d",
            "1w",
            "1 s",
        ] {
            assert_eq!(duration_ms(bad), None, "{bad}");
        }
    }
}
