//! How long a build still takes from each of its stages on: placement gives the longest way out first.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Need;

/// Expected time of a stage while nothing is known of it.
pub const UNKNOWN: Duration = Duration::from_secs(60);

/// What a stage is expected to take, by what it took: the median.
#[must_use]
pub fn expected(mut past: Vec<Duration>) -> Duration {
    past.sort();
    let middle = past.len().saturating_sub(1) / 2;
    past.get(middle).copied().unwrap_or(UNKNOWN)
}

/// The longest expected time from the start of each stage to its build's end.
#[must_use]
pub fn critical<'a>(
    stages: &'a [(String, Vec<Need>)],
    expected: &BTreeMap<String, Duration>,
) -> BTreeMap<&'a str, Duration> {
    let own = |name: &str| expected.get(name).copied().unwrap_or(UNKNOWN);
    let mut open: BTreeMap<&str, usize> = stages.iter().map(|(n, _)| (n.as_str(), 0)).collect();
    for need in stages.iter().flat_map(|(_, needs)| needs) {
        if let Some(dependants) = open.get_mut(need.stage.as_str()) {
            *dependants += 1;
        }
    }
    let needs: BTreeMap<&str, &[Need]> = stages
        .iter()
        .map(|(name, needs)| (name.as_str(), needs.as_slice()))
        .collect();
    let mut after: BTreeMap<&str, Duration> = BTreeMap::new();
    // From the ends towards the beginnings: a stage's time is known once all its dependants' are.
    let mut known: Vec<&str> = open
        .iter()
        .filter(|(_, n)| **n == 0)
        .map(|(s, _)| *s)
        .collect();
    let mut critical: BTreeMap<&str, Duration> = stages
        .iter()
        .map(|(name, _)| (name.as_str(), own(name)))
        .collect();
    while let Some(stage) = known.pop() {
        let later = after.get(stage).copied().unwrap_or(Duration::ZERO);
        let whole = own(stage).saturating_add(later);
        critical.insert(stage, whole);
        for need in needs.get(stage).into_iter().copied().flatten() {
            let Some((name, dependants)) = open.get_key_value(need.stage.as_str()) else {
                continue;
            };
            let (name, left) = (*name, dependants.saturating_sub(1));
            let longest = after.entry(name).or_default();
            *longest = (*longest).max(whole);
            open.insert(name, left);
            if left == 0 {
                known.push(name);
            }
        }
    }
    critical
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn need(stage: &str) -> Need {
        Need {
            stage: stage.to_owned(),
            optional: false,
        }
    }

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn the_median_of_what_it_took_and_a_minute_where_nothing_is_known() {
        assert_eq!(expected(vec![]), UNKNOWN);
        assert_eq!(expected([9, 1, 500].map(seconds).to_vec()), seconds(9));
        assert_eq!(expected([9, 1].map(seconds).to_vec()), seconds(1));
    }

    #[test]
    fn the_longest_way_counts() {
        let stages = [
            ("lint".to_owned(), vec![]),
            ("build".to_owned(), vec![]),
            ("test".to_owned(), vec![need("build"), need("lint")]),
            ("docs".to_owned(), vec![need("build")]),
        ];
        let known = BTreeMap::from([
            ("build".to_owned(), seconds(10)),
            ("docs".to_owned(), seconds(500)),
        ]);
        let critical = critical(&stages, &known);
        assert_eq!(critical["lint"], seconds(120));
        assert_eq!(critical["build"], seconds(510));
        assert_eq!(critical["test"], UNKNOWN);
    }

    proptest! {
        #[test]
        fn it_is_monotone_along_the_graph(
            edges in proptest::collection::vec((0..12_usize, 0..12_usize), 0..40),
            times in proptest::collection::vec(proptest::option::of(0..900_u64), 12),
        ) {
            let mut stages: Vec<(String, Vec<Need>)> =
                (0..12).map(|n| (format!("s{n}"), Vec::new())).collect();
            for (a, b) in edges {
                if a < b && !stages[b].1.contains(&need(&format!("s{a}"))) {
                    stages[b].1.push(need(&format!("s{a}")));
                }
            }
            let known: BTreeMap<String, Duration> = times
                .iter()
                .enumerate()
                .filter_map(|(n, time)| Some((format!("s{n}"), seconds((*time)?))))
                .collect();
            let critical = critical(&stages, &known);
            prop_assert_eq!(critical.len(), 12);
            for (name, needs) in &stages {
                let own = known.get(name).copied().unwrap_or(UNKNOWN);
                prop_assert!(critical[name.as_str()] >= own);
                for need in needs {
                    let before = known.get(&need.stage).copied().unwrap_or(UNKNOWN);
                    let way = critical[name.as_str()] + before;
                    prop_assert!(critical[need.stage.as_str()] >= way);
                }
            }
        }
    }
}
