//! Times as the API writes them: RFC 3339, UTC, milliseconds; durations in seconds.

/// A stored time.
#[must_use]
pub fn shown(ms: i64) -> String {
    match jiff::Timestamp::from_millisecond(ms) {
        Ok(at) => format!("{at:.3}"),
        Err(_) => String::new(),
    }
}

/// A stored duration.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "durations of builds are small")]
pub fn seconds(ms: i64) -> f64 {
    ms as f64 / 1_000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc_3339_with_milliseconds() {
        assert_eq!(shown(1_795_571_220_007), "2026-11-25T01:47:00.007Z");
        assert_eq!(shown(i64::MAX), "");
    }
}
