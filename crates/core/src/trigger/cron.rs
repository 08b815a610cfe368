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
    let due = parse(schedule).ok()?;
    instant(due.find_next_occurrence(&civil(now)?, false).ok()?)
}

/// The last instant up to `now` at which the schedule was due; `None` when it never was.
#[must_use]
pub fn previous(schedule: &str, now: Timestamp) -> Option<Timestamp> {
    let due = parse(schedule).ok()?;
    instant(due.find_previous_occurrence(&civil(now)?, true).ok()?)
}

fn civil(at: Timestamp) -> Option<DateTime> {
    let at = jiff::Timestamp::from_millisecond(at.as_millis()).ok()?;
    Some(at.to_zoned(TimeZone::UTC).datetime())
}

fn instant(due: DateTime) -> Option<Timestamp> {
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
    fn the_last_time_is_found_too_and_counts_when_it_is_now() {
        let night = Timestamp::from_millis(1_795_575_600_000);
        for now in [night, night.after(std::time::Duration::from_secs(3_600))] {
            assert_eq!(previous("0 3 * * *", now), Some(night));
        }
        let before = night.before(std::time::Duration::from_millis(1));
        let day = std::time::Duration::from_secs(86_400);
        assert_eq!(previous("0 3 * * *", before), Some(night.before(day)));
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
