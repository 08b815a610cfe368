//! What the door's questions about `cache:` entries must be before the store hears them.

use slipway_core::cache::keyed;
use slipway_proto::v1::CacheScope;
use tonic::Status;

/// Scopes of one question: the own one and the one above it.
const SCOPES_MAX: usize = 4;

fn refused(text: &'static str) -> Status {
    Status::invalid_argument(text)
}

/// The scope of a question, checked.
pub(super) fn scope(scope: Option<CacheScope>) -> Result<CacheScope, Status> {
    let scope = scope.ok_or_else(|| refused("scope: there is none"))?;
    let good = |name: &String| !name.is_empty() && name.len() <= keyed::SCOPE_MAX;
    if scope.read.is_empty() || scope.read.len() > SCOPES_MAX || !scope.read.iter().all(good) {
        return Err(refused(
            "scope: nothing, too much or nonsense is to be read",
        ));
    }
    // What could be written and not read would be written each time.
    if !scope.read.contains(&scope.write) {
        return Err(refused("scope: what is written must be readable"));
    }
    Ok(scope)
}

/// The keys and paths of a question, checked.
pub(super) fn keys(key: &str, prefixes: &[String], paths: &[String]) -> Result<(), Status> {
    let printable =
        |text: &str| text.len() <= keyed::KEY_MAX && !text.chars().any(char::is_control);
    if key.is_empty() || !printable(key) {
        return Err(refused("key: empty, too long or not printable"));
    }
    if prefixes.len() > keyed::PATHS_MAX || !prefixes.iter().all(|text| printable(text)) {
        return Err(refused("restore_keys: too many, too long or not printable"));
    }
    let sorted = paths.is_sorted() && paths.len() <= keyed::PATHS_MAX && !paths.is_empty();
    if !sorted || paths.iter().any(|path| keyed::path_problem(path).is_some()) {
        return Err(refused("paths: none, too many, unsorted or outside"));
    }
    Ok(())
}
