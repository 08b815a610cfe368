//! Which process may call which gRPC method.
//!
//! Owns the roles of processes, their names in certificates, and the table (role, method). Does not
//! own how a certificate is checked. A method without a row is refused to everybody; a test compares
//! the table with every service's descriptors.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What a process is, by its certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PeerRole {
    /// Executes stages.
    Agent,
    /// Holds blobs beside an agent.
    Cache,
    /// The deploy coordinator.
    Deployer,
    /// Schedules, and answers everybody.
    Dispatcher,
    /// Carries the traffic of a host.
    Router,
}

impl PeerRole {
    /// Every role.
    pub const ALL: [Self; 5] = [
        Self::Agent,
        Self::Cache,
        Self::Deployer,
        Self::Dispatcher,
        Self::Router,
    ];

    /// The word in certificates, tables and settings.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Cache => "cache",
            Self::Deployer => "deployer",
            Self::Dispatcher => "dispatcher",
            Self::Router => "router",
        }
    }

    /// The name by which callers check a process of this role, wherever it listens. Agents dial out
    /// and are never called.
    #[must_use]
    pub fn server_name(self) -> Option<&'static str> {
        match self {
            Self::Agent => None,
            Self::Cache => Some("cache.slipway.internal"),
            Self::Deployer => Some("deployer.slipway.internal"),
            Self::Dispatcher => Some("dispatcher.slipway.internal"),
            Self::Router => Some("router.slipway.internal"),
        }
    }
}

impl fmt::Display for PeerRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// A text that names no process.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` names no process of an installation")]
pub struct UnknownPeer(String);

impl FromStr for PeerRole {
    type Err = UnknownPeer;

    fn from_str(text: &str) -> Result<Self, UnknownPeer> {
        let found = Self::ALL.into_iter().find(|role| role.word() == text);
        found.ok_or_else(|| UnknownPeer(text.chars().take(40).collect()))
    }
}

/// Longest name that is read.
const NAME_MAX: usize = 200;

/// Who a certificate names: `spiffe://<install>/<role>/<id>` (SPIFFE ID, the SPIFFE project's
/// standard for names of processes). Role and id stand in one place, so that they cannot disagree.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PeerName {
    /// The installation: lower-case letters, digits, `-`, `.`.
    pub install: String,
    /// What it is.
    pub role: PeerRole,
    /// Which one: an id of ours.
    pub id: String,
}

impl fmt::Display for PeerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}/{}/{}", self.install, self.role, self.id)
    }
}

impl FromStr for PeerName {
    type Err = UnknownPeer;

    fn from_str(text: &str) -> Result<Self, UnknownPeer> {
        let unknown = || UnknownPeer(text.chars().take(80).collect());
        if text.len() > NAME_MAX {
            return Err(unknown());
        }
        let rest = text.strip_prefix("spiffe://").ok_or_else(unknown)?;
        let mut parts = rest.split('/');
        let (Some(install), Some(role), Some(id), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(unknown());
        };
        let host = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
        let word = |b: u8| b.is_ascii_alphanumeric();
        let good = !install.is_empty()
            && install.bytes().all(host)
            && !id.is_empty()
            && id.bytes().all(word);
        if !good {
            return Err(unknown());
        }
        Ok(Self {
            install: install.to_owned(),
            role: role.parse()?,
            id: id.to_owned(),
        })
    }
}

/// What a method asks of its caller's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Demand {
    /// Nothing: joining, health, and what describes the API itself.
    Nothing,
    /// Nothing of the connection; a person's token comes with the call.
    Person,
    /// A certificate of this role.
    Peer(PeerRole),
    /// A certificate of this role, or a person's token.
    PeerOrPerson(PeerRole),
    /// A certificate of any role, also one that has expired lately.
    Renewing,
}

