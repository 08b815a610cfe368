//! Doors for other build tools: opened for an attempt, closed with it, settled by its outcome.

use slipway_proto::v1::{CloseDoorRequest, CloseDoorResponse, OpenDoorRequest, SettleDoorRequest};

use crate::local::{CacheError, LocalCache, SHORT, with_limit};

impl LocalCache {
    /// Opens the door of an attempt, and says where it is.
    ///
    /// # Errors
    /// When this host has no such address, or the daemon does not answer.
    pub async fn open_door(
        &self,
        request: OpenDoorRequest,
    ) -> Result<std::net::SocketAddr, CacheError> {
        let mut client = self.doors.clone();
        let answer = client.open(with_limit(request, SHORT)).await?;
        let at = answer.into_inner().address.parse();
        at.map_err(|_| CacheError::Nonsense)
    }

    /// Nothing comes or goes there any more.
    ///
    /// # Errors
    /// When the daemon does not answer.
    pub async fn close_door(&self, attempt: &str) -> Result<CloseDoorResponse, CacheError> {
        let attempt = attempt.to_owned();
        let request = with_limit(CloseDoorRequest { attempt }, SHORT);
        Ok(self.doors.clone().close(request).await?.into_inner())
    }

    /// Keeps what came through the door, or throws it away. How many entries are new.
    ///
    /// # Errors
    /// When the daemon does not answer.
    pub async fn settle_door(&self, attempt: &str, keep: bool) -> Result<u64, CacheError> {
        let attempt = attempt.to_owned();
        let request = with_limit(SettleDoorRequest { attempt, keep }, SHORT);
        Ok(self.doors.clone().settle(request).await?.into_inner().kept)
    }
}
