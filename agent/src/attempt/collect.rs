//! What a stage left: artifacts, reports, the changed workspace. Only after its container is dead,
//! below the workspace, and through no link.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use globset::GlobBuilder;
use sha2::{Digest as _, Sha256};
use slipway_core::digest::Digest;
use slipway_core::pipeline::{ArtifactKind, CoverageFormat};
use slipway_core::report;
use slipway_proto::v1;

use super::{Attempt, Ending, Shared, caches};
use crate::log_stream::LogWriter;

/// Files of one attempt that are kept.
const FILES_MAX: usize = 10_000;
/// Entries of a workspace that are looked at.
const WALK_MAX: usize = 500_000;
/// Largest report that is read.
const REPORT_MAX: u64 = 64 * 1024 * 1024;
/// Bytes of an artifact per message.
const PIECE: usize = 256 * 1024;

/// Collects; the ending may get worse (a missing output, too little coverage).
pub(super) async fn collect(
    shared: &Shared,
    attempt: &Attempt,
    ending: Ending,
    base: Option<Digest>,
    log: &mut LogWriter,
    result: &mut v1::Result,
) -> Ending {
    let ended_by_itself = ending.ending == v1::Ending::Exited;
    if !ended_by_itself {
        return ending;
    }
    let dir = shared.workspace(&attempt.key);
    let spec = &attempt.spec;
    for path in &spec.junit {
        result.tests.push(junit(&dir, path));
    }
    for promised in &spec.coverage {
        result
            .coverage
            .push(coverage(&dir, &promised.path, promised.format));
    }
    say_missing(log, result).await;
    if let Err(worse) = artifacts(shared, attempt, &dir, result).await
        && ending.is_success()
    {
        return worse;
    }
    if ending.is_success()
        && let (Some(cache), Some(base)) = (&shared.cache, base)
    {
        match cache
            .capture_layer(&dir, &base, &attempt.key.folder())
            .await
        {
            Ok(captured) => {
                let empty = captured.changed == 0 && captured.removed == 0;
                result.output_layer = (!empty).then(|| captured.layer.to_string());
                result.output_pack = captured.pack;
                for note in captured.notes {
                    let _spool_is_full = log.say(&note).await;
                }
            }
            Err(error) => return Ending::aborted("cache", error),
        }
        caches::save(shared, attempt, cache, log).await;
    }
    ending
}

async fn say_missing(log: &mut LogWriter, result: &v1::Result) {
    let tests = result.tests.iter().map(|r| (&r.path, r.state, &r.problem));
    let coverage = result
        .coverage
        .iter()
        .map(|r| (&r.path, r.state, &r.problem));
    for (path, state, problem) in tests.chain(coverage) {
        let line = match v1::ReportState::try_from(state) {
            Ok(v1::ReportState::Missing) => format!("report `{path}` is missing"),
            Ok(v1::ReportState::Invalid) => format!("report `{path}`: {problem}"),
            _ => continue,
        };
        let _spool_is_full = log.say(&line).await;
    }
}

/// A regular file below the workspace, reached through no link.
fn open_below(dir: &Path, relative: &str) -> std::io::Result<std::fs::File> {
    use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
    let root = rustix::fs::openat(CWD, dir, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())?;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = rustix::fs::openat2(root, relative, flags, Mode::empty(), resolve)?;
    let file = std::fs::File::from(file);
    if !file.metadata()?.is_file() {
        return Err(std::io::Error::other("not a regular file"));
    }
    Ok(file)
}

enum Read {
    Missing,
    Unreadable(String),
    Bytes(Vec<u8>),
}

fn read_report(dir: &Path, path: &str) -> Read {
    let file = match open_below(dir, path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Read::Missing,
        Err(e) => return Read::Unreadable(e.to_string()),
    };
    let mut bytes = Vec::new();
    match file.take(REPORT_MAX + 1).read_to_end(&mut bytes) {
        Ok(_) if bytes.len() as u64 > REPORT_MAX => {
            Read::Unreadable("the report is larger than 64 MiB".to_owned())
        }
        Ok(_) => Read::Bytes(bytes),
        Err(e) => Read::Unreadable(e.to_string()),
    }
}

