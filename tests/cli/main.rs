//! The real binary: what it prints, and how it ends.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::json;
use slipway_tests::Cluster;
use slipway_tests::cluster::{FAKE_URL, ONE_STAGE};

fn slipway(dir: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_slipway-under-test"))
        .args(args)
        .current_dir(dir)
        .env_remove("SLIPWAY_TOKEN")
        .env_remove("SLIPWAY_SERVER")
        .env_remove("SLIPWAY_DATA_DIR")
        .output()
        .expect("the binary starts")
}

fn told(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (
        output.status.code(),
        text(&output.stdout),
        text(&output.stderr),
    )
}

#[test]
fn lint_shows_the_line_and_ends_with_20() {
    let dir = tempfile::tempdir().unwrap();
    let file = "version: 1\nstages:\n  test:\n    image: slipway-busybox:1\n    comands:\n      - echo hello\n";
    std::fs::write(dir.path().join(".slipway.yml"), file).unwrap();
    let (code, out, err) = told(&slipway(dir.path(), &["lint"]));
    assert_eq!(code, Some(20), "{out}{err}");
    assert!(out.contains(".slipway.yml:5"), "{out}");
    assert!(
        out.contains("    comands:") && out.contains("commands"),
        "{out}"
    );
    assert!(out.contains("SLP"), "{out}");
    assert!(err.contains("errors"), "{err}");
    let (code, out, _) = told(&slipway(dir.path(), &["lint", "--json"]));
    assert_eq!(code, Some(20));
    let mistakes: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert!(mistakes.as_array().is_some_and(|m| !m.is_empty()), "{out}");
}

#[test]
fn lint_reads_the_manifests_beside_the_file_and_names_their_lines() {
    let dir = tempfile::tempdir().expect("a folder");
    let digest = "a".repeat(64);
    let text = format!(
        "version: 1\non:\n  push:\nstages:\n  test:\n    image: a@sha256:{digest}\n    commands: [a]\ndeploy:\n  \
         service: shop\n  image: shop@sha256:{digest}\n  port: 80\n  manifests: deploy/shop.yaml\n  \
         environments:\n    production: {{}}\n"
    );
    std::fs::write(dir.path().join(".slipway.yml"), text).expect("written");
    let (code, _, err) = told(&slipway(dir.path(), &["lint", "--json"]));
    assert_eq!(code, Some(20), "{err}");
    std::fs::create_dir(dir.path().join("deploy")).expect("made");
    let manifest = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: shop}\nspec:\n  replicas: 0\n  \
                    selector: {matchLabels: {a: b}}\n  template: {spec: {containers: [{name: a}]}}\n";
    let at = dir.path().join("deploy/shop.yaml");
    std::fs::write(&at, manifest).expect("written");
    let (code, out, err) = told(&slipway(dir.path(), &["lint", "--json"]));
    assert_eq!(code, Some(20), "{out}{err}");
    assert!(
        out.contains("SLP0304") && out.contains("deploy/shop.yaml:5: "),
        "{out}"
    );
    std::fs::write(&at, manifest.replace("  replicas: 0\n", "")).expect("written");
    let (code, out, err) = told(&slipway(dir.path(), &["lint", "--json"]));
    assert_eq!(code, Some(0), "{out}{err}");
}

#[test]
fn lint_of_a_good_file_ends_with_0() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(".slipway.yml"), ONE_STAGE).unwrap();
    let (code, out, err) = told(&slipway(dir.path(), &["lint"]));
    assert_eq!((code, out.as_str()), (Some(0), ""), "{err}");
    assert!(err.contains("0 errors"), "{err}");
    let (code, _, err) = told(&slipway(dir.path(), &["lint", "nowhere.yml"]));
    assert_eq!(code, Some(1));
    assert!(err.contains("nowhere.yml"), "{err}");
}

#[test]
fn help_names_every_role_and_verb() {
    let dir = tempfile::tempdir().unwrap();
    let (code, out, _) = told(&slipway(dir.path(), &["--help"]));
    assert_eq!(code, Some(0));
    for word in [
        "up",
        "dispatcher",
        "agent",
        "cache",
        "coordinator",
        "router",
        "run",
        "lint",
        "doctor",
        "builds",
        "logs",
        "deploy",
        "approve",
        "rollback",
        "agents",
        "queue",
        "repos",
        "secret",
        "token",
        "api",
        "explain",
    ] {
        let listed = out
            .lines()
            .any(|line| line.trim_start().starts_with(&format!("{word} ")));
        assert!(listed, "`{word}` is not in\n{out}");
    }
    let (code, _, err) = told(&slipway(dir.path(), &["lunch"]));
    assert_eq!(code, Some(2), "{err}");
    let (code, out, _) = told(&slipway(dir.path(), &["--version"]));
    assert_eq!((code, out.starts_with("slipway ")), (Some(0), true));
}

