//! Roles, and the deeds that each of them allows.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A word that names no role.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a role; roles are viewer, developer, maintainer, approver, deployer, admin, auditor"
)]
pub struct UnknownRole(pub String);

/// What somebody is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Reads.
    Viewer,
    /// Starts, cancels and repeats builds.
    Developer,
    /// Changes settings; writes secrets.
    Maintainer,
    /// Approves deployments.
    Approver,
    /// Starts, pauses and rolls back deployments.
    Deployer,
    /// Everything.
    Admin,
    /// Reads everything, changes nothing.
    Auditor,
}

impl Role {
    const ALL: [(Self, &'static str); 7] = [
        (Self::Viewer, "viewer"),
        (Self::Developer, "developer"),
        (Self::Maintainer, "maintainer"),
        (Self::Approver, "approver"),
        (Self::Deployer, "deployer"),
        (Self::Admin, "admin"),
        (Self::Auditor, "auditor"),
    ];

    /// The stored word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        Self::ALL
            .iter()
            .find(|(role, _)| *role == self)
            .map_or("viewer", |(_, word)| word)
    }

    /// Whether this role alone allows `deed`.
    #[must_use]
    pub fn allows(self, deed: Deed) -> bool {
        match deed {
            Deed::Read => true,
            Deed::StartDeployment | Deed::SteerDeployment => {
                matches!(self, Self::Deployer | Self::Admin)
            }
            // Going back to what worked must never wait for the right person.
            Deed::RollBack => {
                matches!(
                    self,
                    Self::Deployer | Self::Maintainer | Self::Approver | Self::Admin
                )
            }
            Deed::Approve => matches!(self, Self::Approver | Self::Admin),
            Deed::ApproveForOthers | Deed::RegisterEnvironment | Deed::Administer => {
                matches!(self, Self::Admin)
            }
            Deed::SteerBuild => matches!(self, Self::Developer | Self::Maintainer | Self::Admin),
            Deed::Maintain => matches!(self, Self::Maintainer | Self::Admin),
            Deed::ReadAudit => matches!(self, Self::Auditor | Self::Admin),
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = UnknownRole;
    fn from_str(word: &str) -> Result<Self, UnknownRole> {
        Self::ALL
            .iter()
            .find(|(_, known)| *known == word)
            .map(|(role, _)| *role)
            .ok_or_else(|| UnknownRole(word.to_owned()))
    }
}

/// Something that somebody does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// Looks.
    Read,
    /// Hands a release over.
    StartDeployment,
    /// Pauses, resumes, promotes, aborts.
    SteerDeployment,
    /// Brings the last good version back.
    RollBack,
    /// Says yes or no.
    Approve,
    /// Says yes in somebody else's name.
    ApproveForOthers,
    /// Names a place where services are deployed.
    RegisterEnvironment,
    /// Starts, cancels and repeats builds.
    SteerBuild,
    /// Changes repositories, hooks, secrets and flags.
    Maintain,
    /// Changes agents and tokens.
    Administer,
    /// Reads who did what.
    ReadAudit,
}

impl Deed {
    /// The deed in words, for refusals.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::StartDeployment => "start deployments",
            Self::SteerDeployment => "steer deployments",
            Self::RollBack => "roll back",
            Self::Approve => "approve deployments",
            Self::ApproveForOthers => "approve in another name",
            Self::RegisterEnvironment => "register environments",
            Self::SteerBuild => "start, cancel or repeat builds",
            Self::Maintain => "change settings",
            Self::Administer => "administer agents and tokens",
            Self::ReadAudit => "read the audit log",
        }
    }
}

/// An authenticated caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Who: `name`, or `owner/name` for a service account.
    pub subject: String,
    /// Its roles.
    pub roles: BTreeSet<Role>,
    /// Its groups.
    pub groups: BTreeSet<String>,
}

impl Caller {
    /// From stored role words: a word `group:<name>` is a membership. An unknown word gives nothing:
    /// it may be a role of a newer version, and less is safe.
    #[must_use]
    pub fn new(subject: &str, words: &[String]) -> Self {
        Self {
            subject: subject.to_owned(),
            roles: words.iter().filter_map(|word| word.parse().ok()).collect(),
            groups: words
                .iter()
                .filter_map(|word| word.strip_prefix("group:"))
                .map(str::to_owned)
                .collect(),
        }
    }

    /// Whether any of its roles allows `deed`.
    #[must_use]
    pub fn may(&self, deed: Deed) -> bool {
        self.roles.iter().any(|role| role.allows(deed))
    }

    /// Everybody who stands behind this caller: itself, and the owner of a service account.
    #[must_use]
    pub fn identities(&self) -> BTreeSet<String> {
        identities(&self.subject)
    }
}

/// The identities behind a subject: `alice/ci` acts for `alice`.
pub(super) fn identities(subject: &str) -> BTreeSet<String> {
    let owner = subject.split_once('/').map_or(subject, |(owner, _)| owner);
    BTreeSet::from([subject.to_owned(), owner.to_owned()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_role_gives_nothing() {
        let caller = Caller::new(
            "eve",
            &["owner".to_owned(), "ADMIN".to_owned(), String::new()],
        );
        assert!(caller.roles.is_empty());
        assert!(!caller.may(Deed::Read) && !caller.may(Deed::Approve));
    }

    #[test]
    fn only_admins_act_for_others_and_auditors_change_nothing() {
        for (role, _) in Role::ALL {
            assert_eq!(role.allows(Deed::ApproveForOthers), role == Role::Admin);
            assert_eq!(role.as_str().parse(), Ok(role));
        }
        for deed in [
            Deed::StartDeployment,
            Deed::SteerDeployment,
            Deed::RollBack,
            Deed::Approve,
        ] {
            assert!(!Role::Auditor.allows(deed) && !Role::Viewer.allows(deed));
        }
    }

    #[test]
    fn a_group_is_a_membership_and_not_a_role() {
        let caller = Caller::new("bob", &["approver".to_owned(), "group:release".to_owned()]);
        assert!(caller.groups.contains("release"));
        assert_eq!(caller.roles, BTreeSet::from([Role::Approver]));
    }
}