fn junit(dir: &Path, path: &str) -> v1::TestReport {
    let mut report = v1::TestReport {
        path: path.to_owned(),
        ..v1::TestReport::default()
    };
    let invalid = |report: &mut v1::TestReport, problem: String| {
        report.state = v1::ReportState::Invalid.into();
        report.problem = problem;
    };
    match read_report(dir, path) {
        Read::Missing => report.state = v1::ReportState::Missing.into(),
        Read::Unreadable(problem) => invalid(&mut report, problem),
        Read::Bytes(bytes) => match report::junit(&bytes) {
            Err(problem) => invalid(&mut report, problem.to_string()),
            Ok(tests) => {
                report.state = v1::ReportState::Present.into();
                report.total = tests.total;
                report.passed = tests.passed;
                report.failed = tests.failed;
                report.skipped = tests.skipped;
                report.flaky = tests.flaky;
                report.duration_ms = tests.duration_ms;
                report.failures = tests
                    .failures
                    .into_iter()
                    .take(200)
                    .map(|f| v1::FailedTest {
                        suite: f.suite,
                        name: f.name,
                        message: f.message,
                    })
                    .collect();
            }
        },
    }
    report
}

fn coverage(dir: &Path, path: &str, format: CoverageFormat) -> v1::CoverageReport {
    let mut report = v1::CoverageReport {
        path: path.to_owned(),
        ..v1::CoverageReport::default()
    };
    let read = match read_report(dir, path) {
        Read::Missing => {
            report.state = v1::ReportState::Missing.into();
            return report;
        }
        Read::Unreadable(problem) => Err(problem),
        Read::Bytes(bytes) => match format {
            CoverageFormat::Lcov => report::lcov(&bytes),
            CoverageFormat::Cobertura => report::cobertura(&bytes),
        }
        .map_err(|problem| problem.to_string()),
    };
    match read {
        Ok(lines) => {
            report.state = v1::ReportState::Present.into();
            report.lines_covered = lines.lines_covered;
            report.lines_valid = lines.lines_valid;
        }
        Err(problem) => {
            report.state = v1::ReportState::Invalid.into();
            report.problem = problem;
        }
    }
    report
}

/// Uploads what the rules name.
async fn artifacts(
    shared: &Shared,
    attempt: &Attempt,
    dir: &Path,
    result: &mut v1::Result,
) -> Result<(), Ending> {
    let rules = &attempt.spec.artifacts;
    if rules.is_empty() {
        return Ok(());
    }
    let matcher = |pattern: &str| {
        GlobBuilder::new(pattern)
            .literal_separator(true)
            .build()
            .map(|glob| glob.compile_matcher())
            .map_err(|e| Ending::limit("artifact_pattern", e))
    };
    let mut excluded = Vec::new();
    for rule in rules.iter().filter(|r| r.rule == ArtifactKind::Exclude) {
        excluded.push(matcher(&rule.pattern)?);
    }
    let files = walk(dir).map_err(|e| Ending::limit("artifacts", e))?;
    let mut wanted: Vec<(String, bool)> = Vec::new();
    for rule in rules.iter().filter(|r| r.rule != ArtifactKind::Exclude) {
        let glob = matcher(&rule.pattern)?;
        let inside = format!("{}/", rule.pattern.trim_end_matches('/'));
        let found: Vec<&String> = files
            .iter()
            .filter(|f| glob.is_match(f) || f.starts_with(&inside))
            .filter(|f| !excluded.iter().any(|out| out.is_match(f)))
            .collect();
        if found.is_empty() && rule.rule == ArtifactKind::MustMatch {
            let what = format!("no file matches `={}`", rule.pattern);
            return Err(Ending::limit("missing_output", what));
        }
        let may_change = rule.rule == ArtifactKind::MayChange;
        for file in found {
            if !wanted.iter().any(|(known, _)| known == file) {
                wanted.push((file.clone(), may_change));
            }
        }
    }
    if wanted.len() > FILES_MAX {
        return Err(Ending::limit(
            "artifacts",
            format!("more than {FILES_MAX} files match"),
        ));
    }
    for (name, may_change) in wanted {
        let artifact = upload(shared, attempt, dir, &name, may_change).await?;
        result.artifacts.push(artifact);
    }
    Ok(())
}

/// Every regular file below a folder, by relative name; links are not followed.
fn walk(dir: &Path) -> std::io::Result<Vec<String>> {
    let mut files = Vec::new();
    let mut todo: Vec<PathBuf> = vec![PathBuf::new()];
    let mut seen = 0;
    while let Some(at) = todo.pop() {
        for entry in std::fs::read_dir(dir.join(&at))? {
            let entry = entry?;
            seen += 1;
            if seen > WALK_MAX {
                return Err(std::io::Error::other("the workspace has too many entries"));
            }
            let kind = entry.file_type()?;
            let relative = at.join(entry.file_name());
            if kind.is_dir() {
                todo.push(relative);
            } else if kind.is_file()
                && let Some(name) = relative.to_str()
            {
                files.push(name.to_owned());
            }
        }
    }
    files.sort();
    Ok(files)
}

