//! `gates.custom` of the pipeline file, read. What could not be evaluated later is refused now.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::custom::{CustomKind, CustomRule, check_expressions};
use super::read::{dry_run, known, percent, small};
use super::rules::ErrorRule;
use crate::pipeline::duration_ms;

/// Gates of one environment's own.
const GATES_MAX: usize = 10;
/// Characters of a query.
const QUERY_MAX: usize = 2_000;
/// Characters of a name.
const NAME_MAX: usize = 63;
/// Between two questions.
const INTERVAL_MS: u64 = 30_000;
const INTERVALS: std::ops::RangeInclusive<u64> = 5_000..=3_600_000;
/// What is borne unless the file says otherwise: the third bad answer in a row is too much.
const FAILURES: u32 = 2;
const INCONCLUSIVE: u32 = 3;
const ERRORS: u32 = 3;
const LIMIT_MAX: u64 = 1_000;
/// Names of our own gates, and keys beside them.
const TAKEN: [&str; 8] = [
    "error_rate",
    "latency_p99",
    "pod_restart_count",
    "memory_usage",
    "watch",
    "custom",
    "mode",
    "every",
];
const KEYS: [&str; 12] = [
    "name",
    "prometheus",
    "pass",
    "fail",
    "bad",
    "total",
    "max_ratio",
    "floor",
    "interval",
    "count",
    "failure_limit",
    "inconclusive_limit",
];

/// Reads the list.
///
/// # Errors
/// A sentence that names the gate and the key.
pub(super) fn read_custom(list: &Value) -> Result<Vec<CustomRule>, String> {
    let list = list
        .as_array()
        .ok_or("`custom` must be a list of gates with a `name` each")?;
    if list.len() > GATES_MAX {
        return Err(format!("`custom` has more than {GATES_MAX} gates"));
    }
    let mut names = BTreeSet::new();
    let mut rules = Vec::with_capacity(list.len());
    for value in list {
        let map = value.as_object().ok_or("each gate of `custom` is a map")?;
        let rule = rule(map)?;
        if !names.insert(rule.name.clone()) {
            return Err(format!("`custom` has two gates named `{}`", rule.name));
        }
        rules.push(rule);
    }
    Ok(rules)
}

fn rule(map: &Map<String, Value>) -> Result<CustomRule, String> {
    let name = name(map)?;
    let at = |why: String| format!("`custom` gate `{name}`: {why}");
    let given = Some(map);
    let mut keys = KEYS.to_vec();
    keys.push("error_limit");
    known(&given, "custom", &keys).map_err(at)?;
    Ok(CustomRule {
        asks: asks(map).map_err(at)?,
        interval_ms: interval(map).map_err(at)?,
        count: limit(map, "count", 0).map_err(at)?,
        failure_limit: limit(map, "failure_limit", FAILURES).map_err(at)?,
        inconclusive_limit: limit(map, "inconclusive_limit", INCONCLUSIVE).map_err(at)?,
        error_limit: limit(map, "error_limit", ERRORS).map_err(at)?,
        dry_run: dry_run(&given).map_err(at)?,
        name: name.clone(),
    })
}

fn name(map: &Map<String, Value>) -> Result<String, String> {
    let name = map.get("name").and_then(Value::as_str).unwrap_or_default();
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if name.is_empty() || name.len() > NAME_MAX || !name.chars().all(plain) {
        return Err(format!(
            "each gate of `custom` has a `name` of 1 to {NAME_MAX} characters a-z, 0-9 and _"
        ));
    }
    if TAKEN.contains(&name) {
        return Err(format!(
            "`custom` gate `{name}` has the name of another gate"
        ));
    }
    Ok(name.to_owned())
}

