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
        GitSource::new(root.to_owned(), policy, Resolver::system())
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
async fn a_commit_says_which_of_its_text_files_name_a_variable_that_changes() {
    let mirrors = tempfile::tempdir().unwrap();
    let repository = Repository::new();
    repository.write(".slipway.yml", "version: 1 # $CI_COMMIT_SHA\n");
    repository.write("a b/v.sh", "#\necho ${CI_COMMIT_SHA} $CI_PIPELINE_NUMBER\n");
    repository.write("binary", "CI_COMMIT_SHA\0\0");
    repository.write("plain", "CI_REPO\n");
    let first = repository.commit("first");
    let source = repository.source(mirrors.path());
    let read = async |sha: &str| {
        let wanted = repository.wanted(sha, None);
        source.commit(&wanted).await.unwrap()
    };
    let commit = read(&first).await;
    let named = commit.named.unwrap();
    let told = named.iter().map(|n| (&*n.name, &*n.path, n.line));
    let told: Vec<_> = told.collect();
    let expected = [
        ("CI_COMMIT_SHA", "a b/v.sh", 2),
        ("CI_PIPELINE_NUMBER", "a b/v.sh", 2),
    ];
    assert_eq!(told, expected);
    // Another commit with the same files is the same tree.
    repository.git(&["commit", "-q", "--allow-empty", "-m", "nothing changed"]);
    let empty = repository.git(&["rev-parse", "HEAD"]);
    assert_eq!(read(&empty).await.tree, commit.tree);
    repository.write("plain", "other\n");
    let program = repository.dir.path().join("plain");
    std::fs::set_permissions(
        &program,
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .unwrap();
    let other = read(&repository.commit("second")).await;
    assert_ne!(other.tree, commit.tree);
    assert_eq!(other.modes.get("plain").map(String::as_str), Some("100755"));
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
    let source = GitSource::new(
        mirrors.path().to_owned(),
        AddressPolicy::default(),
        Resolver::system(),
    );
    let got = source.commit(&repository.wanted(&sha, None)).await;
    assert!(matches!(got, Err(SourceError::Unavailable(_))), "{got:?}");
}

/// A host that counts who connects to it.
fn listener() -> (u16, Arc<std::sync::atomic::AtomicUsize>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let count = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let seen = Arc::clone(&count);
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            seen.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            drop(connection);
        }
    });
    (port, count)
}

#[tokio::test]
async fn hostile_h023_a_public_name_that_leads_inside_is_not_contacted() {
    let mirrors = tempfile::tempdir().unwrap();
    let (port, seen) = listener();
    let names = BTreeMap::from([("git.example".to_owned(), vec!["127.0.0.1".parse().unwrap()])]);
    let source = GitSource::new(
        mirrors.path().to_owned(),
        AddressPolicy::default(),
        Resolver::fixed(names),
    );
    for scheme in ["https://", "ssh://git@"] {
        let url = format!("{scheme}git.example:{port}/shop.git");
        let mut wanted = Repository::new().wanted(&"1".repeat(40), Some(&"2".repeat(40)));
        wanted.repo_url.clone_from(&url);
        let read = source.commit(&wanted).await.map(|_| ());
        let listed = source.heads("r1", &url).await.map(|_| ());
        for got in [read, listed] {
            let Err(SourceError::Unavailable(why)) = got else {
                panic!("{url}: {got:?}");
            };
            assert!(why.starts_with("target_not_allowed"), "{why}");
        }
        let ancestry = source.is_ancestor(&wanted, "1", "2").await;
        assert_eq!(ancestry, None, "unknown, because nobody was asked");
    }
    assert_eq!(seen.load(std::sync::atomic::Ordering::SeqCst), 0);
}

/// The positive control of the pin: git goes where it is told, and asks no name server.
#[tokio::test]
async fn hostile_h023_git_connects_to_the_address_that_was_checked() {
    let mirrors = tempfile::tempdir().unwrap();
    let (port, seen) = listener();
    let source = Repository::new().source(mirrors.path());
    let mirror = source.ensure_mirror("r1").await.unwrap();
    for name in ["git.example", "Git.Example"] {
        let remote = Remote {
            url: format!("https://{name}:{port}/shop.git"),
            settings: vec![format!("http.curloptResolve=git.example:{port}:127.0.0.1")],
        };
        let before = seen.load(std::sync::atomic::Ordering::SeqCst);
        assert!(
            fetch(&mirror, &remote, "refs/heads/main", true)
                .await
                .is_err()
        );
        assert!(
            seen.load(std::sync::atomic::Ordering::SeqCst) > before,
            "{name}"
        );
    }
}
