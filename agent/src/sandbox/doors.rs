//! Addresses of this host that stages of one network reach although the host is denied to them: the doors
//! of their attempts, one element of a set of the host's packet filter each.
//!
//! A table of its own, so that no agent's start takes away what another one opened. Each element ends by
//! itself: an agent that never came back has left nothing open for ever.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use super::deny_list::{OPENED, apply};

/// Longer than any stage may take.
const HOURS: u32 = 26;

/// The host's end of a stage's network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gateway {
    /// Its address there.
    pub address: IpAddr,
    /// Its interface, which packets of the stage come in by.
    pub interface: String,
}

/// Whether the name can stand in a rule as it is.
fn is_plain(interface: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    !interface.is_empty() && interface.len() <= 15 && interface.chars().all(plain)
}

fn element(verb: &str, gateway: &Gateway, port: u16, more: &str) -> String {
    let set = if gateway.address.is_ipv4() {
        "four"
    } else {
        "six"
    };
    format!(
        "{verb} element inet slipway_ci_doors {set} {{ \"{}\" . {} . {port}{more} }}\n",
        gateway.interface, gateway.address
    )
}

fn opening(gateway: &Gateway, port: u16) -> String {
    let mut rules = String::from("add table inet slipway_ci_doors\n");
    for (set, kind) in [("four", "ipv4_addr"), ("six", "ipv6_addr")] {
        // Writing to a string cannot fail.
        let _written = writeln!(
            rules,
            "add set inet slipway_ci_doors {set} {{ type ifname . {kind} . inet_service ; flags timeout ; }}"
        );
    }
    // Before the chain that denies looks at the mark.
    rules.push_str(
        "add chain inet slipway_ci_doors input { type filter hook input priority filter - 11 ; policy accept ; }\n\
         flush chain inet slipway_ci_doors input\n",
    );
    for (set, family) in [("four", "ip"), ("six", "ip6")] {
        let _written = writeln!(
            rules,
            "add rule inet slipway_ci_doors input iifname . {family} daddr . tcp dport @{set} \
             meta mark set meta mark | {OPENED}"
        );
    }
    rules.push_str(&element(
        "add",
        gateway,
        port,
        &format!(" timeout {HOURS}h"),
    ));
    rules
}

/// Lets stages of this network reach the address.
///
/// # Errors
/// When this host or this user cannot change the packet filter: then nothing denies it either, or it stays
/// denied.
pub(crate) async fn let_in(gateway: &Gateway, at: SocketAddr) -> anyhow::Result<()> {
    anyhow::ensure!(
        is_plain(&gateway.interface),
        "the interface's name is strange"
    );
    apply(&opening(gateway, at.port())).await
}

/// Denies it again.
///
/// # Errors
/// As above, or when it was not open.
pub(crate) async fn keep_out(gateway: &Gateway, at: SocketAddr) -> anyhow::Result<()> {
    anyhow::ensure!(
        is_plain(&gateway.interface),
        "the interface's name is strange"
    );
    apply(&element("delete", gateway, at.port(), "")).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_and_port_of_one_network_is_opened_and_closed() {
        let gateway = Gateway {
            address: "172.18.0.1".parse().unwrap(),
            interface: "ci-stages".to_owned(),
        };
        let rules = opening(&gateway, 4_000);
        let added = "add element inet slipway_ci_doors four { \"ci-stages\" . 172.18.0.1 . 4000 timeout 26h }";
        assert!(rules.trim_end().ends_with(added), "{rules}");
        assert!(rules.contains("priority filter - 11"), "{rules}");
        assert_eq!(
            element("delete", &gateway, 4_000, ""),
            "delete element inet slipway_ci_doors four { \"ci-stages\" . 172.18.0.1 . 4000 }\n"
        );
    }

    #[test]
    fn a_name_that_is_more_than_a_name_is_no_interface() {
        for bad in ["", "ci-\"", "a b", "ci-0123456789abcdef", "x;y"] {
            assert!(!is_plain(bad), "{bad}");
        }
    }
}
