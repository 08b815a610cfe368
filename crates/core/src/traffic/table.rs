//! A traffic table: whole and absolute, per service.

use serde::{Deserialize, Serialize};

use super::sticky::Stickiness;
use crate::digest::Digest;

/// All traffic, in basis points.
pub const FULL_BP: u32 = 10_000;
/// Stable, new, and one that is draining; more means that somebody sends garbage.
pub const VERSIONS_MAX: usize = 8;
/// Instances of one version that one router spreads over.
pub const INSTANCES_MAX: usize = 1_000;
/// Longest name of a service, version, host or address.
const NAME_MAX: usize = 255;
/// Host names of one service.
const HOSTS_MAX: usize = 100;
/// A lease shorter than this ends between two renewals, and one longer than this protects nobody.
const LEASE_MS: std::ops::RangeInclusive<u64> = 1_000..=3_600_000;

/// One copy of a version that can answer requests.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Instance {
    /// Its id at the target (a container's name).
    pub id: String,
    /// `host:port`.
    pub address: String,
}

/// One version's share of the traffic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// Which version.
    pub version: String,
    /// Basis points.
    pub weight_bp: u32,
    /// Where it can be reached.
    pub instances: Vec<Instance>,
}

/// Where the requests of one service go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrafficTable {
    /// The service.
    pub service: String,
    /// Host names it answers to; empty = every name.
    pub hosts: Vec<String>,
    /// Address it is served on.
    pub listen: String,
    /// The versions, with their shares.
    pub versions: Vec<Share>,
    /// Longest wait for the first byte of an answer.
    pub upstream_timeout_ms: u64,
    /// The new version while it is rolled out; empty = none is.
    #[serde(default)]
    pub canary: String,
    /// Who stays where while two versions share traffic.
    #[serde(default)]
    pub stickiness: Stickiness,
    /// How long the new version keeps its weight without being renewed; `None` = for good.
    #[serde(default)]
    pub lease: Option<CanaryLease>,
}

/// A weight that ends by itself when nobody looks after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CanaryLease {
    /// How long after the last renewal.
    pub ms: u64,
    /// Whether stable gets everything then; otherwise weights stay as they are.
    pub revert: bool,
}

/// Why a table is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// Weights that are not everything.
    #[error("weights sum to {0} basis points, they must sum to 10000")]
    Sum(u64),
    /// Weight on a version that cannot answer.
    #[error("version `{0}` has weight and no instance; start it before it gets traffic")]
    NoInstance(String),
    /// The same version twice.
    #[error("version `{0}` is listed twice")]
    Double(String),
    /// A name that is empty, too long, or holds control characters.
    #[error("field `{0}` is empty, longer than 255 bytes, or holds a control character or space")]
    Name(&'static str),
    /// An address without a port, or with one that is not a number.
    #[error("`{0}` is not an address; write host:port")]
    Address(String),
    /// A new version that is not in the table, or a lease without one or out of bounds.
    #[error("{0}")]
    Canary(&'static str),
    /// Too many of something.
    #[error("{what}: {count}, at most {limit} are allowed")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many came.
        count: usize,
        /// How many may come.
        limit: usize,
    },
}

fn name(field: &'static str, text: &str) -> Result<(), TableError> {
    let bad = text.is_empty()
        || text.len() > NAME_MAX
        || text.chars().any(|c| c.is_control() || c.is_whitespace());
    if bad {
        Err(TableError::Name(field))
    } else {
        Ok(())
    }
}

fn address(text: &str) -> Result<(), TableError> {
    name("address", text)?;
    match text.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => Ok(()),
        _ => Err(TableError::Address(text.to_owned())),
    }
}

fn at_most(what: &'static str, count: usize, limit: usize) -> Result<(), TableError> {
    if count > limit {
        return Err(TableError::TooMany { what, count, limit });
    }
    Ok(())
}

