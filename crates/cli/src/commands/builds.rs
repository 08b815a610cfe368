//! Builds and their logs.

use futures::StreamExt as _;
use serde_json::{Value, json};

use super::text;
use crate::client::{Client, Server};
use crate::exit_code::Exit;
use crate::output;

/// Verbs of builds.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Builds {
    /// Lists builds, newest first.
    List {
        /// queued, building, passed, failed or cancelled.
        #[arg(long, default_value = "")]
        status: String,
        /// Branch.
        #[arg(long, default_value = "")]
        branch: String,
        /// JSON instead of a table.
        #[arg(long)]
        json: bool,
    },
    /// Shows a build.
    Show {
        /// Its id.
        build: String,
        /// JSON instead of text.
        #[arg(long)]
        json: bool,
    },
    /// Starts a build.
    Start {
        /// Address of a registered repository.
        repo: String,
        /// Branch; absent = the default branch.
        #[arg(long, default_value = "")]
        branch: String,
        /// Commit; absent = the branch's head.
        #[arg(long, default_value = "")]
        commit: String,
        /// Executes every stage, whatever was executed before.
        #[arg(long)]
        no_cache: bool,
    },
    /// Follows a build to its end; the exit code says how it ended.
    Watch {
        /// Its id.
        build: String,
    },
    /// Executes stages again.
    Rerun {
        /// Its id.
        build: String,
        /// Only what failed and what depends on it.
        #[arg(long)]
        failed: bool,
    },
    /// Ends a build.
    Cancel {
        /// Its id.
        build: String,
    },
}

impl Builds {
    pub(crate) async fn execute(self, server: &Server) -> anyhow::Result<Exit> {
        let client = Client::new(server)?;
        match self {
            Self::List {
                status,
                branch,
                json,
            } => {
                let found = client
                    .get(&format!("/builds?status={status}&branch={branch}"))
                    .await?;
                if json {
                    output::json(&found["items"]);
                } else {
                    list(&found);
                }
            }
            Self::Show { build, json } => {
                let found = client.get(&format!("/builds/{build}")).await?;
                if json {
                    output::json(&found);
                } else {
                    show(&found);
                }
            }
            Self::Start {
                repo,
                branch,
                commit,
                no_cache,
            } => {
                let body = json!({"repo_url": repo, "branch": branch, "commit_sha": commit, "trigger_type": "manual", "no_cache": no_cache});
                let started = client.post("/builds", body).await?;
                output::data(&text(&started, "build_id"));
            }
            Self::Watch { build } => {
                follow(&client, &build, None).await?;
                let found = client.get(&format!("/builds/{build}")).await?;
                show(&found);
                return Ok(exit_of(&text(&found, "status")));
            }
            Self::Rerun { build, failed } => {
                let path = format!("/builds/{build}/retry");
                client.post(&path, json!({"failed_only": failed})).await?;
                output::say("executing again");
            }
            Self::Cancel { build } => {
                client
                    .post(&format!("/builds/{build}/cancel"), json!({}))
                    .await?;
                output::say("cancelled");
            }
        }
        Ok(Exit::Ok)
    }
}

/// The exit code for a build's status.
pub(crate) fn exit_of(status: &str) -> Exit {
    match status {
        "passed" => Exit::Ok,
        "cancelled" => Exit::Cancelled,
        _ => Exit::BuildFailed,
    }
}

fn list(found: &Value) {
    let rows: Vec<Vec<String>> = found["items"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|b| {
            let commit = text(b, "commit_sha");
            let message = text(b, "commit_message");
            vec![
                text(b, "build_id"),
                text(b, "number"),
                text(b, "status"),
                text(b, "branch"),
                commit.chars().take(7).collect(),
                text(b, "event"),
                message
                    .lines()
                    .next()
                    .unwrap_or_default()
                    .chars()
                    .take(50)
                    .collect(),
            ]
        })
        .collect();
    output::table(
        &[
            "build", "no", "status", "branch", "commit", "event", "message",
        ],
        &rows,
    );
}

