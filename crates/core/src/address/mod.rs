//! Which repository addresses may be used: `https` and `ssh` to public hosts, and what an administrator
//! adds. Checked when an address is saved, when the dispatcher reads it and when an agent fetches it: the
//! host is looked up once, every address found is checked, and git connects to these and to no others.

mod network;

use std::net::IpAddr;

/// Why an address is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAddress {
    /// Not `https://` or `ssh://`, and not on the administrator's list.
    #[error("a repository address begins with https:// or ssh://")]
    Scheme,
    /// Something in it could be taken for an option.
    #[error("no part of a repository address may begin with `-`")]
    Option,
    /// A user name with a password.
    #[error("credentials do not belong into the address; register them as a secret")]
    Credentials,
    /// Blanks, control characters, quotes, or too long.
    #[error("the repository address holds characters that it must not hold")]
    Characters,
    /// The port of another protocol.
    #[error("a repository address has the port of another protocol")]
    Port,
    /// It names this host or an internal address.
    #[error(
        "target_not_allowed: the repository address leads to an internal address; an administrator \
         allows it with a prefix in `allowed_sources` of dispatcher and agents"
    )]
    Internal,
    /// Its host has no address.
    #[error("the host of the repository address is not known; is its name right?")]
    Unknown,
}

/// How git speaks to a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// `https://`.
    Https,
    /// `ssh://`.
    Ssh,
}

/// Where a checked address leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Where an administrator allows it: nothing more is checked.
    Listed,
    /// To a host, which must be looked up and checked first.
    Host {
        /// How.
        transport: Transport,
        /// Its name, in lower case.
        name: String,
        /// Its port.
        port: u16,
    },
}

impl Target {
    /// What must be looked up.
    #[must_use]
    pub fn host(&self) -> Option<(&str, u16)> {
        match self {
            Self::Listed => None,
            Self::Host { name, port, .. } => Some((name, *port)),
        }
    }

    /// The settings under which git connects to the addresses that were found, and to no others.
    ///
    /// # Errors
    /// When one of them is internal, or there is none.
    pub fn pinned(&self, found: &[IpAddr]) -> Result<Vec<String>, InvalidAddress> {
        let Self::Host {
            transport,
            name,
            port,
        } = self
        else {
            return Ok(Vec::new());
        };
        if found.iter().any(|address| network::is_internal(*address)) {
            return Err(InvalidAddress::Internal);
        }
        let first = found.first().ok_or(InvalidAddress::Unknown)?;
        Ok(vec![match transport {
            Transport::Https => {
                let found: Vec<String> = found.iter().map(ToString::to_string).collect();
                format!("http.curloptResolve={name}:{port}:{}", found.join(","))
            }
            // The host's key is still looked for under its name.
            Transport::Ssh => {
                let alias = match port {
                    22 => name.clone(),
                    other => format!("[{name}]:{other}"),
                };
                format!("core.sshCommand=ssh -o HostName={first} -o 'HostKeyAlias={alias}'")
            }
        }])
    }
}

/// Prefixes that an administrator allows besides `https` and `ssh`.
#[derive(Clone, Debug, Default)]
pub struct AddressPolicy {
    /// For example `file:///srv/git/` or `http://127.0.0.1:3000/`.
    pub allowed_prefixes: Vec<String>,
}

impl AddressPolicy {
    /// Checks an address; answers with where it leads.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn check(&self, address: &str) -> Result<Target, InvalidAddress> {
        let bad =
            |c: char| c.is_control() || c.is_whitespace() || matches!(c, '"' | '\'' | '\\' | '`');
        if address.is_empty() || address.len() > 2_048 || address.chars().any(bad) {
            return Err(InvalidAddress::Characters);
        }
        if address.starts_with('-') {
            return Err(InvalidAddress::Option);
        }
        let listed = |prefix: &String| {
            !prefix.is_empty() && address.starts_with(prefix.as_str()) && !address.contains("..")
        };
        if self.allowed_prefixes.iter().any(listed) {
            return Ok(Target::Listed);
        }
        let (scheme, rest) = address.split_once("://").ok_or(InvalidAddress::Scheme)?;
        let transport = match scheme {
            "https" => Transport::Https,
            "ssh" => Transport::Ssh,
            _ => return Err(InvalidAddress::Scheme),
        };
        let authority = rest.split('/').next().unwrap_or_default();
        let (user, host) = match authority.rsplit_once('@') {
            Some((user, host)) => (Some(user), host),
            None => (None, authority),
        };
        if let Some(user) = user {
            if transport == Transport::Https || user.contains(':') {
                return Err(InvalidAddress::Credentials);
            }
            if user.starts_with('-') || user.is_empty() {
                return Err(InvalidAddress::Option);
            }
        }
        if host.starts_with('-') || rest.contains("/-") {
            return Err(InvalidAddress::Option);
        }
        let (name, port) = split_port(host, transport)?;
        check_host(&name)?;
        Ok(Target::Host {
            transport,
            name,
            port,
        })
    }
}