/// Rows: service, method (`*` = all of a service that is not ours), demand.
const TABLE: &[(&str, &str, Demand)] = &[
    ("slipway.v1.Identities", "Join", Demand::Nothing),
    ("slipway.v1.Identities", "Renew", Demand::Renewing),
    ("slipway.v1.Agents", "Link", Demand::Peer(PeerRole::Agent)),
    (
        "slipway.v1.Agents",
        "PutArtifact",
        Demand::Peer(PeerRole::Agent),
    ),
    ("slipway.v1.Logs", "Append", Demand::Peer(PeerRole::Agent)),
    ("slipway.v1.Admin", "ListBuilds", Demand::Person),
    ("slipway.v1.Admin", "GetBuild", Demand::Person),
    ("slipway.v1.Admin", "CancelBuild", Demand::Person),
    ("slipway.v1.Admin", "ListAgents", Demand::Person),
    ("slipway.v1.Admin", "DrainAgent", Demand::Person),
    ("slipway.v1.Admin", "ListQueue", Demand::Person),
    ("slipway.v1.Admin", "ListDeployments", Demand::Person),
    (
        "slipway.v1.Rollouts",
        "Start",
        Demand::PeerOrPerson(PeerRole::Dispatcher),
    ),
    ("slipway.v1.Rollouts", "Approve", Demand::Person),
    ("slipway.v1.Rollouts", "Reject", Demand::Person),
    ("slipway.v1.Rollouts", "Abort", Demand::Person),
    ("slipway.v1.Rollouts", "RollBack", Demand::Person),
    ("slipway.v1.Rollouts", "Promote", Demand::Person),
    ("slipway.v1.Rollouts", "Pause", Demand::Person),
    ("slipway.v1.Rollouts", "Resume", Demand::Person),
    // On a router's unix socket nobody asks: only its own user can open that.
    (
        "slipway.v1.Router",
        "Prepare",
        Demand::Peer(PeerRole::Deployer),
    ),
    (
        "slipway.v1.Router",
        "Commit",
        Demand::Peer(PeerRole::Deployer),
    ),
    (
        "slipway.v1.Router",
        "Drain",
        Demand::Peer(PeerRole::Deployer),
    ),
    (
        "slipway.v1.Router",
        "Read",
        Demand::Peer(PeerRole::Deployer),
    ),
    (
        "slipway.v1.Router",
        "RenewLease",
        Demand::Peer(PeerRole::Deployer),
    ),
    ("slipway.v1.Router", "Ask", Demand::Peer(PeerRole::Deployer)),
    // Its trigger brings a reader's token.
    ("externalscaler.ExternalScaler", "*", Demand::Person),
    ("grpc.health.v1.Health", "*", Demand::Nothing),
    ("grpc.reflection.v1.ServerReflection", "*", Demand::Nothing),
    (
        "grpc.reflection.v1alpha.ServerReflection",
        "*",
        Demand::Nothing,
    ),
];

/// What a method asks of its caller; `None` = there is no such method.
///
/// `path` is a gRPC path, `/package.Service/Method`, compared byte for byte: one that is written in
/// another way is another method.
#[must_use]
pub fn demand(path: &str) -> Option<Demand> {
    let (service, method) = path.strip_prefix('/')?.split_once('/')?;
    let row = TABLE
        .iter()
        .find(|(known, verb, _)| *known == service && (*verb == "*" || *verb == method))?;
    Some(row.2)
}

/// A caller as its connection shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shown {
    /// The certificate's role.
    pub role: PeerRole,
    /// Whether it has expired (it may then only be renewed).
    pub expired: bool,
}

/// Why a connection may not call a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// There is no such method.
    #[error("there is no such method")]
    NoSuchMethod,
    /// It shows no certificate.
    #[error("this method is for {0}s; connect with a certificate of this installation")]
    NoCertificate(PeerRole),
    /// Any certificate would do, and it shows none.
    #[error("connect with the certificate that is to be renewed")]
    NothingToRenew,
    /// Its certificate is of another role.
    #[error("this method is for {wanted}s, and the certificate names a {shown}")]
    OtherRole {
        /// Whose method it is.
        wanted: PeerRole,
        /// Who called.
        shown: PeerRole,
    },
    /// Its certificate has expired.
    #[error("the certificate has expired; renew it")]
    Expired,
}

