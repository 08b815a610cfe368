//! The joining end: a token and a fresh key become a certificate; later, a certificate becomes a
//! fresh one.

use std::path::PathBuf;
use std::time::Duration;

use slipway_core::access::PeerRole;
use slipway_daemon::{Clock, Rng, Shutdown};
use slipway_proto::v1::identities_client::IdentitiesClient;
use slipway_proto::v1::{CertificateResponse, JoinRequest, RenewRequest};
use tonic::Code;

use crate::authority::fingerprint;
use crate::credentials::Credentials;
use crate::own::Own;
use crate::request::Request;
use crate::{IdentityError, connect};

/// How long the dispatcher may take to answer.
const ANSWER: Duration = Duration::from_secs(20);

/// Between two tries to join.
const JOIN_RETRY: Duration = Duration::from_secs(1);

/// What an administrator hands over: the secret, and the fingerprint of the authority that the
/// dispatcher must show, as `<secret>.<fingerprint>`.
#[derive(Clone)]
pub struct JoinToken {
    secret: String,
    fingerprint: String,
}

impl JoinToken {
    /// Puts both together.
    #[must_use]
    pub fn new(secret: &str, fingerprint: &str) -> Self {
        Self {
            secret: secret.to_owned(),
            fingerprint: fingerprint.to_owned(),
        }
    }

    /// As it is shown and given.
    #[must_use]
    pub fn text(&self) -> String {
        format!("{}.{}", self.secret, self.fingerprint)
    }

    /// Reads what was given.
    ///
    /// # Errors
    /// When the fingerprint is not there: without it nobody knows who answers.
    pub fn read(text: &str) -> Result<Self, Joined> {
        let (secret, fingerprint) = text.trim().split_once('.').ok_or_else(|| {
            Joined::Refused(
                "the join token is cut: it ends with a dot and 64 hex digits, the fingerprint of \
                 the installation; copy all of it"
                    .to_owned(),
            )
        })?;
        let hex = |b: u8| b.is_ascii_hexdigit();
        if fingerprint.len() != 64 || !fingerprint.bytes().all(hex) {
            let why = "the fingerprint in the join token is not 64 hex digits; copy all of it";
            return Err(Joined::Refused(why.to_owned()));
        }
        Ok(Self::new(secret, fingerprint))
    }
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum Joined {
    /// The dispatcher refused for good, with its reason.
    #[error("{0}")]
    Refused(String),
    /// Nobody answered, or not now: worth another try.
    #[error("the dispatcher does not answer: {0}")]
    Away(String),
    /// Here, something is wrong with keys or certificates.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

fn away(error: &anyhow::Error) -> Joined {
    Joined::Away(format!("{error:#}"))
}

fn told(status: &tonic::Status) -> Joined {
    match status.code() {
        Code::Unauthenticated | Code::PermissionDenied | Code::InvalidArgument => {
            Joined::Refused(status.message().to_owned())
        }
        _ => Joined::Away(chain(status)),
    }
}

/// A TLS failure is at the bottom of a chain of causes; it is the one that helps.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let words = next.to_string();
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        cause = next.source();
    }
    text
}

fn put_together(fresh: Request, answer: CertificateResponse) -> Result<Credentials, Joined> {
    Ok(fresh.answered(answer.certificate, answer.authority)?)
}

/// Redeems a join token.
///
/// # Errors
/// When it was refused, or nobody answers.
pub async fn join(address: &str, token: &JoinToken, name: &str) -> Result<Credentials, Joined> {
    let channel = connect::pinned(address, PeerRole::Dispatcher, &token.fingerprint)
        .map_err(|e| Joined::Refused(format!("{e:#}")))?;
    let fresh = Request::make()?;
    let mut call = tonic::Request::new(JoinRequest {
        join_token: token.secret.clone(),
        name: name.to_owned(),
        certificate_request: fresh.der().to_vec(),
    });
    call.set_timeout(ANSWER);
    let answer = IdentitiesClient::new(channel).join(call).await;
    let answer = answer.map_err(|status| told(&status))?.into_inner();
    if fingerprint(&answer.authority) != token.fingerprint.to_ascii_lowercase() {
        let why = "the dispatcher answered with another authority than its own";
        return Err(Joined::Refused(why.to_owned()));
    }
    put_together(fresh, answer)
}

