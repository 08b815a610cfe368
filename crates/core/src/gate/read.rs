//! `gates:` of the pipeline file, read. What nothing here evaluates is refused: a gate must never look
//! as if it had passed.

use serde_json::{Map, Value};

use super::binomial::whole;
use super::read_custom::read_custom;
use super::rules::{ErrorRule, GateRules, LatencyRule, MemoryRule, Mode, RestartRule};
use crate::pipeline::duration_ms;

/// Reads `gates:`; nothing given = the defaults.
///
/// # Errors
/// A sentence that names the key.
pub fn read_rules(gates: &Value) -> Result<GateRules, String> {
    let mut rules = GateRules::default();
    let gates = match gates {
        Value::Null => return Ok(rules),
        Value::Object(gates) => gates,
        _ => return Err("must be a map of gates".to_owned()),
    };
    let mut every_ms = 0;
    for (name, value) in gates {
        match name.as_str() {
            "mode" => match value.as_str() {
                Some("sequential") => rules.mode = Mode::Sequential,
                Some("literal") => rules.mode = Mode::Literal { every_ms: 0 },
                _ => return Err("`mode` is `sequential` or `literal`".to_owned()),
            },
            "every" => {
                let every = value.as_str().and_then(duration_ms);
                every_ms = every.ok_or("`every` must be a duration such as 10s")?;
            }
            "error_rate" => rules.error_rate = table(name, value)?.map(error_rule).transpose()?,
            "latency_p99" => {
                rules.latency_p99 = table(name, value)?.map(latency_rule).transpose()?;
            }
            "pod_restart_count" => {
                let read = |table: Given<'_>| {
                    known(&table, "pod_restart_count", &[])?;
                    Ok::<_, String>(RestartRule {
                        dry_run: dry_run(&table)?,
                    })
                };
                rules.restarts = table(name, value)?.map(read).transpose()?;
            }
            "memory_usage" => rules.memory = table(name, value)?.map(memory_rule).transpose()?,
            "watch" => {
                if let Some(watch) = table(name, value)? {
                    known(&watch, "watch", &["max_error_rate"])?;
                    if let Some(share) = percent(&watch, "watch", "max_error_rate", 100.0)? {
                        rules.watch_error_ppm = whole(share * 10_000.0);
                    }
                }
            }
            "custom" => rules.custom = read_custom(value)?,
            other => {
                return Err(format!(
                    "names `{other}`, which is not available in this version; `error_rate`, \
                     `latency_p99`, `pod_restart_count`, `memory_usage`, `watch` and `custom` are"
                ));
            }
        }
    }
    if every_ms > 0 {
        match &mut rules.mode {
            Mode::Literal { every_ms: every } => *every = every_ms,
            Mode::Sequential => {
                return Err(
                    "`every` belongs to `mode: literal`: evidence may be looked at any \
                            time"
                        .to_owned(),
                );
            }
        }
    }
    Ok(rules)
}

/// A gate's settings; empty = the defaults.
pub(super) type Given<'a> = Option<&'a Map<String, Value>>;

/// `Ok(None)` = switched off with `false`.
fn table<'a>(name: &str, value: &'a Value) -> Result<Option<Given<'a>>, String> {
    match value {
        Value::Bool(false) => Ok(None),
        Value::Null | Value::Bool(true) => Ok(Some(None)),
        Value::Object(map) => Ok(Some(Some(map))),
        _ => Err(format!(
            "`{name}` must be a map, or `false` for no such gate"
        )),
    }
}

pub(super) fn known(given: &Given<'_>, gate: &str, keys: &[&str]) -> Result<(), String> {
    let all = given.iter().flat_map(|map| map.keys());
    let mut foreign = all.filter(|key| *key != "dry_run" && !keys.contains(&key.as_str()));
    match foreign.next() {
        Some(key) => Err(format!("`{gate}` has no key `{key}`")),
        None => Ok(()),
    }
}

pub(super) fn dry_run(given: &Given<'_>) -> Result<bool, String> {
    match given.and_then(|map| map.get("dry_run")) {
        None => Ok(false),
        Some(Value::Bool(dry)) => Ok(*dry),
        Some(_) => Err("`dry_run` is true or false".to_owned()),
    }
}

