//! Settings: embedded defaults, then the file, then `SLIPWAY_*`, then flags. Read once at start.
//!
//! The defaults are the list of known keys: whatever a file or a variable names must be among them,
//! otherwise the nearest known key is suggested. Lists and tables that the user fills freely are
//! declared in the defaults as empty tables or arrays.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use toml::{Table, Value};

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The settings file cannot be read.
    #[error("cannot read the settings file {path}")]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The text is not TOML.
    #[error("{origin} is not valid TOML")]
    NotToml {
        /// Where the text came from.
        origin: String,
        /// Line, column and reason.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// A key that does not exist.
    #[error("unknown setting `{key}` in {origin}{}", nearest.as_ref().map(|n| format!("; did you mean `{n}`?")).unwrap_or_default())]
    UnknownKey {
        /// The dotted key.
        key: String,
        /// Where it stands.
        origin: String,
        /// The nearest known key.
        nearest: Option<String>,
    },
    /// A value of the wrong kind.
    #[error("a setting has the wrong kind of value")]
    Mismatch(#[source] Box<toml::de::Error>),
}

/// Loads settings of one role. `env_prefix` is the upper-case role, e.g. `ROUTER`: the variable
/// `SLIPWAY_ROUTER_CONTROL_ADDRESS` sets `control_address` (or `control.address`).
///
/// # Errors
/// When a source cannot be read, names an unknown key, or holds a value of the wrong kind.
pub fn load<T: DeserializeOwned>(
    defaults: &str,
    file: Option<&Path>,
    env_prefix: &str,
) -> Result<T, ConfigError> {
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that reads the environment"
    )]
    let env = std::env::vars().collect();
    load_from(defaults, file, env_prefix, &env)
}

fn load_from<T: DeserializeOwned>(
    defaults: &str,
    file: Option<&Path>,
    env_prefix: &str,
    env: &BTreeMap<String, String>,
) -> Result<T, ConfigError> {
    let mut settings = parse(defaults, "the built-in defaults")?;
    if let Some(path) = file {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable {
            path: path.to_owned(),
            source,
        })?;
        let origin = path.display().to_string();
        let given = parse(&text, &origin)?;
        merge(&mut settings, given, "", &origin)?;
    }
    let mut known = Vec::new();
    leaves(&settings, "", &mut known);
    for key in known {
        let name = format!(
            "SLIPWAY_{env_prefix}_{}",
            key.replace('.', "_").to_uppercase()
        );
        if let Some(text) = env.get(&name) {
            assign(&mut settings, &key, text);
        }
    }
    Value::Table(settings)
        .try_into()
        .map_err(|e| ConfigError::Mismatch(Box::new(e)))
}

fn parse(text: &str, origin: &str) -> Result<Table, ConfigError> {
    text.parse().map_err(|source| ConfigError::NotToml {
        origin: origin.to_owned(),
        source: Box::new(source),
    })
}

fn merge(into: &mut Table, from: Table, prefix: &str, origin: &str) -> Result<(), ConfigError> {
    // An empty table in the defaults is free for the user to fill.
    let free = into.is_empty() && !prefix.is_empty();
    for (key, value) in from {
        let path = if prefix.is_empty() {
            key.clone()
        } else {
            format!("{prefix}.{key}")
        };
        match (into.get_mut(&key), value) {
            (Some(Value::Table(inner)), Value::Table(given)) => merge(inner, given, &path, origin)?,
            (Some(slot), value) => *slot = value,
            (None, value) if free => {
                into.insert(key, value);
            }
            (None, _) => {
                let nearest = into
                    .keys()
                    .min_by_key(|known| strsim::levenshtein(known, &key))
                    .filter(|known| strsim::levenshtein(known, &key) <= 3)
                    .cloned();
                let origin = origin.to_owned();
                return Err(ConfigError::UnknownKey {
                    key: path,
                    origin,
                    nearest,
                });
            }
        }
    }
    Ok(())
}

fn leaves(table: &Table, prefix: &str, out: &mut Vec<String>) {
    for (key, value) in table {
        let path = if prefix.is_empty() {
            key.clone()
        } else {
            format!("{prefix}.{key}")
        };
        match value {
            Value::Table(inner) => leaves(inner, &path, out),
            _ => out.push(path),
        }
    }
}

fn assign(table: &mut Table, key: &str, text: &str) {
    let mut at = table;
    let mut rest = key;
    while let Some((head, tail)) = rest.split_once('.') {
        let Some(Value::Table(inner)) = at.get_mut(head) else {
            return;
        };
        at = inner;
        rest = tail;
    }
    if let Some(slot) = at.get_mut(rest) {
        *slot = match slot {
            Value::String(_) => Value::String(text.to_owned()),
            // A number, boolean or list is read as TOML; what does not parse stays a text, and the
            // typed conversion names the mistake.
            _ => format!("v = {text}")
                .parse::<Table>()
                .ok()
                .and_then(|mut t| t.remove("v"))
                .unwrap_or_else(|| Value::String(text.to_owned())),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, serde::Deserialize)]
    struct Sample {
        listen: String,
        limits: Limits,
    }

    #[derive(Debug, PartialEq, serde::Deserialize)]
    struct Limits {
        slots: u32,
    }

    const DEFAULTS: &str = "listen = \"127.0.0.1:1\"\n[limits]\nslots = 2\n";

    #[test]
    fn environment_beats_file_beats_defaults() {
        let dir = std::env::temp_dir().join(format!("slipway-config-{}", std::process::id()));
        std::fs::write(&dir, "listen = \"127.0.0.1:2\"\n[limits]\nslots = 3\n").unwrap();
        let env = BTreeMap::from([("SLIPWAY_X_LIMITS_SLOTS".to_owned(), "4".to_owned())]);
        let got: Sample = load_from(DEFAULTS, Some(&dir), "X", &env).unwrap();
        std::fs::remove_file(&dir).unwrap();
        assert_eq!(
            got,
            Sample {
                listen: "127.0.0.1:2".into(),
                limits: Limits { slots: 4 }
            }
        );
    }

    #[test]
    fn an_unknown_key_names_its_nearest_neighbour() {
        let mut into = parse(DEFAULTS, "defaults").unwrap();
        let from = parse("lisen = \"x\"", "file").unwrap();
        let error = merge(&mut into, from, "", "file").unwrap_err();
        assert_eq!(
            error.to_string(),
            "unknown setting `lisen` in file; did you mean `listen`?"
        );
    }
}
