//! `slipway lint`: a pipeline file's mistakes, each with its line.

use std::path::{Path, PathBuf};

use miette::{
    GraphicalReportHandler, GraphicalTheme, LabeledSpan, MietteDiagnostic, NamedSource, Report,
    Severity,
};
use slipway_core::manifest::ManifestFile;
use slipway_core::pipeline::{self, At, DeploySpec, Facts, Mistake};

use crate::exit_code::Exit;
use crate::output;

/// Flags of `slipway lint`.
#[derive(Debug, clap::Args)]
pub(crate) struct Lint {
    /// The file.
    #[arg(default_value = ".slipway.yml")]
    file: PathBuf,
    /// Prints the JSON Schema of the file.
    #[arg(long)]
    schema: bool,
    /// JSON instead of text.
    #[arg(long)]
    json: bool,
}

impl Lint {
    pub(crate) fn execute(self) -> anyhow::Result<Exit> {
        if self.schema {
            output::json(&serde_json::to_value(pipeline::json_schema())?);
            return Ok(Exit::Ok);
        }
        let name = self.file.display().to_string();
        let text = std::fs::read_to_string(&self.file)
            .map_err(|e| anyhow::anyhow!("cannot read {name}: {e}"))?;
        let facts = Facts {
            event: "manual".to_owned(),
            ref_name: "refs/heads/main".to_owned(),
            sha: "0123456789abcdef0123456789abcdef01234567".to_owned(),
            repo: "local".to_owned(),
            default_branch: "main".to_owned(),
            ..Facts::default()
        };
        let mistakes = match pipeline::plan(&text, &facts) {
            Ok(pipeline::Outcome::Build(plan, mut warnings)) => {
                if let Some(deploy) = &plan.deploy {
                    warnings.extend(manifests(&self.file, deploy));
                }
                warnings
            }
            Ok(pipeline::Outcome::NotWanted(_)) => Vec::new(),
            Err(mistakes) => mistakes,
        };
        let errors = mistakes.iter().filter(|m| m.is_error()).count();
        if self.json {
            output::json(&serde_json::to_value(&mistakes)?);
        } else {
            for mistake in &mistakes {
                output::raw(&render(&name, &text, mistake));
            }
            output::say(&format!(
                "{name}: {errors} errors, {} warnings",
                mistakes.len() - errors
            ));
        }
        Ok(if errors > 0 { Exit::Lint } else { Exit::Ok })
    }
}

/// What is wrong with the manifests that a file names, as they lie beside it. A chart is rendered where builds
/// are planned, and not here.
fn manifests(file: &Path, deploy: &DeploySpec) -> Vec<Mistake> {
    let folder = file.parent().unwrap_or_else(|| Path::new(""));
    // A file of `.slipway/` names what is beside that folder.
    let root = if folder.ends_with(".slipway") {
        folder.parent().unwrap_or(folder)
    } else {
        folder
    };
    let environments = deploy.environments.iter();
    let all = deploy.pods.iter();
    let all = all.chain(environments.filter_map(|one| one.pods.as_ref()));
    let mut mistakes = Vec::new();
    for pods in all.filter(|pods| pods.chart.is_none()) {
        let mut manifests = pods.manifests.clone();
        for path in &pods.paths {
            match std::fs::read_to_string(root.join(path)) {
                Ok(text) => manifests.files.push(ManifestFile {
                    path: path.clone(),
                    text,
                }),
                Err(error) => {
                    let text = format!("`{path}`: {error}");
                    mistakes.push(Mistake::elsewhere("SLP0307", pods.line, text));
                }
            }
        }
        if manifests.files.len() == pods.paths.len()
            && let Err(error) = slipway_core::manifest::check(&manifests)
        {
            mistakes.push(error.named_at(pods.line));
        }
    }
    mistakes
}

/// One mistake with its source line.
pub(crate) fn render(name: &str, text: &str, mistake: &Mistake) -> String {
    let label = mistake.fix.clone().or_else(|| mistake.reason.clone());
    let (start, length) = span(text, mistake.at);
    let mut diagnostic = MietteDiagnostic::new(format!("{} {}", mistake.code, mistake.message))
        .with_severity(if mistake.is_error() {
            Severity::Error
        } else {
            Severity::Warning
        })
        .with_label(LabeledSpan::new(label, start, length));
    if let (Some(reason), Some(_)) = (&mistake.reason, &mistake.fix) {
        diagnostic = diagnostic.with_help(reason.clone());
    }
    let report = Report::new(diagnostic)
        .with_source_code(NamedSource::new(name, text.to_owned()).with_language("yaml"));
    let mut out = String::new();
    let handler = GraphicalReportHandler::new_themed(GraphicalTheme::unicode_nocolor());
    match handler.render_report(&mut out, report.as_ref()) {
        Ok(()) => out,
        Err(_) => format!(
            "{name}:{}:{}: {}\n",
            mistake.at.line, mistake.at.column, mistake.message
        ),
    }
}

/// A place as bytes of the text.
fn span(text: &str, at: At) -> (usize, usize) {
    let mut start = 0;
    for (number, line) in text.split_inclusive('\n').enumerate() {
        if number + 1 == at.line as usize {
            let column = at.column.saturating_sub(1) as usize;
            let from = line
                .char_indices()
                .nth(column)
                .map_or(line.trim_end().len(), |(i, _)| i);
            let rest = line.get(from..).unwrap_or_default().trim_end();
            let length = rest
                .char_indices()
                .nth(at.length as usize)
                .map_or(rest.len(), |(i, _)| i);
            return (start + from, length.max(1).min(rest.len().max(1)));
        }
        start += line.len();
    }
    (text.len().saturating_sub(1), 1)
}