/// Hashes, then sends; a file that changed in between is refused unless the rule allows it.
async fn upload(
    shared: &Shared,
    attempt: &Attempt,
    dir: &Path,
    name: &str,
    may_change: bool,
) -> Result<v1::Artifact, Ending> {
    let unreadable = |e: std::io::Error| Ending::limit("artifacts", format!("{name}: {e}"));
    let mut bytes_sent = None;
    for _again in 0..if may_change { 3 } else { 1 } {
        let (size, sha256) = measure(dir, name).map_err(unreadable)?;
        let head = v1::ArtifactHead {
            attempt: Some((&attempt.key).into()),
            name: name.to_owned(),
            size,
            sha256: sha256.clone(),
        };
        match send(shared, dir, name, head).await {
            Ok(key) => {
                bytes_sent = Some((key, size, sha256));
                break;
            }
            Err(status) if status.code() == tonic::Code::InvalidArgument => {}
            Err(status) => return Err(Ending::aborted("artifacts", status.message())),
        }
    }
    let (object_key, size, sha256) = bytes_sent.ok_or_else(|| {
        Ending::limit(
            "changed_output",
            format!("{name} changed while it was read"),
        )
    })?;
    Ok(v1::Artifact {
        name: name.to_owned(),
        artifact_type: "file".to_owned(),
        object_key,
        size,
        sha256,
    })
}

fn measure(dir: &Path, name: &str) -> std::io::Result<(u64, String)> {
    let mut file = open_below(dir, name)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; PIECE];
    let mut size = 0;
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok((size, hex::encode(hasher.finalize())));
        }
        hasher.update(&buffer[..read]);
        size += read as u64;
    }
}

async fn send(
    shared: &Shared,
    dir: &Path,
    name: &str,
    head: v1::ArtifactHead,
) -> Result<String, tonic::Status> {
    use std::io::Seek as _;
    let mut file =
        open_below(dir, name).map_err(|e| tonic::Status::invalid_argument(e.to_string()))?;
    file.rewind()
        .map_err(|e| tonic::Status::invalid_argument(e.to_string()))?;
    let mut left = head.size;
    let mut first = Some(head);
    let chunks = std::iter::from_fn(move || {
        let head = first.take();
        if left == 0 && head.is_none() {
            return None;
        }
        let mut data = vec![0; PIECE.min(usize::try_from(left).unwrap_or(PIECE))];
        // A short read ends the upload early; the other side sees the wrong size.
        let read = file.read(&mut data).unwrap_or(0);
        data.truncate(read);
        left = if read == 0 { 0 } else { left - read as u64 };
        Some(v1::ArtifactChunk { head, data })
    });
    let mut client = v1::agents_client::AgentsClient::new(shared.dispatchers.output());
    let put = client.put_artifact(tokio_stream::iter(chunks)).await?;
    Ok(put.into_inner().object_key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_h095_h096_nothing_outside_the_workspace_and_no_link_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("workspace");
        std::fs::create_dir_all(root.join("sub")).unwrap();
        std::fs::write(dir.path().join("secret"), "s").unwrap();
        std::fs::write(root.join("sub/file"), "ok").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", root.join("link")).unwrap();
        std::os::unix::fs::symlink("..", root.join("up")).unwrap();
        assert!(open_below(&root, "sub/file").is_ok());
        for bad in [
            "link",
            "up/secret",
            "../secret",
            "/etc/passwd",
            "sub",
            "/proc/self/environ",
        ] {
            assert!(open_below(&root, bad).is_err(), "{bad}");
        }
        assert_eq!(walk(&root).unwrap(), ["sub/file"]);
    }

    #[test]
    fn a_promised_report_that_is_absent_is_missing_and_never_zero_tests() {
        let dir = tempfile::tempdir().unwrap();
        let absent = junit(dir.path(), "report.xml");
        assert_eq!(absent.state(), v1::ReportState::Missing);
        std::fs::write(dir.path().join("report.xml"), "<not junit").unwrap();
        let broken = junit(dir.path(), "report.xml");
        assert_eq!(broken.state(), v1::ReportState::Invalid);
        assert!(!broken.problem.is_empty());
    }
}
