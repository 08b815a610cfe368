//! Schedules: five cron fields, in UTC.

use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use crate::time::Timestamp;

/// Reads a schedule.
///
/// # Errors
/// What is wrong with it, in words.
pub fn parse(schedule: &str) -> Result<Cron, String> {
    if schedule.len() > 100 {
        return Err("a schedule is at most 100 characters".to_owned());
    }
    CronParser::builder()
        .seconds(Seconds::Disallowed)
        .year(Year::Disallowed)
        .build()
        .parse(schedule)
        .map_err(|e| e.to_string())
}

/// The first instant after `now` at which the schedule is due; `None` when it never is again.
#[must_use]
pub fn next(schedule: &str, now: Timestamp) -> Option<Timestamp> {
    let cron = parse(schedule).ok()?;
    let at: DateTime = jiff::Timestamp::from_millisecond(now.as_millis())
        .ok()?
        .to_zoned(TimeZone::UTC)
        .datetime();
    let due = cron.find_next_occurrence(&at, false).ok()?;
    let instant = due.to_zoned(TimeZone::UTC).ok()?.timestamp();
    Some(Timestamp::from_millis(instant.as_millisecond()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_night_is_found_in_utc() {
        // 2026-11-25T01:47:00Z
        let now = Timestamp::from_millis(1_795_571_220_000);
        let due = next("0 3 * * *", now).map(Timestamp::as_millis);
        assert_eq!(due, Some(1_795_575_600_000));
        let again = next("0 3 * * *", Timestamp::from_millis(1_795_575_600_000));
        assert_eq!(again.map(Timestamp::as_millis), Some(1_795_662_000_000));
    }

    #[test]
    fn what_is_no_schedule_is_refused() {
        for bad in [
            "",
            "* * * *",
            "61 * * * *",
            "0 0 0 * * *",
            "often",
            &"0 ".repeat(80),
        ] {
            assert!(parse(bad).is_err(), "{bad}");
            assert_eq!(next(bad, Timestamp::EPOCH), None);
        }
    }
}