/// A share in percent: `1%`, or a number.
pub(super) fn percent(
    given: &Given<'_>,
    gate: &str,
    key: &str,
    most: f64,
) -> Result<Option<f64>, String> {
    let Some(value) = given.and_then(|map| map.get(key)) else {
        return Ok(None);
    };
    let number = match value {
        Value::String(text) => text.trim().trim_end_matches('%').trim().parse().ok(),
        other => other.as_f64(),
    };
    match number.filter(|number: &f64| (0.0..=most).contains(number)) {
        Some(number) => Ok(Some(number)),
        None => Err(format!(
            "`{gate}.{key}` must be a share such as 1%, at most {most}%"
        )),
    }
}

fn error_rule(given: Given<'_>) -> Result<ErrorRule, String> {
    known(&given, "error_rate", &["max_ratio", "floor"])?;
    let mut rule = ErrorRule {
        dry_run: dry_run(&given)?,
        ..ErrorRule::default()
    };
    if let Some(value) = given.and_then(|map| map.get("max_ratio")) {
        let ratio = value
            .as_f64()
            .filter(|ratio| (1.0..=1_000.0).contains(ratio));
        let ratio = ratio.ok_or("`error_rate.max_ratio` must be a number within 1 … 1000")?;
        rule.max_ratio_milli = small(ratio * 1_000.0);
    }
    if let Some(floor) = percent(&given, "error_rate", "floor", 100.0)? {
        rule.floor_ppm = small(floor * 10_000.0);
    }
    Ok(rule)
}

fn latency_rule(given: Given<'_>) -> Result<LatencyRule, String> {
    known(&given, "latency_p99", &["max_increase"])?;
    let mut rule = LatencyRule {
        dry_run: dry_run(&given)?,
        ..LatencyRule::default()
    };
    if let Some(increase) = percent(&given, "latency_p99", "max_increase", 10_000.0)? {
        rule.max_increase_percent = small(increase);
    }
    Ok(rule)
}

fn memory_rule(given: Given<'_>) -> Result<MemoryRule, String> {
    known(&given, "memory_usage", &["max"])?;
    let mut rule = MemoryRule {
        dry_run: dry_run(&given)?,
        ..MemoryRule::default()
    };
    if let Some(most) = percent(&given, "memory_usage", "max", 100.0)? {
        rule.max_percent = small(most);
    }
    Ok(rule)
}

pub(super) fn small(number: f64) -> u32 {
    u32::try_from(whole(number)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_key_has_its_place_and_false_switches_a_gate_off() {
        assert_eq!(read_rules(&Value::Null), Ok(GateRules::default()));
        let rules = read_rules(&json!({
            "mode": "literal", "every": "10s",
            "error_rate": { "max_ratio": 3.0, "floor": "0.5%", "dry_run": true },
            "latency_p99": { "max_increase": "25%" },
            "pod_restart_count": {},
            "memory_usage": false,
            "watch": { "max_error_rate": "2%" },
        }))
        .unwrap();
        assert_eq!(rules.mode, Mode::Literal { every_ms: 10_000 });
        let errors = rules.error_rate.unwrap();
        assert_eq!((errors.max_ratio_milli, errors.floor_ppm), (3_000, 5_000));
        assert!(errors.dry_run);
        assert_eq!(rules.latency_p99.unwrap().max_increase_percent, 25);
        assert_eq!((rules.memory, rules.watch_error_ppm), (None, 20_000));
    }

    #[test]
    fn a_gate_that_nothing_evaluates_is_refused_and_never_skipped() {
        for bad in [
            json!([]),
            json!({ "custom": {} }),
            json!({ "error_rate": { "max_ration": 2 } }),
            json!({ "error_rate": { "max_ratio": 0.5 } }),
            json!({ "error_rate": { "floor": "x" } }),
            json!({ "error_rate": 5 }),
            json!({ "watch": { "max_error_rate": "101%" } }),
            json!({ "watch": { "max_error_rate": "-1%" } }),
            json!({ "watch": { "max_error_rate": "NaN" } }),
            json!({ "mode": "hope" }),
            json!({ "every": "10s" }),
        ] {
            assert!(read_rules(&bad).is_err(), "{bad}");
        }
    }
}