/// Whether a connection may call a method, as far as the connection decides it.
///
/// # Errors
/// Why not.
pub fn may_call(path: &str, shown: Option<Shown>) -> Result<(), Denied> {
    match (demand(path).ok_or(Denied::NoSuchMethod)?, shown) {
        (Demand::Renewing, None) => Err(Denied::NothingToRenew),
        (Demand::Renewing, Some(_)) | (Demand::Nothing, _) => Ok(()),
        (Demand::Person, _) | (Demand::PeerOrPerson(_), None) => Ok(()),
        (Demand::Peer(wanted), None) => Err(Denied::NoCertificate(wanted)),
        (Demand::Peer(wanted) | Demand::PeerOrPerson(wanted), Some(shown)) => {
            if shown.role != wanted {
                let shown = shown.role;
                return Err(Denied::OtherRole { wanted, shown });
            }
            if shown.expired {
                return Err(Denied::Expired);
            }
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(role: PeerRole) -> Option<Shown> {
        Some(Shown {
            role,
            expired: false,
        })
    }

    #[test]
    fn an_agents_method_is_for_agents_alone() {
        let path = "/slipway.v1.Agents/Link";
        assert_eq!(may_call(path, shown(PeerRole::Agent)), Ok(()));
        for role in PeerRole::ALL {
            let answer = may_call(path, shown(role));
            assert_eq!(answer.is_ok(), role == PeerRole::Agent, "{role}");
        }
        assert!(may_call(path, None).is_err());
    }

    #[test]
    fn an_expired_certificate_is_good_for_its_renewal_alone() {
        let expired = Some(Shown {
            role: PeerRole::Agent,
            expired: true,
        });
        assert_eq!(may_call("/slipway.v1.Identities/Renew", expired), Ok(()));
        assert_eq!(
            may_call("/slipway.v1.Agents/Link", expired),
            Err(Denied::Expired)
        );
    }

    #[test]
    fn hostile_h044_a_path_written_in_another_way_is_no_method() {
        for path in [
            "slipway.v1.Agents/Link",
            "//slipway.v1.Agents/Link",
            "/slipway.v1.agents/Link",
            "/slipway.v1.Agents/LINK",
            "/slipway.v1.Agents/Link/",
            "/slipway.v1.Agents/",
            "/slipway.v1.Agents/Unheard",
            "/",
            "",
        ] {
            let answer = may_call(path, shown(PeerRole::Agent));
            assert_eq!(answer, Err(Denied::NoSuchMethod), "{path}");
        }
    }

    #[test]
    fn a_name_is_read_back_and_a_strange_one_is_not() {
        let name = PeerName {
            install: "0123456789abcdef.slipway".to_owned(),
            role: PeerRole::Cache,
            id: "01ARZ3NDEKTSV4RRFFQ69G5FAV".to_owned(),
        };
        assert_eq!(name.to_string().parse(), Ok(name));
        for strange in [
            "spiffe://a/agent/",
            "spiffe://a/agent/x/y",
            "spiffe://a/root/x",
            "spiffe://a/agent/x\0y",
            "spiffe:///agent/x",
            "https://a/agent/x",
            "spiffe://A/agent/x",
        ] {
            assert!(strange.parse::<PeerName>().is_err(), "{strange:?}");
        }
    }

    proptest! {
        #[test]
        fn reading_a_name_never_panics(text in ".{0,300}") {
            let _whatever = text.parse::<PeerName>();
        }

        #[test]
        fn no_strange_path_is_a_method(path in "[/a-zA-Z.]{0,60}") {
            if demand(&path).is_some() {
                let known = TABLE.iter().any(|(s, m, _)| {
                    path == format!("/{s}/{m}") || (*m == "*" && path.starts_with(&format!("/{s}/")))
                });
                prop_assert!(known);
            }
        }
    }
}
