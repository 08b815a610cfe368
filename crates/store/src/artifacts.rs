//! What stages left: kept files, test and coverage reports.

use std::borrow::Cow;

use slipway_core::id::{ArtifactId, BuildId};
use slipway_core::time::Timestamp;

use crate::db::Db;
use crate::error::StoreError;
use crate::sql::{args, sql};
use crate::writer::Tx;

/// A kept file, to become visible with its attempt's result.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct NewArtifact {
    /// Its id.
    pub artifact_id: ArtifactId,
    /// Path in the workspace.
    pub name: String,
    /// file | log | image | report.
    pub artifact_type: String,
    /// Key in object storage.
    pub uri: String,
    /// Bytes.
    pub file_size: i64,
    /// SHA-256, hex.
    pub checksum: String,
}

/// A kept file as stored.
#[derive(Clone, Debug, sqlx::FromRow)]
#[expect(
    missing_docs,
    reason = "the columns; see migrations/sqlite/0003_create_builds.sql"
)]
pub struct ArtifactRow {
    pub artifact_id: String,
    pub build_id: String,
    pub stage_id: String,
    pub name: String,
    pub artifact_type: String,
    pub uri: String,
    pub file_size: i64,
    pub checksum: String,
    pub created_at: i64,
}

/// A test or coverage report of an attempt.
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct NewReport {
    /// Path in the workspace.
    pub path: String,
    /// junit | coverage.
    pub kind: Cow<'static, str>,
    /// present | missing | invalid.
    pub state: Cow<'static, str>,
    /// Tests: total, passed, failed, skipped, flaky.
    pub counts: [i64; 5],
    /// Tests: time.
    pub duration_ms: i64,
    /// Coverage: covered and countable lines.
    pub lines: [i64; 2],
    /// Failed tests, JSON array.
    pub failures: String,
    /// Why it is missing or invalid.
    pub problem: String,
}

/// A report as stored.
#[derive(Clone, Debug, sqlx::FromRow)]
#[expect(
    missing_docs,
    reason = "the columns; see migrations/sqlite/0003_create_builds.sql"
)]
pub struct ReportRow {
    pub stage_id: String,
    pub path: String,
    pub kind: String,
    pub state: String,
    pub total: i64,
    pub passed: i64,
    pub failed: i64,
    pub skipped: i64,
    pub flaky: i64,
    pub duration_ms: i64,
    pub lines_covered: i64,
    pub lines_valid: i64,
    pub failures: String,
    pub problem: String,
}

/// What a stage of a build left becomes visible with its end.
pub(crate) async fn show(
    tx: &mut Tx,
    (build, stage): (&str, &str),
    files: &[NewArtifact],
    reports: &[NewReport],
    now: Timestamp,
) -> Result<(), StoreError> {
    for file in files {
        file.insert(tx, build, stage, now).await?;
    }
    for report in reports {
        report.put(tx, build, stage).await?;
    }
    if reports.iter().any(|report| report.kind == "coverage") {
        tx.execute(sql!("builds/set_coverage"), args![build])
            .await?;
    }
    Ok(())
}

impl NewArtifact {
    async fn insert(
        &self,
        tx: &mut Tx,
        build: &str,
        stage: &str,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let args = args![
            self.artifact_id.as_str(),
            build,
            stage,
            &self.name,
            &self.artifact_type,
            &self.uri,
            self.file_size,
            &self.checksum,
            now
        ];
        tx.execute(sql!("artifacts/insert"), args).await.map(|_| ())
    }
}

impl NewReport {
    async fn put(&self, tx: &mut Tx, build: &str, stage: &str) -> Result<(), StoreError> {
        let [total, passed, failed, skipped, flaky] = self.counts;
        let [covered, valid] = self.lines;
        let failures = if self.failures.is_empty() {
            "[]"
        } else {
            &self.failures
        };
        let args = args![
            stage,
            &self.path,
            build,
            &*self.kind,
            &*self.state,
            total,
            passed,
            failed,
            skipped,
            flaky,
            self.duration_ms,
            covered,
            valid,
            failures,
            &self.problem
        ];
        tx.execute(sql!("reports/put"), args).await.map(|_| ())
    }
}

impl Db {
    /// The kept files of a build.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn artifacts(&self, build: &BuildId) -> Result<Vec<ArtifactRow>, StoreError> {
        self.rows(sql!("artifacts/of_build"), args![build.as_str()])
            .await
    }

    /// One kept file.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn artifact(&self, id: &ArtifactId) -> Result<Option<ArtifactRow>, StoreError> {
        self.row(sql!("artifacts/get"), args![id.as_str()]).await
    }

    /// The reports of a build.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn reports(&self, build: &BuildId) -> Result<Vec<ReportRow>, StoreError> {
        self.rows(sql!("reports/of_build"), args![build.as_str()])
            .await
    }
}
