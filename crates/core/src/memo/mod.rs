//! Whether a stage must be executed at all: its inputs as one key, what keeps a stage from having one,
//! and what differs where there is no equal key.
//!
//! Owns the rule that *what is not in the key is not in the container*. Does not own records of what was
//! executed (`store`), nor who looks them up and when (`dispatcher`).

mod inputs;
mod key;
mod named;
mod never;

pub use inputs::{Inputs, Source, inputs};
pub use key::{Field, Fields, Ingredients, StageKey, key};
pub use named::{Named, is_varying, named_in};
pub use never::{Never, never};

/// Who may read a record of this build's trust: the scopes, its own first. What came from code from
/// outside is read by the same ref's builds alone, never by a trusted one.
#[must_use]
pub fn readable_scopes(trusted: bool, ref_name: &str) -> Vec<String> {
    let own = own_scope(trusted, ref_name);
    if trusted {
        vec![own]
    } else {
        vec![own, TRUSTED.to_owned()]
    }
}

/// Where a build's records go.
#[must_use]
pub fn own_scope(trusted: bool, ref_name: &str) -> String {
    if trusted {
        TRUSTED.to_owned()
    } else {
        // No ref can be taken for the scope of trusted builds.
        format!("outside:{ref_name}")
    }
}

const TRUSTED: &str = "trusted";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cache_scope_server_side_trusted_builds_read_nothing_that_others_wrote() {
        for name in ["main", "trusted", "refs/pull/7/head", ""] {
            let outside = own_scope(false, name);
            assert!(!readable_scopes(true, name).contains(&outside), "{name}");
        }
    }

    #[test]
    fn code_from_outside_reads_its_own_refs_records_and_trusted_ones() {
        let scopes = readable_scopes(false, "refs/pull/7/head");
        assert_eq!(scopes, ["outside:refs/pull/7/head", "trusted"]);
        let other = own_scope(false, "refs/pull/8/head");
        assert!(!scopes.contains(&other));
    }
}