fn asks(map: &Map<String, Value>) -> Result<CustomKind, String> {
    let text = |key: &str| match map.get(key) {
        None => Ok(None),
        Some(Value::String(text)) if !text.trim().is_empty() && text.len() <= QUERY_MAX => {
            Ok(Some(text.clone()))
        }
        Some(_) => Err(format!(
            "`{key}` must be a text of 1 to {QUERY_MAX} characters"
        )),
    };
    let (pass, fail) = (text("pass")?, text("fail")?);
    match (text("prometheus")?, text("bad")?, text("total")?) {
        (Some(query), None, None) => {
            if pass.is_none() && fail.is_none() {
                return Err("needs `pass` or `fail`, such as `pass: \"value < 0.01\"`".to_owned());
            }
            refuse(map, &["max_ratio", "floor"], "belongs to `bad` and `total`")?;
            check_expressions(pass.as_deref(), fail.as_deref())?;
            Ok(CustomKind::Threshold { query, pass, fail })
        }
        (None, Some(bad), Some(total)) => {
            let threshold = [
                "pass",
                "fail",
                "count",
                "failure_limit",
                "inconclusive_limit",
            ];
            refuse(map, &threshold, "belongs to `prometheus`")?;
            for query in [&bad, &total] {
                if !query.contains("$version") {
                    let why = "`bad` and `total` must contain `$version`, which stands for the version \
                               that is asked about";
                    return Err(why.to_owned());
                }
            }
            let defaults = ErrorRule::default();
            let ratio = match map.get("max_ratio") {
                None => defaults.max_ratio_milli,
                Some(value) => {
                    let ratio = value.as_f64().filter(|one| (1.0..=1_000.0).contains(one));
                    small(ratio.ok_or("`max_ratio` must be a number within 1 … 1000")? * 1_000.0)
                }
            };
            let floor = percent(&Some(map), "custom", "floor", 100.0)?;
            Ok(CustomKind::Counts {
                bad,
                total,
                max_ratio_milli: ratio,
                floor_ppm: floor.map_or(defaults.floor_ppm, |share| small(share * 10_000.0)),
            })
        }
        _ => Err("needs `prometheus` with `pass` or `fail`, or else `bad` and `total`".to_owned()),
    }
}

fn refuse(map: &Map<String, Value>, keys: &[&str], why: &str) -> Result<(), String> {
    match keys.iter().find(|key| map.contains_key(**key)) {
        Some(key) => Err(format!("`{key}` {why}")),
        None => Ok(()),
    }
}

fn interval(map: &Map<String, Value>) -> Result<u64, String> {
    let Some(value) = map.get("interval") else {
        return Ok(INTERVAL_MS);
    };
    let ms = value.as_str().and_then(duration_ms);
    ms.filter(|ms| INTERVALS.contains(ms))
        .ok_or_else(|| "`interval` must be a duration within 5s … 1h".to_owned())
}

fn limit(map: &Map<String, Value>, key: &str, default: u32) -> Result<u32, String> {
    let Some(value) = map.get(key) else {
        return Ok(default);
    };
    let limit = value.as_u64().filter(|limit| *limit <= LIMIT_MAX);
    limit
        .and_then(|limit| u32::try_from(limit).ok())
        .ok_or_else(|| format!("`{key}` must be a whole number within 0 … {LIMIT_MAX}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_threshold_and_counts_are_read_with_their_defaults() {
        let rules = read_custom(&json!([
            { "name": "checkout", "prometheus": "sum(rate(x[1m]))", "pass": "value < 0.01" },
            { "name": "orders", "bad": "f{v=\"$version\"}", "total": "t{v=\"$version\"}",
              "max_ratio": 3, "floor": "1%", "interval": "10s", "dry_run": true },
        ]))
        .unwrap();
        assert_eq!((rules[0].interval_ms, rules[0].failure_limit), (30_000, 2));
        assert!(matches!(
            &rules[0].asks,
            CustomKind::Threshold {
                pass: Some(_),
                fail: None,
                ..
            }
        ));
        assert!(matches!(
            rules[1].asks,
            CustomKind::Counts {
                max_ratio_milli: 3_000,
                floor_ppm: 10_000,
                ..
            }
        ));
        assert!(rules[1].dry_run && rules[1].interval_ms == 10_000);
    }

    #[test]
    fn a_gate_that_could_never_be_judged_is_refused() {
        let good = json!({ "name": "a", "prometheus": "up", "pass": "value < 1" });
        let with = |key: &str, value: Value| {
            let mut gate = good.clone();
            gate[key] = value;
            json!([gate])
        };
        for bad in [
            json!({}),
            json!([5]),
            json!([good, good]),
            json!([{ "name": "a" }]),
            json!([{ "name": "a", "prometheus": "up" }]),
            json!([{ "name": "a", "bad": "x{v=\"$version\"}" }]),
            json!([{ "name": "a", "bad": "x", "total": "y" }]),
            with("name", json!("error_rate")),
            with("name", json!("A b")),
            with("pass", json!("value <")),
            with("pass", json!("value + 1.0")),
            with("pass", json!("other < 1")),
            with("pass", json!("(".repeat(600))),
            with("interval", json!("1s")),
            with("interval", json!(5)),
            with("failure_limit", json!(-1)),
            with("failure_limit", json!(1_001)),
            with("max_ratio", json!(2)),
            with("bad", json!("x")),
            with("prometheus", json!("x".repeat(2_001))),
            with("until", json!("x")),
        ] {
            assert!(read_custom(&bad).is_err(), "{bad}");
        }
    }
}