/// The host's name and its port. Low ports belong to protocols; only git's own are used.
fn split_port(host: &str, transport: Transport) -> Result<(String, u16), InvalidAddress> {
    let usual = match transport {
        Transport::Https => 443,
        Transport::Ssh => 22,
    };
    let named = host
        .rsplit_once(':')
        .filter(|(_, port)| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()));
    let Some((name, port)) = named else {
        return Ok((host.to_ascii_lowercase(), usual));
    };
    let port: u16 = port.parse().map_err(|_| InvalidAddress::Port)?;
    // Some hosts offer ssh on 443, for networks that let nothing else out.
    let fits = port >= 1_024 || port == usual || (transport == Transport::Ssh && port == 443);
    if !fits {
        return Err(InvalidAddress::Port);
    }
    Ok((name.to_ascii_lowercase(), port))
}

/// Names that are addresses in disguise are refused here; what a name leads to, by [`Target::pinned`].
fn check_host(host: &str) -> Result<(), InvalidAddress> {
    // Written with a last dot it is another text than the one that is pinned.
    let lower = host.trim_end_matches('.');
    if lower.is_empty() || lower.len() > 253 || (lower != host && lower != "localhost") {
        return Err(InvalidAddress::Characters);
    }
    let internal = lower == "localhost"
        || lower.ends_with(".localhost")
        || lower.ends_with(".internal")
        || lower.starts_with('[');
    // A host of only digits, dots and hex is an address in one of its notations.
    let numeric = lower.split('.').all(|part| {
        part.bytes().all(|b| b.is_ascii_digit())
            || part
                .strip_prefix("0x")
                .is_some_and(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()))
    });
    if internal || numeric {
        return Err(InvalidAddress::Internal);
    }
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    if !lower.bytes().all(plain) {
        return Err(InvalidAddress::Characters);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_h016_h017_h023_only_plain_https_and_ssh_addresses_are_accepted() {
        let policy = AddressPolicy::default();
        for good in [
            "https://git.example/team/shop.git",
            "ssh://git@git.example:2222/shop.git",
        ] {
            assert!(policy.check(good).is_ok(), "{good}");
        }
        for bad in [
            "ext::sh -c touch% pwned",
            "--upload-pack=touch pwned;git-upload-pack",
            "-u./payload",
            "/etc/passwd",
            "./repo",
            "file:///etc",
            "http://git.example/x",
            "git://git.example/x",
            "https://user:pass@host.example/x",
            "https://host.example:22/x",
            "https://host.example:25/x",
            "https://host.example:65536/x",
            "ssh://git@host.example:80/x",
            "https://token@host.example/x",
            "https://[::ffff:169.254.169.254]/x",
            "https://0x7f.1/",
            "https://127.0.0.1/x",
            "https://2130706433/x",
            "https://0177.0.0.1/x",
            "https://localhost./x",
            "https://LOCALHOST/x",
            "https://metadata.google.internal/x",
            "https:///host/repo",
            "ssh://-oProxyCommand=x@host.example/x",
            "ssh://-host/x",
            "https://host.example/-x",
            "https://host.example/x\n",
            "",
        ] {
            assert!(policy.check(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn hostile_h023_a_host_is_used_by_the_checked_addresses_alone() {
        let policy = AddressPolicy::default();
        let pinned = |address: &str, found: &[&str]| {
            let found: Vec<IpAddr> = found.iter().map(|a| a.parse().unwrap()).collect();
            policy.check(address).unwrap().pinned(&found)
        };
        let https = "https://Git.example/team/shop.git";
        let ssh = "ssh://git@git.example:2222/shop.git";
        // One bad address among good ones is enough: a second look could choose it.
        for found in [&["127.0.0.1"][..], &["140.82.121.3", "::1"], &["10.0.0.1"]] {
            for address in [https, ssh] {
                assert_eq!(pinned(address, found), Err(InvalidAddress::Internal));
            }
        }
        assert_eq!(pinned(https, &[]), Err(InvalidAddress::Unknown));
        assert_eq!(
            pinned(https, &["140.82.121.3", "2606:50c0:8000::153"]).unwrap(),
            ["http.curloptResolve=git.example:443:140.82.121.3,2606:50c0:8000::153"]
        );
        assert_eq!(
            pinned(ssh, &["140.82.121.3"]).unwrap(),
            ["core.sshCommand=ssh -o HostName=140.82.121.3 -o 'HostKeyAlias=[git.example]:2222'"]
        );
    }

    #[test]
    fn an_administrator_opens_one_folder_and_nothing_beside_it() {
        let policy = AddressPolicy {
            allowed_prefixes: vec!["file:///srv/git/".into()],
        };
        assert_eq!(policy.check("file:///srv/git/shop"), Ok(Target::Listed));
        assert!(policy.check("file:///srv/git/../secret").is_err());
        assert!(policy.check("file:///srv/other").is_err());
    }
}
