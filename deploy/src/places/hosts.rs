//! Several Docker hosts of one environment as they are registered: how each engine and each router is reached, and
//! what is refused before it is stored.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use slipway_core::rollout::HOSTS_MAX;
use slipway_docker::TlsFiles;

/// Longest name of a host.
const NAME_MAX: usize = 63;

/// One of several hosts.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DockerPlace {
    /// What people call it: lower-case letters, digits, `-`, `.`.
    pub name: String,
    /// Its engine: `tcp://host:2376` over mutual TLS, or `unix:///path/to/socket`.
    pub docker: String,
    /// For `tcp://`: files on the coordinator's host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsFiles>,
    /// Its router: `https://host:7706` (the certificates of the installation), or `unix:///…/router.sock`.
    pub router: String,
    /// Where its router serves the environment's services, when not at the environment's address.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub listen: String,
}

/// Whether these hosts can be deployed to, as far as they say themselves.
///
/// # Errors
/// Code, what, where and how to fix it.
pub(crate) fn check_hosts(hosts: &[DockerPlace]) -> Result<(), String> {
    if hosts.len() > HOSTS_MAX {
        let count = hosts.len();
        return Err(format!(
            "hosts_too_many: `docker_hosts` has {count} entries, at most {HOSTS_MAX} are possible; make a second \
             environment of the rest"
        ));
    }
    let (mut names, mut routers, mut engines) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for (index, host) in hosts.iter().enumerate() {
        let at = |code: &str, text: String| Err(format!("{code}: `docker_hosts[{index}]`: {text}"));
        let letter = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
        if host.name.is_empty() || host.name.len() > NAME_MAX || !host.name.bytes().all(letter) {
            return at(
                "host_name",
                format!(
                    "`{}` is no name; use 1 … 63 lower-case letters, digits, `-`, `.`",
                    shown(&host.name)
                ),
            );
        }
        if !names.insert(&host.name) {
            return at(
                "host_twice",
                format!(
                    "`{}` is listed twice; each host has a name of its own",
                    host.name
                ),
            );
        }
        if !engines.insert(&host.docker) {
            return at(
                "host_twice",
                format!("`{}` has the engine of another host", host.name),
            );
        }
        if !routers.insert(&host.router) {
            return at(
                "host_twice",
                format!(
                    "`{}` has the router of another host; each host needs a router of its own",
                    host.name
                ),
            );
        }
        if let Err((code, text)) = check_one(host) {
            return at(code, format!("`{}`: {text}", host.name));
        }
    }
    Ok(())
}

fn check_one(host: &DockerPlace) -> Result<(), (&'static str, String)> {
    let absolute = |address: &str| {
        address
            .strip_prefix("unix://")
            .is_some_and(|path| path.starts_with('/'))
    };
    match (host.docker.strip_prefix("tcp://"), &host.tls) {
        (Some(at), Some(tls)) if has_port(at) => {
            for (name, file) in [("ca", &tls.ca), ("cert", &tls.cert), ("key", &tls.key)] {
                if !file.is_absolute() {
                    return Err((
                        "host_tls",
                        format!("`tls.{name}` must be an absolute path on the coordinator's host"),
                    ));
                }
            }
        }
        (Some(at), None) if has_port(at) => {
            let text = "an engine at `tcp://` needs `tls: {ca, cert, key}`: without it, whoever reaches the port owns \
                        the host";
            return Err(("host_tls", text.to_owned()));
        }
        (None, Some(_)) => {
            return Err((
                "host_tls",
                "`tls` is for `tcp://` engines; remove it, or change `docker`".to_owned(),
            ));
        }
        (None, None) if absolute(&host.docker) => {}
        _ => {
            let text = "`docker` is not `tcp://host:port` or `unix:///path/to/socket`";
            return Err(("host_engine", text.to_owned()));
        }
    }
    let remote = host.router.strip_prefix("https://");
    if !absolute(&host.router) && !remote.is_some_and(has_port) {
        let text = "`router` is not `https://host:port` or `unix:///path/to/socket`";
        return Err(("host_router", text.to_owned()));
    }
    if !host.listen.is_empty() && !has_port(&host.listen) {
        return Err(("host_listen", "`listen` is not `address:port`".to_owned()));
    }
    Ok(())
}

fn has_port(address: &str) -> bool {
    let plain = |c: char| !c.is_control() && !c.is_whitespace() && c != '/' && c != '@';
    let split = address.rsplit_once(':');
    address.len() <= 255
        && address.chars().all(plain)
        && split.is_some_and(|(host, port)| {
            !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0)
        })
}

fn shown(text: &str) -> String {
    text.chars().take(80).filter(|c| !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(name: &str) -> DockerPlace {
        DockerPlace {
            name: name.to_owned(),
            docker: format!("tcp://{name}.internal:2376"),
            tls: Some(TlsFiles {
                ca: "/etc/slipway/ca.pem".into(),
                cert: "/etc/slipway/cert.pem".into(),
                key: "/etc/slipway/key.pem".into(),
            }),
            router: format!("https://{name}.internal:7706"),
            listen: String::new(),
        }
    }

    #[test]
    fn hosts_that_are_whole_are_taken_up_to_a_hundred() {
        let all: Vec<DockerPlace> = (0..100).map(|i| host(&format!("h{i}"))).collect();
        assert_eq!(check_hosts(&all), Ok(()));
        let more: Vec<DockerPlace> = (0..101).map(|i| host(&format!("h{i}"))).collect();
        assert!(
            check_hosts(&more)
                .unwrap_err()
                .starts_with("hosts_too_many")
        );
    }

    #[test]
    fn what_is_wrong_with_a_host_is_said_with_a_code_and_its_place() {
        let with = |change: fn(&mut DockerPlace)| {
            let mut bad = host("b");
            change(&mut bad);
            check_hosts(&[host("a"), bad]).unwrap_err()
        };
        for (error, code) in [
            (with(|h| h.name = "B!".to_owned()), "host_name"),
            (with(|h| h.name = "a".to_owned()), "host_twice"),
            (
                with(|h| h.router = "https://a.internal:7706".to_owned()),
                "host_twice",
            ),
            (with(|h| h.tls = None), "host_tls"),
            (with(|h| h.docker = "tcp://b".to_owned()), "host_engine"),
            (with(|h| h.docker = "ssh://b:22".to_owned()), "host_tls"),
            (
                with(|h| h.router = "http://b:7706".to_owned()),
                "host_router",
            ),
            (
                with(|h| h.router = "https://u:p@b:7706".to_owned()),
                "host_router",
            ),
            (with(|h| h.listen = "80".to_owned()), "host_listen"),
            (
                with(|h| h.tls.as_mut().unwrap().key = "key.pem".into()),
                "host_tls",
            ),
        ] {
            assert!(
                error.starts_with(&format!("{code}: `docker_hosts[1]`")),
                "{error}"
            );
        }
    }
}