/// A build for people.
pub(crate) fn show(build: &Value) {
    let commit: String = text(build, "commit_sha").chars().take(7).collect();
    output::data(&format!(
        "build {} #{}: {}  {} {}",
        text(build, "build_id"),
        text(build, "number"),
        text(build, "status"),
        text(build, "branch"),
        commit
    ));
    let rows: Vec<Vec<String>> = build["stages"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|s| {
            let seconds = s["duration"].as_f64().map(|d| format!("{d:.1} s"));
            let took = match s["recalled"].as_bool() {
                Some(true) => "recalled".to_owned(),
                _ => seconds.unwrap_or_default(),
            };
            vec![
                text(s, "stage_name"),
                text(s, "status"),
                took,
                text(s, "reason"),
                text(s, "memo"),
            ]
        })
        .collect();
    output::table(
        &["stage", "status", "took", "reason", "recalled or executed"],
        &rows,
    );
    let all = build["stages"].as_array().map_or(0, Vec::len);
    let bytes = |name: &str| build["cache"][name].as_u64().unwrap_or(0);
    let (moved, reused) = (bytes("moved_bytes"), bytes("reused_bytes"));
    let recalled = build["stages_recalled"].as_u64().unwrap_or(0);
    if moved + reused + recalled > 0 {
        output::data(&format!(
            "cache: moved {}, reused {}, recalled {recalled} of {all} stages",
            size(moved),
            size(reused)
        ));
    }
    let tests = &build["test_results"];
    if tests["state"] != "missing" {
        output::data(&format!(
            "tests: {} passed, {} failed, {} skipped",
            tests["passed"], tests["failed"], tests["skipped"]
        ));
    }
    if let Some(percent) = build["test_coverage"].as_f64() {
        output::data(&format!("coverage: {percent:.1} %"));
    }
    if let Some(image) = build["docker_image_uri"].as_str() {
        output::data(&format!("image: {image}"));
    }
    for problem in build["errors"].as_array().into_iter().flatten() {
        output::data(&format!(
            "{}: .slipway.yml:{}:{} {}",
            text(problem, "code"),
            problem["at"]["line"],
            problem["at"]["column"],
            text(problem, "message")
        ));
    }
}

/// Bytes for people, in powers of a thousand.
fn size(bytes: u64) -> String {
    let units = ["kB", "MB", "GB", "TB", "PB"];
    let (mut rest, mut unit) = (bytes, "B");
    let mut tenths = 0;
    for next in units {
        if rest < 1_000 {
            break;
        }
        (tenths, rest, unit) = (rest % 1_000 / 100, rest / 1_000, next);
    }
    if rest < 10 && unit != "B" {
        format!("{rest}.{tenths} {unit}")
    } else {
        format!("{rest} {unit}")
    }
}

/// `slipway logs`.
#[derive(Debug, clap::Args)]
pub(crate) struct Logs {
    /// The build's id.
    build: String,
    /// Only this stage.
    #[arg(long)]
    stage: Option<String>,
    /// Until the build ends.
    #[arg(short, long)]
    follow: bool,
    /// The last so many lines.
    #[arg(long, default_value_t = 1_000)]
    lines: u32,
}

impl Logs {
    pub(crate) async fn execute(self, server: &Server) -> anyhow::Result<Exit> {
        let client = Client::new(server)?;
        if self.follow {
            follow(&client, &self.build, self.stage.as_deref()).await?;
            return Ok(Exit::Ok);
        }
        let mut path = format!("/builds/{}/logs?lines={}", self.build, self.lines);
        if let Some(stage) = &self.stage {
            path.push_str(&format!("&stage={stage}"));
        }
        let found = client.get(&path).await?;
        for line in found["logs"].as_array().into_iter().flatten() {
            output::data(&format!(
                "{} | {}",
                text(line, "stage"),
                text(line, "message")
            ));
        }
        Ok(Exit::Ok)
    }
}

/// Prints a build's output as it comes, until the build ends.
pub(crate) async fn follow(
    client: &Client,
    build: &str,
    stage: Option<&str>,
) -> anyhow::Result<()> {
    let mut path = format!("/builds/{build}/logs?follow=1");
    if let Some(stage) = stage {
        path.push_str(&format!("&stage={stage}"));
    }
    let response = client.events(&path).await?;
    let mut bytes = response.bytes_stream();
    let mut buffer = Vec::new();
    let mut shown = String::new();
    while let Some(piece) = bytes.next().await {
        buffer.extend_from_slice(&piece?);
        while let Some(end) = buffer.windows(2).position(|w| w == b"\n\n") {
            let event: Vec<u8> = buffer.drain(..end + 2).collect();
            let event = String::from_utf8_lossy(&event).into_owned();
            let field = |name: &str| {
                event
                    .lines()
                    .find_map(|line| line.strip_prefix(name))
                    .unwrap_or_default()
                    .trim()
                    .to_owned()
            };
            let data: Value = serde_json::from_str(&field("data:")).unwrap_or_default();
            match field("event:").as_str() {
                "output" => print(&data, &mut shown),
                "stage" => {
                    output::say(&format!(
                        "── {}: {}",
                        text(&data, "stage"),
                        text(&data, "status")
                    ));
                }
                "end" => return Ok(()),
                _ => {}
            }
        }
    }
    Ok(())
}

fn print(data: &Value, shown: &mut String) {
    let stage = text(data, "stage");
    if *shown != stage {
        output::say(&format!("── {stage}"));
        *shown = stage;
    }
    output::raw(&text(data, "text"));
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn bytes_are_short_and_never_rounded_up_to_the_next_unit() {
        let said = [
            0,
            999,
            1_000,
            1_950,
            12_345_678,
            999_999_999,
            2_100_000_000,
            u64::MAX,
        ]
        .map(size);
        let wanted = [
            "0 B", "999 B", "1.0 kB", "1.9 kB", "12 MB", "999 MB", "2.1 GB", "18446 PB",
        ];
        assert_eq!(said, wanted);
    }
}
