//! Rendering with a program that stands for helm: what it is given, and what becomes of what it does. The
//! real one is driven by `make kubernetes`.

use std::os::unix::fs::PermissionsExt as _;

use super::*;

/// A program of these shell lines.
fn program(lines: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("helm");
    std::fs::write(&path, format!("#!/bin/sh\n{lines}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
    let path = path.display().to_string();
    (folder, path)
}

fn chart() -> Chart {
    Chart {
        release: "shop".to_owned(),
        files: vec![("templates/web.yaml".to_owned(), b"a: 1\n".to_vec())],
        values: vec![b"one: 1\n".to_vec()],
        set: serde_json::json!({"two": 2}),
        ..Chart::default()
    }
}

async fn refused(lines: &str) -> String {
    let (_folder, helm) = program(lines);
    render(&helm, &chart()).await.unwrap_err().to_string()
}

#[tokio::test]
async fn it_is_given_the_chart_its_values_and_nothing_of_ours() {
    let (_folder, helm) =
        program("echo \"$@\"; cat chart/templates/web.yaml values-0.yaml values-1.yaml; env");
    let text = render(&helm, &chart()).await.unwrap();
    assert!(text.starts_with("template shop ./chart --namespace default --no-hooks --skip-tests --skip-schema-validation --values"), "{text}");
    assert!(text.contains("a: 1\none: 1\n{\"two\":2}"), "{text}");
    let kept = [
        "PATH=",
        "HOME=/",
        "HELM_",
        "KUBECONFIG=/nonexistent",
        "TMPDIR=",
        "GOMEMLIMIT",
        "LC_ALL",
        "PWD",
        "OLDPWD",
        "SHLVL",
        "_=",
    ];
    let environment = text.lines().skip_while(|line| !line.contains("two"));
    for line in environment.filter(|line| line.contains('=')) {
        assert!(
            line.contains("two") || kept.iter().any(|name| line.starts_with(name)),
            "{line}"
        );
    }
}

#[tokio::test]
async fn what_is_missing_is_named_and_what_helm_says_is_passed_on() {
    let text = render("/nonexistent/helm", &chart())
        .await
        .unwrap_err()
        .to_string();
    assert!(text.contains("install helm 3.16 or newer"), "{text}");
    let text = refused("echo 'Error: template: web.yaml:3: no such function' >&2; exit 1").await;
    assert!(text.contains("web.yaml:3: no such function"), "{text}");
}

#[tokio::test]
async fn hostile_a_chart_that_floods_or_leaves_its_folder_is_refused() {
    let text = refused("yes").await;
    assert!(text.contains("more than 65536 bytes"), "{text}");
    let mut outside = chart();
    outside.files[0].0 = "../../etc/x".to_owned();
    let (_folder, helm) = program("true");
    let text = render(&helm, &outside).await.unwrap_err().to_string();
    assert!(text.contains("plain relative paths"), "{text}");
}