/// What a process needs to find or get its identity.
pub struct Establish<'a> {
    /// What it is.
    pub role: PeerRole,
    /// Where its identity is kept.
    pub file: PathBuf,
    /// The dispatchers, `https://host:port` each; any of them will do.
    pub dispatchers: Vec<String>,
    /// Redeemed when there is no identity yet.
    pub join_token: &'a str,
    /// A display name.
    pub name: &'a str,
}

impl Establish<'_> {
    /// The kept identity, or one for the join token; waits for a dispatcher that is not there yet.
    /// It is renewed until shutdown. `None` when the process is to stop before.
    ///
    /// # Errors
    /// When the kept one cannot be used, or joining was refused.
    pub async fn run(
        self,
        clock: &Clock,
        rng: &Rng,
        shutdown: &Shutdown,
    ) -> anyhow::Result<Option<Own>> {
        let kept = Credentials::load(&self.file)?;
        let credentials = match kept {
            Some(kept) => kept,
            None => match self.join(shutdown).await? {
                Some(fresh) => fresh,
                None => return Ok(None),
            },
        };
        let is = credentials.peer().role();
        anyhow::ensure!(
            is == self.role,
            "{} names a {is}, and this is a {}; give it a join token of its own role",
            self.file.display(),
            self.role,
        );
        let own = Own::new(credentials);
        let (renewed, addresses) = (own.clone(), self.dispatchers);
        let renew = move || {
            let (own, addresses) = (renewed.clone(), addresses.clone());
            async move {
                let mut last = Joined::Away("there is none".to_owned());
                for address in &addresses {
                    match renew(&own, address).await {
                        Ok(fresh) => return Ok(fresh),
                        Err(error) => last = error,
                    }
                }
                Err(last.into())
            }
        };
        let (clock, rng, stop) = (clock.clone(), rng.clone(), shutdown.clone());
        let file = Some(self.file);
        let renewing = own.clone().keep_renewed(file, clock, rng, stop, renew);
        shutdown.spawn("renew certificate", renewing);
        Ok(Some(own))
    }

    async fn join(&self, shutdown: &Shutdown) -> anyhow::Result<Option<Credentials>> {
        anyhow::ensure!(
            !self.join_token.is_empty(),
            "this {role} has no identity yet; give it a join token (`slipway agents join-token \
             --role {role}`)",
            role = self.role,
        );
        let token = JoinToken::read(self.join_token)?;
        for address in self.dispatchers.iter().cycle() {
            match join(address, &token, self.name).await {
                Ok(fresh) => {
                    fresh.save(&self.file)?;
                    return Ok(Some(fresh));
                }
                Err(Joined::Away(why)) => tracing::info!("cannot join yet: {why}"),
                Err(error) => return Err(anyhow::Error::from(error).context("joining was refused")),
            }
            tokio::select! {
                () = shutdown.cancelled() => return Ok(None),
                () = tokio::time::sleep(JOIN_RETRY) => {}
            }
        }
        anyhow::bail!("no dispatcher's address is given")
    }
}

/// Asks for a fresh certificate, with a fresh key, in the name of the present one.
///
/// # Errors
/// When it was refused, or nobody answers.
pub async fn renew(own: &Own, address: &str) -> Result<Credentials, Joined> {
    // A connection of its own, which shows the certificate of this moment.
    let channel = own
        .channel(address, PeerRole::Dispatcher)
        .map_err(|e| away(&e))?;
    let fresh = Request::make()?;
    let mut call = tonic::Request::new(RenewRequest {
        certificate_request: fresh.der().to_vec(),
    });
    call.set_timeout(ANSWER);
    let answer = IdentitiesClient::new(channel).renew(call).await;
    put_together(fresh, answer.map_err(|status| told(&status))?.into_inner())
}