impl TrafficTable {
    /// Whether this table may carry traffic.
    ///
    /// # Errors
    /// The first thing that is wrong with it; nothing is repaired.
    pub fn check(&self) -> Result<(), TableError> {
        name("service", &self.service)?;
        address(&self.listen)?;
        at_most("hosts", self.hosts.len(), HOSTS_MAX)?;
        for host in &self.hosts {
            name("hosts", host)?;
        }
        at_most("versions", self.versions.len(), VERSIONS_MAX)?;
        let mut sum = 0_u64;
        for (index, share) in self.versions.iter().enumerate() {
            name("version", &share.version)?;
            if self.versions[..index]
                .iter()
                .any(|other| other.version == share.version)
            {
                return Err(TableError::Double(share.version.clone()));
            }
            at_most("instances", share.instances.len(), INSTANCES_MAX)?;
            for instance in &share.instances {
                name("instance", &instance.id)?;
                address(&instance.address)?;
            }
            if share.weight_bp > 0 && share.instances.is_empty() {
                return Err(TableError::NoInstance(share.version.clone()));
            }
            sum = sum.saturating_add(u64::from(share.weight_bp));
        }
        if sum != u64::from(FULL_BP) {
            return Err(TableError::Sum(sum));
        }
        let known = |version: &str| self.versions.iter().any(|one| one.version == version);
        if !self.canary.is_empty() && !known(&self.canary) {
            return Err(TableError::Canary("the canary is no version of this table"));
        }
        match self.lease {
            Some(_) if self.canary.is_empty() => Err(TableError::Canary("a lease needs a canary")),
            Some(lease) if !LEASE_MS.contains(&lease.ms) => {
                Err(TableError::Canary("a lease lasts 1 s to 1 h"))
            }
            _ => Ok(()),
        }
    }

    /// This table with all traffic on stable: the other version that has instances, the one with the
    /// most weight first. `None` = there is none, or nothing to take away.
    #[must_use]
    pub fn without_canary(&self) -> Option<Self> {
        if self.canary.is_empty() || self.weight_of(&self.canary) == 0 {
            return None;
        }
        let stable = self
            .versions
            .iter()
            .filter(|share| share.version != self.canary && !share.instances.is_empty())
            .max_by_key(|share| share.weight_bp)?
            .version
            .clone();
        let mut table = self.clone();
        for share in &mut table.versions {
            share.weight_bp = if share.version == stable { FULL_BP } else { 0 };
        }
        table.lease = None;
        Some(table)
    }

    /// The table's name: a hash over its canonical form. Order of versions, instances and hosts
    /// does not change it.
    #[must_use]
    pub fn hash(&self) -> Digest {
        let mut bytes = Vec::new();
        let mut field = |text: &str| {
            // Length first, so that no two tables share a preimage by shifting a boundary.
            bytes.extend_from_slice(&(text.len() as u64).to_le_bytes());
            bytes.extend_from_slice(text.as_bytes());
        };
        field("slipway traffic table 1");
        field(&self.service);
        field(&self.listen);
        field(&self.upstream_timeout_ms.to_string());
        let mut hosts: Vec<&String> = self.hosts.iter().collect();
        hosts.sort();
        field(&hosts.len().to_string());
        hosts.into_iter().for_each(|host| field(host));
        let mut shares: Vec<&Share> = self.versions.iter().collect();
        shares.sort_by(|a, b| a.version.cmp(&b.version));
        for share in shares {
            field(&share.version);
            field(&share.weight_bp.to_string());
            let mut instances: Vec<&Instance> = share.instances.iter().collect();
            instances.sort();
            field(&instances.len().to_string());
            for instance in instances {
                field(&instance.id);
                field(&instance.address);
            }
        }
        // Left out when it is as it always was: tables of earlier versions keep their names.
        if !self.canary.is_empty() || self.stickiness != Stickiness::None || self.lease.is_some() {
            field(&self.canary);
            field(&self.stickiness.to_string());
            let lease = self
                .lease
                .map(|lease| format!("{} {}", lease.ms, lease.revert));
            field(&lease.unwrap_or_default());
        }
        Digest::of(&bytes)
    }

