//! The key of a stage: everything that its container can see, as one hash, with one digest per field so
//! that a miss can say which field differs.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::pipeline::{ArtifactKind, CoverageFormat, EnvValue, Sandbox, StageSpec};

/// Separates these hashes from every other use of the function. A change of the encoding below is a new
/// version here.
const CONTEXT: &str = "slipway stage key v1";

/// The parts of a key, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Field {
    /// Labels that an agent must match.
    Platform,
    /// Images by digest, and the services beside the stage.
    Image,
    /// The shell lines.
    Commands,
    /// Every variable that is visible inside.
    Environment,
    /// Files of the commit, and what needed stages left.
    Inputs,
    /// How the commit is fetched.
    Checkout,
    /// The sandbox profile, which settles user and network too.
    Sandbox,
    /// What is kept afterwards.
    Outputs,
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Platform => "platform",
            Self::Image => "image",
            Self::Commands => "commands",
            Self::Environment => "environment",
            Self::Inputs => "inputs",
            Self::Checkout => "checkout",
            Self::Sandbox => "sandbox",
            Self::Outputs => "outputs",
        })
    }
}

/// What a key is made of.
#[derive(Clone, Copy, Debug)]
pub struct Ingredients<'a> {
    /// The stage.
    pub spec: &'a StageSpec,
    /// Labels that its file asks of an agent.
    pub labels: &'a BTreeMap<String, String>,
    /// Variables that the dispatcher gives it, beside its own.
    pub given: &'a BTreeMap<String, String>,
    /// Names the files of the commit that matter.
    pub source: &'a str,
    /// What needed stages left, in the order in which it is laid out.
    pub layers: &'a [String],
}

/// One digest per field.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fields(BTreeMap<Field, Digest>);

impl Fields {
    /// The fields that are not equal in both, in order.
    #[must_use]
    pub fn differing(&self, other: &Self) -> Vec<Field> {
        let all = self.0.keys().chain(other.0.keys());
        let all: std::collections::BTreeSet<Field> = all.copied().collect();
        all.into_iter()
            .filter(|field| self.0.get(field) != other.0.get(field))
            .collect()
    }
}

/// The key, and its fields one by one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StageKey {
    /// The key.
    pub key: Digest,
    /// Its fields.
    pub fields: Fields,
}

/// Computes the key of a stage that may have one (see [`super::never`]).
#[must_use]
pub fn key(of: &Ingredients<'_>) -> StageKey {
    let fields = [
        (Field::Platform, platform(of)),
        (Field::Image, image(of.spec)),
        (Field::Commands, commands(of.spec)),
        (Field::Environment, environment(of)),
        (Field::Inputs, inputs(of)),
        (Field::Checkout, checkout(of.spec)),
        (Field::Sandbox, sandbox(of.spec)),
        (Field::Outputs, outputs(of.spec)),
    ];
    let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
    let mut digests = BTreeMap::new();
    for (number, (field, Encoded(bytes))) in (0_u8..).zip(fields) {
        hasher.update(&[number]);
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(&bytes);
        digests.insert(field, Digest::of(&bytes));
    }
    StageKey {
        key: Digest::from_bytes(*hasher.finalize().as_bytes()),
        fields: Fields(digests),
    }
}

/// Texts with their lengths before them, lists with their counts: no two different contents have one
/// encoding.
#[derive(Default)]
struct Encoded(Vec<u8>);

impl Encoded {
    fn number(&mut self, number: u64) {
        self.0.extend(number.to_le_bytes());
    }

    fn text(&mut self, text: &str) {
        self.number(text.len() as u64);
        self.0.extend(text.as_bytes());
    }

    fn texts<S: AsRef<str>>(&mut self, texts: &[S]) {
        self.number(texts.len() as u64);
        for text in texts {
            self.text(text.as_ref());
        }
    }

    fn optional(&mut self, text: Option<&str>) {
        match text {
            None => self.number(0),
            Some(text) => {
                self.number(1);
                self.text(text);
            }
        }
    }

