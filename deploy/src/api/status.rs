//! The only place where a refusal becomes a status.

use slipway_store::StoreError;
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

use crate::usecases::Refused;

pub(super) fn status(refused: &Refused) -> Status {
    let (code, reason) = match refused {
        Refused::MayNot { .. } => (Code::PermissionDenied, "may_not"),
        Refused::OtherName { .. } => (Code::PermissionDenied, "other_name"),
        Refused::Approval(_) => (Code::PermissionDenied, "may_not_approve"),
        Refused::Field(..) => (Code::InvalidArgument, "bad_field"),
        Refused::Plan(_) => (Code::InvalidArgument, "bad_plan"),
        Refused::NoSuch(_) => (Code::NotFound, "not_found"),
        Refused::State(reason, _) => (Code::FailedPrecondition, *reason),
        Refused::Store(StoreError::Conflict(_)) => (Code::FailedPrecondition, "changed_meanwhile"),
        Refused::Store(_) => (Code::Unavailable, "store_unavailable"),
        Refused::Internal(error) => {
            tracing::error!("a command failed: {error:#}");
            (Code::Internal, "internal")
        }
    };
    let text = match refused {
        Refused::Internal(_) => "the command failed; the coordinator's log says why".to_owned(),
        // It begins with its word already.
        Refused::State(..) => refused.to_string(),
        other => format!("{reason}: {other}"),
    };
    let mut status = Status::new(code, text);
    status
        .metadata_mut()
        .insert("slipway-reason", MetadataValue::from_static(reason));
    status
}
