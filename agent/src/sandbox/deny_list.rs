//! What a stage may not reach: cloud metadata, this host, private zones. Enforced by the host's packet
//! filter, on the interfaces of stages' networks (`ci-*`): root in a container can undo anything in its
//! own namespace, and nothing here.
//!
//! A table of its own, replaced as a whole, so that it neither depends on the engine's rules nor loses
//! to them. It is the same for every agent of this host. What one agent's settings open beyond it is in a
//! second table, which goes by interfaces that only agents with the very same openings use ([`Opening`]):
//! of two agents on one host neither opens anything for the other's stages, nor closes it.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use slipway_core::digest::Digest;
use tokio::io::AsyncWriteExt as _;

/// Link-local and metadata, loopback, private (RFC 1918), carrier-grade NAT, benchmarks, multicast.
const DENIED_V4: &str = "0.0.0.0/8, 10.0.0.0/8, 100.64.0.0/10, 127.0.0.0/8, 168.63.129.16, 169.254.0.0/16, \
                         172.16.0.0/12, 192.168.0.0/16, 198.18.0.0/15, 224.0.0.0/3";
/// Loopback, IPv4-mapped, link-local, unique local (RFC 4193), multicast.
const DENIED_V6: &str = "::1, ::ffff:0:0/96, fc00::/7, fe80::/10, ff00::/8";
/// Longest run of the packet filter's program.
const LIMIT: Duration = Duration::from_secs(10);
/// Addresses that may be opened.
const ALLOWED_MAX: usize = 1_000;
/// Bits of a packet's mark that say "opened": set in one table, read in the other. A container cannot set
/// them, because a mark does not leave its network namespace. Orchestrators use other bits.
pub(super) const OPENED: &str = "0x00510000";
/// Characters of a digest that tell one set of openings from another; Linux takes 15 in an interface's
/// name, most of which tell stages apart.
const UNIQUE: usize = 4;

/// A set of opened addresses, by its short name: part of the names of the networks of stages that may
/// reach them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Opening(String);

