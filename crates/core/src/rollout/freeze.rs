//! Times at which no rollout starts in an environment. What is under way goes on, and a rollback is never
//! frozen.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::pipeline::duration_ms;
use crate::time::Timestamp;
use crate::trigger::cron;

/// Windows of one environment.
const WINDOWS_MAX: usize = 100;
/// A window that comes again is at most this long: a week.
const LENGTH_MAX_MS: u64 = 7 * 24 * 3_600 * 1_000;

/// One window: from one moment to another, or again and again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Freeze {
    /// `2026-12-24T00:00:00Z`.
    pub from: String,
    /// The same.
    pub to: String,
    /// A schedule in UTC, instead of `from` and `to`: when it begins.
    pub cron: String,
    /// With `cron`: how long it lasts, such as `48h`.
    pub length: String,
    /// Why.
    pub reason: String,
}

fn moment(text: &str) -> Result<Timestamp, String> {
    let read: Result<jiff::Timestamp, _> = text.parse();
    read.map(|at| Timestamp::from_millis(at.as_millisecond()))
        .map_err(|_| format!("freeze: `{text}` is no moment; write 2026-12-24T00:00:00Z"))
}

impl Freeze {
    /// Until when this window lasts, if `now` is within it.
    fn until(&self, now: Timestamp) -> Result<Option<Timestamp>, String> {
        if self.cron.is_empty() {
            let (from, to) = (moment(&self.from)?, moment(&self.to)?);
            if to <= from {
                return Err("freeze: `to` must come after `from`".to_owned());
            }
            return Ok((from <= now && now < to).then_some(to));
        }
        if !self.from.is_empty() || !self.to.is_empty() {
            return Err("freeze: either `from` and `to`, or `cron` and `length`".to_owned());
        }
        cron::parse(&self.cron).map_err(|problem| format!("freeze: {problem}"))?;
        let length = duration_ms(&self.length).filter(|ms| (1..=LENGTH_MAX_MS).contains(ms));
        let length = length.ok_or("freeze: `length` must be a duration of at most a week")?;
        let began = cron::previous(&self.cron, now);
        let ends = began.map(|began| began.after(Duration::from_millis(length)));
        Ok(ends.filter(|ends| now < *ends))
    }
}

/// Whether windows can be read.
///
/// # Errors
/// What is wrong with the first that cannot.
pub fn check_freezes(windows: &[Freeze]) -> Result<(), String> {
    if windows.len() > WINDOWS_MAX {
        return Err(format!("freeze: at most {WINDOWS_MAX} windows"));
    }
    windows
        .iter()
        .try_for_each(|window| window.until(Timestamp::EPOCH).map(drop))
}

/// Why nothing may start now. A window that cannot be read freezes: whoever wrote it meant to.
#[must_use]
pub fn frozen(windows: &[Freeze], now: Timestamp) -> Option<String> {
    windows.iter().find_map(|window| match window.until(now) {
        Ok(None) => None,
        Ok(Some(until)) => {
            let left = until.since(now).as_secs().div_ceil(60);
            Some(format!("frozen for another {left} min: {}", window.reason))
        }
        Err(problem) => Some(format!("frozen: {problem}")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        moment(text).unwrap()
    }

    #[test]
    fn a_window_freezes_from_its_beginning_to_its_end() {
        let holidays = Freeze {
            from: "2026-12-24T00:00:00Z".to_owned(),
            to: "2026-12-27T00:00:00Z".to_owned(),
            reason: "holidays".to_owned(),
            ..Freeze::default()
        };
        let windows = [holidays];
        assert_eq!(check_freezes(&windows), Ok(()));
        assert_eq!(frozen(&windows, at("2026-12-23T23:59:59Z")), None);
        let why = frozen(&windows, at("2026-12-26T23:30:00Z")).unwrap();
        assert_eq!(why, "frozen for another 30 min: holidays");
        assert_eq!(frozen(&windows, at("2026-12-27T00:00:00Z")), None);
    }

    #[test]
    fn a_window_comes_again_and_one_that_cannot_be_read_freezes() {
        let weekends = Freeze {
            cron: "0 18 * * FRI".to_owned(),
            length: "60h".to_owned(),
            reason: "weekend".to_owned(),
            ..Freeze::default()
        };
        let windows = [weekends.clone()];
        assert!(
            frozen(&windows, at("2026-11-28T12:00:00Z")).is_some(),
            "a Saturday"
        );
        assert_eq!(
            frozen(&windows, at("2026-11-30T06:00:00Z")),
            None,
            "Monday morning"
        );
        let bad = [Freeze {
            length: "a while".to_owned(),
            ..weekends
        }];
        assert!(check_freezes(&bad).is_err() && frozen(&bad, at("2026-11-30T06:00:00Z")).is_some());
        assert!(frozen(&[Freeze::default()], Timestamp::EPOCH).is_some());
    }
}