    fn pairs(&mut self, pairs: &BTreeMap<String, String>) {
        self.number(pairs.len() as u64);
        for (name, value) in pairs {
            self.text(name);
            self.text(value);
        }
    }

    fn values(&mut self, values: &BTreeMap<String, EnvValue>) {
        self.number(values.len() as u64);
        for (name, value) in values {
            self.text(name);
            let (kind, text) = match value {
                EnvValue::Plain(text) => (0, text),
                EnvValue::FromSecret(text) => (1, text),
            };
            self.number(kind);
            self.text(text);
        }
    }
}

fn platform(of: &Ingredients<'_>) -> Encoded {
    let mut out = Encoded::default();
    out.pairs(of.labels);
    out
}

fn image(spec: &StageSpec) -> Encoded {
    let mut out = Encoded::default();
    out.text(&spec.image);
    out.number(spec.services.len() as u64);
    for service in &spec.services {
        out.text(&service.name);
        out.text(&service.image);
        out.values(&service.environment);
        out.optional(service.ready.as_deref());
        out.texts(&service.command);
    }
    out
}

fn commands(spec: &StageSpec) -> Encoded {
    let mut out = Encoded::default();
    out.texts(&spec.commands);
    out
}

fn environment(of: &Ingredients<'_>) -> Encoded {
    // As the agent lays it together: the stage's own value wins.
    let mut all: BTreeMap<String, EnvValue> = of
        .given
        .iter()
        .map(|(name, value)| (name.clone(), EnvValue::Plain(value.clone())))
        .collect();
    all.extend(of.spec.environment.clone());
    let mut out = Encoded::default();
    out.values(&all);
    out
}

fn inputs(of: &Ingredients<'_>) -> Encoded {
    let mut out = Encoded::default();
    out.text(of.source);
    out.texts(of.layers);
    out
}

fn checkout(spec: &StageSpec) -> Encoded {
    let mut out = Encoded::default();
    out.number(u64::from(spec.clone.depth));
    out.number(u64::from(spec.clone.submodules));
    out.number(u64::from(spec.clone.lfs));
    out
}

fn sandbox(spec: &StageSpec) -> Encoded {
    let mut out = Encoded::default();
    out.text(match spec.sandbox {
        Sandbox::Standard => "standard",
        Sandbox::Strict => "strict",
        Sandbox::Trusted => "trusted",
    });
    out
}

fn outputs(spec: &StageSpec) -> Encoded {
    let mut out = Encoded::default();
    out.number(spec.artifacts.len() as u64);
    for rule in &spec.artifacts {
        out.number(match rule.rule {
            ArtifactKind::Keep => 0,
            ArtifactKind::MustMatch => 1,
            ArtifactKind::MayChange => 2,
            ArtifactKind::Exclude => 3,
        });
        out.text(&rule.pattern);
    }
    out.texts(&spec.junit);
    out.number(spec.coverage.len() as u64);
    for report in &spec.coverage {
        out.text(&report.path);
        out.number(match report.format {
            CoverageFormat::Lcov => 0,
            CoverageFormat::Cobertura => 1,
        });
        // A limit that was moved may fail what passed.
        for limit in [report.min, report.max_drop] {
            out.optional(limit.map(|n| n.to_bits().to_string()).as_deref());
        }
    }
    out.number(spec.caches.len() as u64);
    for cache in &spec.caches {
        out.text(&cache.key);
        out.texts(&cache.restore_keys);
        out.texts(&cache.paths);
    }
    // That it is asked for counts; the address and the token differ each time and decide nothing, like
    // what a cache holds. Only where it is asked for: keys without it stay as they were.
    if !spec.remote_cache.is_empty() {
        let names: Vec<&str> = spec.remote_cache.iter().map(|tool| tool.name()).collect();
        out.texts(&names);
    }
    out
}

#[cfg(test)]
#[path = "key_tests.rs"]
mod tests;
