//! Host names into addresses, so that what is looked up once can be checked before it is used.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// A name server that is silent must not hold up whoever asks.
const LIMIT: Duration = Duration::from_secs(10);

/// A handle to the names of this host. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Resolver(Option<Arc<BTreeMap<String, Vec<IpAddr>>>>);

impl Resolver {
    /// The host's own.
    #[must_use]
    pub fn system() -> Self {
        Self(None)
    }

    /// One that knows these names and no others, for tests.
    #[must_use]
    pub fn fixed(names: BTreeMap<String, Vec<IpAddr>>) -> Self {
        Self(Some(Arc::new(names)))
    }

    /// Every address of a name.
    ///
    /// # Errors
    /// When the name is not known, or nobody answers in 10 s.
    pub async fn addresses(&self, name: &str, port: u16) -> io::Result<Vec<IpAddr>> {
        if let Some(names) = &self.0 {
            return Ok(names.get(name).cloned().unwrap_or_default());
        }
        let found = tokio::time::timeout(LIMIT, tokio::net::lookup_host((name, port)));
        let found = found
            .await
            .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "no name server answers"))??;
        Ok(found.map(|address| address.ip()).collect())
    }
}