#[test]
fn an_error_code_has_a_long_form() {
    let dir = tempfile::tempdir().unwrap();
    let (code, out, _) = told(&slipway(dir.path(), &["explain", "SLP0107"]));
    assert_eq!(code, Some(0));
    assert!(out.len() > 40, "{out}");
    let (code, _, _) = told(&slipway(dir.path(), &["explain", "SLP9999"]));
    assert_eq!(code, Some(3));
}

// Several threads: one waits for the command line while the others answer it.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_ends_with_3_and_what_is_not_allowed_with_4() {
    let cluster = Cluster::start().await;
    cluster.rest.add_repository(FAKE_URL).await.unwrap();
    let sha = cluster.commit(1, ONE_STAGE);
    cluster.source.set_head(FAKE_URL, "refs/heads/main", &sha);
    let made = cluster
        .rest
        .post("/tokens", json!({"subject": "eve", "roles": ["viewer"]}));
    let viewer = made.await.unwrap()["token"].as_str().unwrap().to_owned();
    let (base, admin) = (cluster.rest.base.clone(), cluster.up.token.clone());
    let dir = cluster.dir().to_owned();
    let ran = slipway_daemon::spawn("cli", async move {
        let ask = |token: &str, args: &[&str]| {
            let mut all = vec!["--server", &base, "--token", token];
            all.extend(args);
            told(&slipway(&dir, &all))
        };
        let missing = ask(&admin, &["api", "/builds/01ARZ3NDEKTSV4RRFFQ69G5FAV"]);
        assert_eq!(
            (missing.0, missing.1.as_str()),
            (Some(3), ""),
            "{missing:?}"
        );
        assert!(missing.2.contains("no such build"), "{missing:?}");
        let unknown = ask("slp_nobody", &["api", "/builds"]);
        assert_eq!(unknown.0, Some(4), "{unknown:?}");
        let refused = ask(&viewer, &["token", "list"]);
        assert_eq!(refused.0, Some(4), "{refused:?}");
        let good = ask(&viewer, &["api", "/builds"]);
        assert_eq!(good.0, Some(0), "{good:?}");
        let listed: serde_json::Value = serde_json::from_str(&good.1).expect("data alone");
        assert_eq!(listed["items"], json!([]));
        let nobody = told(&slipway(
            &dir,
            &["--server", "http://127.0.0.1:1", "--token", "t", "queue"],
        ));
        assert_eq!(nobody.0, Some(1), "{nobody:?}");
        assert!(nobody.2.contains("slipway up"), "{nobody:?}");
    });
    assert_eq!(ran.await.unwrap(), Some(()));
    cluster.stop().await;
}

// Several threads: one waits for the command line while the others answer it.
#[tokio::test(flavor = "multi_thread")]
async fn hostile_h079_an_argument_that_begins_with_an_at_sign_names_no_file() {
    let cluster = Cluster::start().await;
    let (base, admin) = (cluster.rest.base.clone(), cluster.up.token.clone());
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("canary");
    std::fs::write(&file, "canary-in-a-file\n").unwrap();
    let at = format!("@{}", file.display());
    let home = dir.path().to_owned();
    let ran = slipway_daemon::spawn("cli", async move {
        let ask = |args: &[&str]| {
            let mut all = vec!["--server", &base, "--token", &admin];
            all.extend(args);
            let told = told(&slipway(&home, &all));
            let said = format!("{told:?}");
            assert!(!said.contains("canary-in-a-file"), "{args:?}: {said}");
            told
        };
        for args in [
            &["lint", &at][..],
            &[&at],
            &["repos", "add", &at],
            &["repos", "hook", &at],
            &["builds", "start", &at],
            &["builds", "show", &at],
            &["secret", "set", &at, "A"],
            &["api", &at],
        ] {
            assert_ne!(ask(args).0, Some(0), "{args:?}");
        }
        // Where any text is good, it is this text.
        let made = ask(&["token", "create", &at, "--role", "viewer"]);
        if made.0 == Some(0) {
            let listed = ask(&["token", "list"]);
            assert!(listed.1.contains(&at), "{listed:?}");
        }
        let name = ["repos", "add", FAKE_URL, "--name", &at];
        assert_eq!(ask(&name).0, Some(0));
        let listed = ask(&["repos", "list"]);
        assert!(listed.1.contains(&at), "{listed:?}");
    });
    assert_eq!(ran.await.unwrap(), Some(()));
    cluster.stop().await;
}