impl Opening {
    fn of(allowed: &[SocketAddr]) -> Option<Self> {
        let lines: Vec<String> = allowed.iter().map(ToString::to_string).collect();
        let digest = Digest::of(lines.join("\n").as_bytes()).to_string();
        let unique: String = digest.chars().take(UNIQUE).collect();
        // No hexadecimal digit: no other stage's interface begins like this.
        (!allowed.is_empty()).then(|| Self(format!("o{unique}")))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// The list, with what is open in it.
#[derive(Clone, Debug, Default)]
pub(crate) struct DenyList {
    /// Name servers of this host: the engine asks them from a container's own namespace.
    resolvers: Vec<IpAddr>,
    /// Opened by an administrator, by address and port, sorted.
    allowed: Vec<SocketAddr>,
}

impl DenyList {
    /// With what the settings open.
    ///
    /// # Errors
    /// When an entry is no `address:port`.
    pub(crate) fn new(allowed: &[String], resolv_conf: &Path) -> anyhow::Result<Self> {
        ensure!(
            allowed.len() <= ALLOWED_MAX,
            "`allowed_addresses` has more than {ALLOWED_MAX} entries"
        );
        let allowed = allowed.iter().map(|entry| {
            entry.parse().with_context(|| {
                format!("`allowed_addresses`: `{entry}` is no address and port, like 10.0.3.7:443")
            })
        });
        let mut allowed: Vec<SocketAddr> = allowed.collect::<anyhow::Result<_>>()?;
        allowed.sort_unstable();
        allowed.dedup();
        let text = std::fs::read_to_string(resolv_conf).unwrap_or_default();
        let servers = text.lines().filter_map(|line| {
            let mut words = line.split_whitespace();
            (words.next() == Some("nameserver")).then(|| words.next()?.parse().ok())?
        });
        Ok(Self {
            resolvers: servers.collect(),
            allowed,
        })
    }

    /// `None` where nothing is opened.
    pub(crate) fn opening(&self) -> Option<Opening> {
        Opening::of(&self.allowed)
    }

    /// As the packet filter reads it (nftables, `man nft`).
    fn ruleset(&self) -> String {
        let mut asked = String::new();
        for resolver in &self.resolvers {
            rule(&mut asked, *resolver, "udp dport 53 accept");
            rule(&mut asked, *resolver, "tcp dport 53 accept");
        }
        let opening = self.opening();
        let opened = opening.map_or(String::new(), |opening| self.opened(&opening));
        format!(
            "add table inet slipway_ci\n\
             delete table inet slipway_ci\n\
             table inet slipway_ci {{\n\
             \x20 chain forward {{\n\
             \x20   type filter hook forward priority filter - 10; policy accept;\n\
             \x20   iifname \"ci-*\" jump outgoing\n\
             \x20 }}\n\
             \x20 chain input {{\n\
             \x20   type filter hook input priority filter - 10; policy accept;\n\
             \x20   iifname \"ci-*\" jump host\n\
             \x20 }}\n\
             \x20 chain outgoing {{\n\
             \x20   ct state established,related accept\n\
             \x20   oifname \"ci-*\" accept\n\
             {asked}\
             \x20   meta mark & {OPENED} == {OPENED} accept\n\
             \x20   ip daddr {{ {DENIED_V4} }} reject with icmpx admin-prohibited\n\
             \x20   ip6 daddr {{ {DENIED_V6} }} reject with icmpx admin-prohibited\n\
             \x20 }}\n\
             \x20 chain host {{\n\
             \x20   ct state established,related accept\n\
             \x20   icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit }} accept\n\
             {asked}\
             \x20   meta mark & {OPENED} == {OPENED} accept\n\
             \x20   reject with icmpx admin-prohibited\n\
             \x20 }}\n\
             }}\n\
             {opened}"
        )
    }

    /// The table that marks what is opened, before the other one looks.
    fn opened(&self, opening: &Opening) -> String {
        let mut marked = String::new();
        for allowed in &self.allowed {
            let what = format!(
                "tcp dport {} meta mark set meta mark | {OPENED}",
                allowed.port()
            );
            rule(&mut marked, allowed.ip(), &what);
        }
        let name = opening.as_str();
        format!(
            "add table inet slipway_ci_{name}\n\
             delete table inet slipway_ci_{name}\n\
             table inet slipway_ci_{name} {{\n\
             \x20 chain forward {{\n\
             \x20   type filter hook forward priority filter - 11; policy accept;\n\
             \x20   iifname \"ci-{name}*\" jump opened\n\
             \x20 }}\n\
             \x20 chain input {{\n\
             \x20   type filter hook input priority filter - 11; policy accept;\n\
             \x20   iifname \"ci-{name}*\" jump opened\n\
             \x20 }}\n\
             \x20 chain opened {{\n\
             {marked}\
             \x20 }}\n\
             }}\n"
        )
    }

    /// Puts the list in force.
    ///
    /// # Errors
    /// When this host or this user cannot: then stages reach what this host reaches.
    pub(crate) async fn enforce(&self) -> anyhow::Result<()> {
        apply(&self.ruleset()).await
    }
}

/// Has the packet filter do all of this, or nothing.
pub(super) async fn apply(rules: &str) -> anyhow::Result<()> {
    let mut filter = tokio::process::Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("the program `nft` cannot be started (package nftables)")?;
    let mut input = filter.stdin.take().context("no way to its input")?;
    let run = async {
        input.write_all(rules.as_bytes()).await?;
        drop(input);
        filter.wait_with_output().await
    };
    let ended = tokio::time::timeout(LIMIT, run).await;
    let out = ended.context("`nft` does not end")??;
    let said = String::from_utf8_lossy(&out.stderr);
    ensure!(
        out.status.success(),
        "`nft` refuses the rules ({}); it takes root, or CAP_NET_ADMIN",
        said.lines().next().unwrap_or("no reason given")
    );
    Ok(())
}

fn rule(rules: &mut String, address: IpAddr, what: &str) {
    let family = if address.is_ipv4() { "ip" } else { "ip6" };
    // Writing to a string cannot fail.
    let _written = writeln!(rules, "    {family} daddr {address} {what}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(allowed: &[&str], resolv: &str) -> anyhow::Result<DenyList> {
        let file = tempfile::NamedTempFile::new()?;
        std::fs::write(file.path(), resolv)?;
        let allowed: Vec<String> = allowed.iter().map(|a| (*a).to_owned()).collect();
        DenyList::new(&allowed, file.path())
    }

    #[test]
    fn name_servers_come_before_what_is_denied_and_nonsense_does_not() {
        let resolv =
            "# comment\nsearch a\nnameserver 192.168.1.1\nnameserver nonsense\nnameserver\n";
        let rules = list(&[], resolv).unwrap().ruleset();
        let denied = rules.find("ip daddr { 0.0.0.0/8").unwrap();
        let asked = "ip daddr 192.168.1.1 udp dport 53 accept";
        assert!(rules.find(asked).unwrap() < denied, "{rules}");
        assert_eq!(rules.matches(asked).count(), 2, "outside, and on this host");
        assert!(!rules.contains("nonsense"));
        assert_eq!(list(&[], resolv).unwrap().opening(), None);
    }

    #[test]
    fn what_one_agent_opens_is_in_a_table_of_its_own_and_the_common_one_is_alike_for_all() {
        let (one, other) = ("10.0.3.7:443", "[fd00::7]:5000");
        let both = list(&[one, other], "").unwrap();
        let same = list(&[other, one, one], "").unwrap();
        assert_eq!(
            both.opening(),
            same.opening(),
            "the same, in whatever order"
        );
        let only = list(&[one], "").unwrap();
        assert_ne!(both.opening(), only.opening());
        let name = both.opening().unwrap();
        assert!(format!("ci-{}", name.as_str()).len() == 8);
        let (rules, closed) = (both.ruleset(), list(&[], "").unwrap().ruleset());
        let own = rules.strip_prefix(&closed).expect("the common table first");
        for (family, address, port) in [("ip", "10.0.3.7", 443), ("ip6", "fd00::7", 5_000)] {
            let marked = format!("{family} daddr {address} tcp dport {port} meta mark set");
            assert_eq!(own.matches(&marked).count(), 1, "{own}");
        }
        assert!(own.contains(&format!("iifname \"ci-{}*\" jump opened", name.as_str())));
        assert!(!closed.contains("meta mark set"));
    }

    #[test]
    fn an_entry_that_is_no_address_with_a_port_is_named() {
        for wrong in ["10.0.3.7", "host:443", "10.0.0.0/8", "10.0.3.7:443 accept"] {
            let error = list(&[wrong], "").unwrap_err().to_string();
            assert!(
                error.contains(wrong) && error.contains("like 10.0.3.7:443"),
                "{error}"
            );
        }
    }
}