    /// The weight of a version; 0 when it is not in the table.
    #[must_use]
    pub fn weight_of(&self, version: &str) -> u32 {
        self.versions
            .iter()
            .find(|share| share.version == version)
            .map_or(0, |share| share.weight_bp)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn table(weights: &[(&str, u32)]) -> TrafficTable {
        TrafficTable {
            service: "shop".to_owned(),
            hosts: vec![],
            listen: "127.0.0.1:8081".to_owned(),
            versions: weights
                .iter()
                .map(|(version, weight_bp)| Share {
                    version: (*version).to_owned(),
                    weight_bp: *weight_bp,
                    instances: vec![Instance {
                        id: format!("{version}-1"),
                        address: "10.0.0.1:80".to_owned(),
                    }],
                })
                .collect(),
            upstream_timeout_ms: 60_000,
            canary: String::new(),
            stickiness: Stickiness::None,
            lease: None,
        }
    }

    #[test]
    fn a_table_with_all_weight_on_live_versions_is_accepted() {
        assert_eq!(table(&[("a", 10_000)]).check(), Ok(()));
        assert_eq!(table(&[("a", 9_900), ("b", 100)]).check(), Ok(()));
        assert_eq!(table(&[("a", 10_000), ("b", 0)]).check(), Ok(()));
    }

    #[test]
    fn hostile_tables_are_refused_whole_with_the_field_named() {
        let with = |change: fn(&mut TrafficTable)| {
            let mut bad = table(&[("a", 10_000)]);
            change(&mut bad);
            bad.check()
        };
        assert_eq!(table(&[]).check(), Err(TableError::Sum(0)));
        assert_eq!(
            table(&[("a", 10_100)]).check(),
            Err(TableError::Sum(10_100))
        );
        assert_eq!(
            table(&[("a", u32::MAX), ("b", 1)]).check(),
            Err(TableError::Sum(4_294_967_296))
        );
        assert_eq!(
            table(&[("a", 5_000), ("a", 5_000)]).check(),
            Err(TableError::Double("a".to_owned()))
        );
        assert_eq!(
            with(|t| t.versions[0].instances.clear()),
            Err(TableError::NoInstance("a".to_owned()))
        );
        assert!(with(|t| t.listen = "8081".to_owned()).is_err());
        assert!(with(|t| t.versions[0].instances[0].address = ":80".to_owned()).is_err());
        assert!(with(|t| t.versions[0].instances[0].address = "a:99999".to_owned()).is_err());
        assert!(with(|t| t.service = "a\r\nb".to_owned()).is_err());
        assert!(with(|t| t.hosts = vec!["x".to_owned(); 101]).is_err());
    }

    #[test]
    fn the_way_back_gives_stable_everything_and_needs_its_instances() {
        let mut shared = table(&[("a", 9_000), ("b", 1_000)]);
        assert_eq!(shared.without_canary(), None, "no canary is named");
        shared.canary = "b".to_owned();
        shared.lease = Some(CanaryLease {
            ms: 60_000,
            revert: true,
        });
        assert_eq!(shared.check(), Ok(()));
        let back = shared.without_canary().unwrap();
        assert_eq!((back.weight_of("a"), back.weight_of("b")), (10_000, 0));
        assert_eq!((back.check(), back.lease), (Ok(()), None));
        assert_ne!(back.hash(), shared.hash());
        shared.versions[0].instances.clear();
        shared.versions[0].weight_bp = 0;
        shared.versions[1].weight_bp = 10_000;
        assert_eq!(shared.without_canary(), None, "nothing to go back to");
        shared.canary = "c".to_owned();
        assert!(shared.check().is_err());
        shared.canary = String::new();
        assert!(shared.check().is_err(), "a lease of nobody");
    }

    proptest! {
        #[test]
        fn order_does_not_change_the_hash_and_weights_do(a in 1_u32..9_999, swap in any::<bool>()) {
            let mut one = table(&[("a", a), ("b", 10_000 - a)]);
            let two = table(&[("a", a), ("b", 10_000 - a)]);
            if swap { one.versions.reverse(); }
            prop_assert_eq!(one.hash(), two.hash());
            prop_assert_ne!(one.hash(), table(&[("a", a - 1), ("b", 10_001 - a)]).hash());
        }

        #[test]
        fn check_is_total(weights in proptest::collection::vec(any::<u32>(), 0..12)) {
            let named: Vec<(String, u32)> =
                weights.iter().enumerate().map(|(i, w)| (format!("v{i}"), *w)).collect();
            let borrowed: Vec<(&str, u32)> = named.iter().map(|(n, w)| (n.as_str(), *w)).collect();
            let sum: u64 = weights.iter().map(|w| u64::from(*w)).sum();
            let checked = table(&borrowed).check();
            prop_assert_eq!(checked.is_ok(), sum == 10_000 && weights.len() <= VERSIONS_MAX);
        }
    }
}
