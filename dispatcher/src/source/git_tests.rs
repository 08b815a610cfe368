//! Git, with names and addresses that an attacker chose.

use std::process::Command as Sync;

use super::*;

struct Repository {
    dir: tempfile::TempDir,
}

impl Repository {
    fn new() -> Self {
        let repository = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        repository.git(&["init", "-q", "-b", "main", "."]);
        repository
    }

    fn git(&self, args: &[&str]) -> String {
        let output = Sync::new("git")
            .args(["-c", "user.name=Ada", "-c", "user.email=ada@example.org"])
            .args(args)
            .current_dir(self.dir.path())
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.dir.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn commit(&self, message: &str) -> String {
        self.git(&["add", "-A"]);
        self.git(&["commit", "-q", "-m", message]);
        self.git(&["rev-parse", "HEAD"])
    }

    fn url(&self) -> String {
        format!("file://{}", self.dir.path().display())
    }

    fn wanted(&self, sha: &str, before: Option<&str>) -> Wanted {
        Wanted {
            repo_id: "r1".to_owned(),
            repo_url: self.url(),
            ref_name: "refs/heads/main".to_owned(),
            sha: sha.to_owned(),
            before: before.map(str::to_owned),
        }
    }

    fn source(&self, root: &Path) -> GitSource {
        let policy = AddressPolicy {
            allowed_prefixes: vec![self.url()],
        };
        GitSource::new(root.to_owned(), policy)
    }
}

#[tokio::test]
async fn a_commit_is_read_with_its_files_and_changes_without_a_checkout() {
    let mirrors = tempfile::tempdir().unwrap();
    let repository = Repository::new();
    repository.write(".slipway.yml", "version: 1\n");
    repository.write("src/a", "1");
    let first = repository.commit("first");
    repository.write("src/b", "2");
    repository.write(".slipway/nightly.yml", "version: 1 # n\n");
    let second = repository.commit("second\n\nwith a body");
    let source = repository.source(mirrors.path());
    let commit = source
        .commit(&repository.wanted(&second, Some(&first)))
        .await
        .unwrap();
    assert_eq!(commit.message, "second\n\nwith a body");
    assert_eq!(commit.author, "Ada");
    assert!(commit.time_s > 1_700_000_000);
    let names: Vec<&str> = commit.pipelines.iter().map(|(n, _)| n.as_str()).collect();
    assert_eq!(names, ["default", "nightly"]);
    let changed = commit.changed.unwrap();
    assert_eq!(changed, [".slipway/nightly.yml", "src/b"]);
    assert!(commit.files.contains_key("src/a"));
    // An older commit is not a ref's head: it comes with its ref.
    assert_eq!(
        source
            .commit(&repository.wanted(&first, None))
            .await
            .unwrap()
            .message,
        "first"
    );
    let wanted = repository.wanted(&second, None);
    assert_eq!(
        source.is_ancestor(&wanted, &first, &second).await,
        Some(true)
    );
    assert_eq!(
        source.is_ancestor(&wanted, &second, &first).await,
        Some(false)
    );
    let heads = source.heads("r1", &repository.url()).await.unwrap();
    assert_eq!(heads, [("refs/heads/main".to_owned(), second)]);
}

#[tokio::test]
async fn hostile_h026_a_pipeline_file_that_is_a_link_is_refused() {
    let mirrors = tempfile::tempdir().unwrap();
    let repository = Repository::new();
    std::os::unix::fs::symlink("/etc/passwd", repository.dir.path().join(".slipway.yml")).unwrap();
    let sha = repository.commit("link");
    let got = repository
        .source(mirrors.path())
        .commit(&repository.wanted(&sha, None))
        .await;
    assert_eq!(got, Err(SourceError::NotAFile(".slipway.yml".to_owned())));
}

#[tokio::test]
async fn hostile_h027_a_commit_that_is_gone_is_gone_and_no_other_is_read() {
    let mirrors = tempfile::tempdir().unwrap();
    let repository = Repository::new();
    repository.write(".slipway.yml", "version: 1\n");
    repository.commit("first");
    let source = repository.source(mirrors.path());
    let missing = "1234567890123456789012345678901234567890";
    let got = source.commit(&repository.wanted(missing, None)).await;
    assert_eq!(got, Err(SourceError::CommitGone));
}

#[tokio::test]
async fn hostile_h018_a_branch_name_never_becomes_an_option() {
    let mirrors = tempfile::tempdir().unwrap();
    let repository = Repository::new();
    repository.write(".slipway.yml", "version: 1\n");
    let sha = repository.commit("first");
    let evil = "refs/heads/--upload-pack=touch${IFS}pwned";
    repository.git(&["update-ref", evil, &sha]);
    let mut wanted = repository.wanted("1234567890123456789012345678901234567890", None);
    wanted.ref_name = evil.to_owned();
    let source = repository.source(mirrors.path());
    assert_eq!(source.commit(&wanted).await, Err(SourceError::CommitGone));
    assert!(!mirrors.path().join("r1.git/pwned").exists());
    assert!(!repository.dir.path().join("pwned").exists());
}

#[tokio::test]
async fn an_address_outside_the_policy_is_never_contacted() {
    let mirrors = tempfile::tempdir().unwrap();
    let repository = Repository::new();
    repository.write(".slipway.yml", "version: 1\n");
    let sha = repository.commit("first");
    let source = GitSource::new(mirrors.path().to_owned(), AddressPolicy::default());
    let got = source.commit(&repository.wanted(&sha, None)).await;
    assert!(matches!(got, Err(SourceError::Unavailable(_))), "{got:?}");
}
