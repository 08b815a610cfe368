//! Commands to the coordinator, in the caller's own name: it checks the token by itself.

use axum::http::StatusCode;
use slipway_proto::v1::rollouts_client::RolloutsClient;
use std::time::Duration;
use tonic::transport::Channel;

use crate::api::auth::Person;
use crate::api::problem::Problem;
use crate::state::App;

/// How long a command may take.
const ANSWER: Duration = Duration::from_secs(30);

/// A connection to the coordinator.
///
/// # Errors
/// 503 when there is none.
pub(super) fn client(app: &App) -> Result<RolloutsClient<Channel>, Problem> {
    let none = || Problem::unavailable("this installation has no coordinator");
    let channel = app.coordinator.clone().ok_or_else(none)?;
    Ok(RolloutsClient::new(channel))
}

/// A request in the caller's name.
pub(super) fn signed<T>(person: &Person, message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(ANSWER);
    if let Ok(value) = format!("Bearer {}", person.bearer()).parse() {
        request.metadata_mut().insert("authorization", value);
    }
    request
}

/// A refusal of the coordinator as an answer of the API. The first word of its message is the code.
#[expect(clippy::needless_pass_by_value, reason = "map_err's shape")]
pub(super) fn refused(status: tonic::Status) -> Problem {
    let message = status.message();
    let (code, detail) = match message.split_once(':') {
        Some((code, detail)) if is_word(code) => (code, detail.trim()),
        _ => ("refused", message),
    };
    let http = match status.code() {
        tonic::Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        tonic::Code::PermissionDenied => StatusCode::FORBIDDEN,
        tonic::Code::NotFound => StatusCode::NOT_FOUND,
        tonic::Code::FailedPrecondition | tonic::Code::AlreadyExists | tonic::Code::Aborted => {
            StatusCode::CONFLICT
        }
        tonic::Code::InvalidArgument | tonic::Code::OutOfRange => StatusCode::UNPROCESSABLE_ENTITY,
        tonic::Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        tonic::Code::Unavailable | tonic::Code::DeadlineExceeded | tonic::Code::Cancelled => {
            return Problem::unavailable(
                "the coordinator does not answer now; is `slipway coordinator` running?",
            );
        }
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    Problem::new(http, code, detail)
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_h080_a_refused_answer_is_a_conflict_with_its_reason() {
        for reason in [
            "already_approved",
            "already_answered",
            "approval_expired",
            "approval_void",
            "nothing_pending",
        ] {
            let status = tonic::Status::failed_precondition(format!("{reason}: why: how"));
            let problem = refused(status);
            let told = (
                problem.status,
                problem.code.as_str(),
                problem.detail.as_str(),
            );
            assert_eq!(told, (409, reason, "why: how"));
        }
    }
}
