//! Which repository addresses may be used: `https` and `ssh`, and what an administrator adds.

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
    /// It names this host or an internal address.
    #[error("target_not_allowed: the repository address leads to an internal address")]
    Internal,
}

/// Prefixes that an administrator allows besides `https` and `ssh`.
#[derive(Clone, Debug, Default)]
pub struct AddressPolicy {
    /// For example `file:///srv/git/` or `http://127.0.0.1:3000/`.
    pub allowed_prefixes: Vec<String>,
}

impl AddressPolicy {
    /// Checks an address.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn check(&self, address: &str) -> Result<(), InvalidAddress> {
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
            return Ok(());
        }
        let (scheme, rest) = address.split_once("://").ok_or(InvalidAddress::Scheme)?;
        if scheme != "https" && scheme != "ssh" {
            return Err(InvalidAddress::Scheme);
        }
        let authority = rest.split('/').next().unwrap_or_default();
        let (user, host) = match authority.rsplit_once('@') {
            Some((user, host)) => (Some(user), host),
            None => (None, authority),
        };
        if let Some(user) = user {
            if scheme == "https" || user.contains(':') {
                return Err(InvalidAddress::Credentials);
            }
            if user.starts_with('-') || user.is_empty() {
                return Err(InvalidAddress::Option);
            }
        }
        if host.starts_with('-') || rest.contains("/-") {
            return Err(InvalidAddress::Option);
        }
        check_host(host)
    }
}

/// Names that are addresses in disguise are refused here; the transport refuses redirects.
fn check_host(host: &str) -> Result<(), InvalidAddress> {
    let name = host
        .rsplit_once(':')
        .filter(|(_, port)| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()))
        .map_or(host, |(name, _)| name);
    let lower = name.trim_end_matches('.').to_ascii_lowercase();
    if lower.is_empty() || lower.len() > 253 {
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
            assert_eq!(policy.check(good), Ok(()), "{good}");
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
            "https://token@host.example/x",
            "https://[::ffff:169.254.169.254]/x",
            "https://0x7f.1/",
            "https://127.0.0.1/x",
            "https://2130706433/x",
            "https://0177.0.0.1/x",
            "https://localhost./x",
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
    fn an_administrator_opens_one_folder_and_nothing_beside_it() {
        let policy = AddressPolicy {
            allowed_prefixes: vec!["file:///srv/git/".into()],
        };
        assert_eq!(policy.check("file:///srv/git/shop"), Ok(()));
        assert!(policy.check("file:///srv/git/../secret").is_err());
        assert!(policy.check("file:///srv/other").is_err());
    }
}
