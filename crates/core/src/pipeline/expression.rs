//! `${{ … }}` and `if`: CEL over a fixed set of values. Secrets are not in scope. Values that an
//! outsider chooses (branch, tag, ref) are missing where the result becomes a shell line, so that
//! using them there is an error and not an injection.

use std::collections::BTreeMap;

use cel::extractors::Arguments;
use cel::{Context, Program, Value as Cel};

use super::facts::Facts;
use super::names::Globs;

/// Longest expression, characters.
const EXPRESSION_MAX: usize = 1_000;
/// Deepest nesting of brackets: the parser recurses.
const NESTING_MAX: usize = 30;

/// Where the result goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    /// A value.
    Value,
    /// A piece of a shell line.
    ShellLine,
}

/// What an expression may see.
pub(super) struct Scope<'a> {
    pub(super) facts: &'a Facts,
    pub(super) variables: &'a BTreeMap<String, String>,
    pub(super) matrix: &'a BTreeMap<String, String>,
}

impl Scope<'_> {
    fn context(&self, place: Use) -> Result<Context<'static, 'static>, String> {
        let facts = self.facts;
        let mut build = BTreeMap::from([
            ("id", facts.build_id.clone()),
            ("number", facts.number.to_string()),
            ("event", facts.event.clone()),
            ("sha", facts.sha.clone()),
            ("short_sha", facts.short_sha().to_owned()),
            ("url", facts.url.clone()),
        ]);
        if place == Use::Value {
            build.insert("ref", facts.ref_name.clone());
            build.insert("branch", facts.branch().to_owned());
            build.insert("tag", facts.tag().to_owned());
        }
        let mut context = Context::default();
        let repo = BTreeMap::from([
            ("name", facts.repo.clone()),
            ("default_branch", facts.default_branch.clone()),
        ]);
        let show = |e: &dyn std::fmt::Display| e.to_string();
        context.add_variable("build", build).map_err(|e| show(&e))?;
        context.add_variable("repo", repo).map_err(|e| show(&e))?;
        context
            .add_variable("matrix", self.matrix.clone())
            .map_err(|e| show(&e))?;
        context
            .add_variable("variables", self.variables.clone())
            .map_err(|e| show(&e))?;
        let files = facts.files.clone();
        context
            .add_function("hash", move |Arguments(args): Arguments| {
                hash(files.as_ref(), &args)
            })
            .map_err(|e| show(&e))?;
        Ok(context)
    }

    /// Evaluates one expression.
    pub(super) fn evaluate(&self, source: &str, place: Use) -> Result<Cel, String> {
        if source.contains("secrets") {
            return Err("secrets cannot be used in expressions".to_owned());
        }
        let program = compiled(source)?;
        let context = self.context(place)?;
        program.execute(&context).map_err(|e| match place {
            Use::ShellLine if mentions_chosen(source) => {
                "branch, tag and ref are chosen by whoever pushes and may hold shell commands; \
                 use $CI_COMMIT_BRANCH, $CI_COMMIT_TAG or $CI_COMMIT_REF"
                    .to_owned()
            }
            _ => first_line(&e.to_string()),
        })
    }

    /// Replaces every `${{ … }}` in a text.
    pub(super) fn interpolate(&self, text: &str, place: Use) -> Result<String, String> {
        let mut out = String::new();
        let mut rest = text;
        while let Some(start) = rest.find("${{") {
            out.push_str(&rest[..start]);
            let inner = &rest[start + 3..];
            let end = inner.find("}}").ok_or("`${{` is never closed with `}}`")?;
            match self.evaluate(inner[..end].trim(), place)? {
                Cel::String(value) => out.push_str(&value),
                Cel::Int(n) => out.push_str(&n.to_string()),
                Cel::UInt(n) => out.push_str(&n.to_string()),
                Cel::Bool(b) => out.push_str(&b.to_string()),
                other => {
                    return Err(format!(
                        "`{}` is {:?}, not a text",
                        inner[..end].trim(),
                        other.type_of()
                    ));
                }
            }
            rest = &inner[end + 2..];
        }
        out.push_str(rest);
        Ok(out)
    }

    /// Whether a condition holds.
    pub(super) fn holds(&self, source: &str) -> Result<bool, String> {
        let bare = source
            .trim()
            .strip_prefix("${{")
            .and_then(|s| s.strip_suffix("}}"))
            .unwrap_or(source);
        match self.evaluate(bare.trim(), Use::Value)? {
            Cel::Bool(b) => Ok(b),
            other => Err(format!("it gives {:?}, not true or false", other.type_of())),
        }
    }
}

/// Whether a condition over one number, `value`, holds.
///
/// # Errors
/// A sentence, when it cannot be evaluated or is no condition.
pub(crate) fn number_holds(source: &str, value: f64) -> Result<bool, String> {
    let program = compiled(source)?;
    let mut context = Context::default();
    context
        .add_variable("value", value)
        .map_err(|e| e.to_string())?;
    match program.execute(&context) {
        Ok(Cel::Bool(holds)) => Ok(holds),
        Ok(other) => Err(format!(
            "`{source}` gives {:?}, not true or false",
            other.type_of()
        )),
        Err(error) => Err(format!("`{source}`: {}", first_line(&error.to_string()))),
    }
}

/// Compiles what is short and flat enough to be compiled.
fn compiled(source: &str) -> Result<Program, String> {
    if source.len() > EXPRESSION_MAX {
        return Err(format!(
            "the expression is longer than {EXPRESSION_MAX} characters"
        ));
    }
    if nesting(source) > NESTING_MAX {
        return Err(format!("brackets nest deeper than {NESTING_MAX}"));
    }
    Program::compile(source).map_err(|e| first_line(&e.to_string()))
}

fn mentions_chosen(source: &str) -> bool {
    ["branch", "tag", "ref", "message", "author"]
        .iter()
        .any(|word| source.contains(word))
}

fn first_line(text: &str) -> String {
    text.lines()
        .next()
        .unwrap_or_default()
        .chars()
        .take(300)
        .collect()
}

/// Depth of brackets, counting runs of prefix operators as brackets: the parser recurses on both.
fn nesting(source: &str) -> usize {
    let (mut depth, mut run, mut deepest) = (0_usize, 0_usize, 0_usize);
    for b in source.bytes() {
        match b {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        match b {
            b'!' | b'-' => run += 1,
            b' ' => {}
            _ => run = 0,
        }
        deepest = deepest.max(depth + run);
    }
    deepest
}

/// One digest over the matching files of the commit: name and content of each.
fn hash(files: Option<&BTreeMap<String, String>>, args: &[Cel]) -> String {
    let Some(files) = files else {
        return "unknown".to_owned();
    };
    let patterns: Vec<String> = args
        .iter()
        .filter_map(|arg| match arg {
            Cel::String(text) => Some(text.to_string()),
            _ => None,
        })
        .collect();
    let globs = Globs::new(&patterns);
    let mut hasher = blake3::Hasher::new();
    for (path, id) in files {
        if globs.as_ref().is_ok_and(|globs| globs.matches(path)) {
            for part in [path, id] {
                hasher.update(&(part.len() as u64).to_le_bytes());
                hasher.update(part.as_bytes());
            }
        }
    }
    hasher.finalize().to_hex()[..16].to_owned()
}
