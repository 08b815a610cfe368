//! What a stage may not reach: cloud metadata, this host, private zones. Enforced by the host's packet
//! filter, on the interfaces of stages' networks (`ci-*`): root in a container can undo anything in its
//! own namespace, and nothing here.
//!
//! A table of its own, replaced as a whole, so that it neither depends on the engine's rules nor loses
//! to them.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, ensure};
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

/// The list, with what is open in it.
#[derive(Clone, Debug, Default)]
pub(crate) struct DenyList {
    /// Name servers of this host: the engine asks them from a container's own namespace.
    resolvers: Vec<IpAddr>,
    /// Opened by an administrator, by address and port.
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
        let text = std::fs::read_to_string(resolv_conf).unwrap_or_default();
        let servers = text.lines().filter_map(|line| {
            let mut words = line.split_whitespace();
            (words.next() == Some("nameserver")).then(|| words.next()?.parse().ok())?
        });
        Ok(Self {
            resolvers: servers.collect(),
            allowed: allowed.collect::<anyhow::Result<_>>()?,
        })
    }

    /// As the packet filter reads it (nftables, `man nft`).
    fn ruleset(&self) -> String {
        let mut open = String::new();
        let mut rule = |address: IpAddr, what: &str| {
            let family = if address.is_ipv4() { "ip" } else { "ip6" };
            // Writing to a string cannot fail.
            let _written = writeln!(open, "    {family} daddr {address} {what} accept");
        };
        for resolver in &self.resolvers {
            rule(*resolver, "udp dport 53");
            rule(*resolver, "tcp dport 53");
        }
        for allowed in &self.allowed {
            rule(allowed.ip(), &format!("tcp dport {}", allowed.port()));
        }
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
             {open}\
             \x20   ip daddr {{ {DENIED_V4} }} reject with icmpx admin-prohibited\n\
             \x20   ip6 daddr {{ {DENIED_V6} }} reject with icmpx admin-prohibited\n\
             \x20 }}\n\
             \x20 chain host {{\n\
             \x20   ct state established,related accept\n\
             \x20   icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit }} accept\n\
             {open}\
             \x20   reject with icmpx admin-prohibited\n\
             \x20 }}\n\
             }}\n"
        )
    }

    /// Puts the list in force.
    ///
    /// # Errors
    /// When this host or this user cannot: then stages reach what this host reaches.
    pub(crate) async fn enforce(&self) -> anyhow::Result<()> {
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
            input.write_all(self.ruleset().as_bytes()).await?;
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
    fn name_servers_and_what_the_settings_open_come_before_what_is_denied() {
        let rules = list(
            &["10.0.3.7:443", "[fd00::7]:5000"],
            "# comment\nsearch a\nnameserver 192.168.1.1\nnameserver nonsense\nnameserver\n",
        )
        .unwrap()
        .ruleset();
        let denied = rules.find("ip daddr { 0.0.0.0/8").unwrap();
        for open in [
            "ip daddr 192.168.1.1 udp dport 53 accept",
            "ip daddr 10.0.3.7 tcp dport 443 accept",
            "ip6 daddr fd00::7 tcp dport 5000 accept",
        ] {
            let at = rules.find(open).unwrap();
            assert!(at < denied, "{rules}");
            assert_eq!(rules.matches(open).count(), 2, "outside, and on this host");
        }
        assert!(!rules.contains("nonsense"));
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
