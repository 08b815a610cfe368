//! Which version the next request goes to: smooth weighted round robin, so that 1 % is exactly one
//! in a hundred and never a burst.

/// The rotation over the versions of one table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    weights: Vec<u32>,
    credit: Vec<i64>,
}

impl Turn {
    /// A fresh rotation; weights in the order of the table's versions.
    #[must_use]
    pub fn new(weights: Vec<u32>) -> Self {
        Self {
            credit: vec![0; weights.len()],
            weights,
        }
    }

    /// The index of the version whose turn it is; `None` when nobody has weight.
    pub fn take(&mut self) -> Option<usize> {
        let mut total = 0_i64;
        for (weight, credit) in self.weights.iter().zip(&mut self.credit) {
            total += i64::from(*weight);
            *credit += i64::from(*weight);
        }
        let richest = (0..self.weights.len())
            .filter(|index| self.weights[*index] > 0)
            .max_by_key(|index| (self.credit[*index], std::cmp::Reverse(*index)))?;
        self.credit[richest] -= total;
        Some(richest)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_percent_is_one_in_a_hundred() {
        let mut turn = Turn::new(vec![9_900, 100]);
        for _ in 0..50 {
            let canary = (0..100).filter(|_| turn.take() == Some(1)).count();
            assert_eq!(canary, 1);
        }
    }

    #[test]
    fn nobody_with_weight_means_nobody() {
        assert_eq!(Turn::new(vec![]).take(), None);
        assert_eq!(Turn::new(vec![0, 0]).take(), None);
    }

    proptest! {
        #[test]
        fn a_full_cycle_is_exact_and_versions_without_weight_get_nothing(new in 0_u32..=10_000) {
            let mut turn = Turn::new(vec![10_000 - new, new]);
            let mut got = [0_u32; 2];
            for _ in 0..10_000 {
                if let Some(index) = turn.take() { got[index] += 1; }
            }
            prop_assert_eq!(got, [10_000 - new, new]);
        }
    }
}
