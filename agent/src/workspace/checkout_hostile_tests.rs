//! Repositories made to execute something, to fetch something else, or to fill the disk.

use std::process::Command as Sync;

use super::*;

/// What every attack tries to make; nothing may.
const PWNED: &str = "pwned";

struct Hostile {
    source: tempfile::TempDir,
    target: tempfile::TempDir,
    url: String,
}

impl Hostile {
    fn new() -> Self {
        let source = tempfile::tempdir().unwrap();
        let url = format!("file://{}", source.path().display());
        let hostile = Self {
            source,
            target: tempfile::tempdir().unwrap(),
            url,
        };
        hostile.git(&["init", "-q", "-b", "main", "."]);
        hostile
    }

    fn git(&self, args: &[&str]) -> String {
        let out = Sync::new("git")
            .args(["-c", "user.name=A", "-c", "user.email=a@example.org"])
            .args(args)
            .current_dir(self.source.path())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(out.status.success(), "git {args:?}: {said}");
        String::from_utf8(out.stdout).unwrap().trim().to_owned()
    }

    fn commit(&self, path: &str, text: &str) -> String {
        std::fs::write(self.source.path().join(path), text).unwrap();
        self.git(&["add", "-A"]);
        self.git(&["commit", "-qm", path]);
        self.git(&["rev-parse", "HEAD"])
    }

    async fn checkout(&self, sha: &str, ref_name: &str) -> Result<(), CheckoutError> {
        let _fresh = std::fs::remove_dir_all(self.target.path());
        std::fs::create_dir_all(self.target.path()).unwrap();
        let wanted = Wanted {
            url: &self.url,
            sha,
            ref_name,
            depth: 1,
            allowed: std::slice::from_ref(&self.url),
            resolver: &Resolver::system(),
        };
        let got = checkout(self.target.path(), &wanted).await;
        for folder in [&self.source, &self.target] {
            assert!(
                !folder.path().join(PWNED).exists(),
                "something was executed"
            );
        }
        got
    }

    fn file(&self, path: &str) -> String {
        std::fs::read_to_string(self.target.path().join(path)).unwrap()
    }
}

#[tokio::test]
async fn hostile_h018_a_branch_that_reads_like_an_option_is_a_branch() {
    let hostile = Hostile::new();
    let sha = hostile.commit("file", "1");
    let evil = format!("refs/heads/--upload-pack=touch${{IFS}}{PWNED}");
    hostile.git(&["update-ref", &evil, &sha]);
    assert_eq!(hostile.checkout(&sha, &evil).await, Ok(()));
    // A commit that is not there is looked for through the ref itself.
    let missing = "1".repeat(40);
    assert_eq!(
        hostile.checkout(&missing, &evil).await,
        Err(CheckoutError::CommitGone(missing))
    );
}

#[tokio::test]
async fn hostile_h021_a_branch_named_like_an_id_or_like_head_is_never_taken_for_one() {
    let hostile = Hostile::new();
    let first = hostile.commit("file", "first");
    let second = hostile.commit("file", "second");
    let absent = "a".repeat(40);
    for name in [first.as_str(), &absent, "HEAD", "refs/heads/main", "@x"] {
        let name = format!("refs/heads/{name}");
        hostile.git(&["update-ref", &name, &second]);
    }
    for name in [first.as_str(), "HEAD", "refs/heads/main", "main"] {
        let ref_name = format!("refs/heads/{name}");
        assert_eq!(hostile.checkout(&first, &ref_name).await, Ok(()), "{name}");
        assert_eq!(hostile.file("file"), "first", "{name}");
    }
    let ref_name = format!("refs/heads/{absent}");
    let got = hostile.checkout(&absent, &ref_name).await;
    assert_eq!(got, Err(CheckoutError::CommitGone(absent)));
    for short in ["HEAD", "main", &first[..12], "--help", ""] {
        let got = hostile.checkout(short, "refs/heads/main").await;
        assert!(matches!(got, Err(CheckoutError::CommitGone(_))), "{short}");
    }
}

#[tokio::test]
async fn hostile_h022_of_a_tag_and_a_branch_of_one_name_the_commit_is_what_counts() {
    let hostile = Hostile::new();
    let tagged = hostile.commit("file", "tagged");
    hostile.git(&["tag", "v1"]);
    let branched = hostile.commit("file", "branched");
    hostile.git(&["branch", "v1"]);
    for (sha, text) in [(&tagged, "tagged"), (&branched, "branched")] {
        for ref_name in ["refs/tags/v1", "refs/heads/v1"] {
            assert_eq!(hostile.checkout(sha, ref_name).await, Ok(()), "{ref_name}");
            assert_eq!(hostile.file("file"), text, "{ref_name}");
        }
    }
    // A tag that was moved changes nothing for what was recorded before.
    hostile.git(&["tag", "-f", "v1", &branched]);
    assert_eq!(hostile.checkout(&tagged, "refs/tags/v1").await, Ok(()));
    assert_eq!(hostile.file("file"), "tagged");
}

#[tokio::test]
async fn hostile_h024_a_submodule_is_never_fetched_whatever_its_address_is() {
    // One that could well be fetched, so that a checkout that recursed would be seen.
    let other = Hostile::new();
    other.commit("payload", "1");
    for url in [
        other.url.as_str(),
        "ext::sh -c touch% pwned",
        "../../../other",
        "-u./payload",
        "https:///host/repo",
        "file:///etc",
    ] {
        for path in ["sub", "\"sub\\r\""] {
            let hostile = Hostile::new();
            let sha = hostile.commit("file", "1");
            hostile.git(&[
                "update-index",
                "--add",
                "--cacheinfo",
                &format!("160000,{sha},sub"),
            ]);
            let text = format!("[submodule \"sub\"]\n\tpath = {path}\n\turl = {url}\n");
            std::fs::write(hostile.source.path().join(".gitmodules"), text).unwrap();
            hostile.git(&["add", ".gitmodules"]);
            hostile.git(&["commit", "-qm", "module"]);
            let sha = hostile.git(&["rev-parse", "HEAD"]);
            // Refused whole, or laid out with an empty folder: never anything between.
            match hostile.checkout(&sha, "refs/heads/main").await {
                Ok(()) => {
                    let sub = std::fs::read_dir(hostile.target.path().join("sub"));
                    assert_eq!(sub.map(Iterator::count).unwrap_or(0), 0, "{url}");
                    assert_eq!(hostile.file("file"), "1");
                }
                Err(CheckoutError::Failed(why)) => assert!(!why.is_empty(), "{url}"),
                other => panic!("{url}: {other:?}"),
            }
        }
    }
}

#[tokio::test]
async fn hostile_h025_filters_are_not_executed_and_a_large_pointer_stays_a_pointer() {
    let hostile = Hostile::new();
    let pointer = format!(
        "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize 1099511627776\n",
        "a".repeat(64)
    );
    hostile.commit(
        ".lfsconfig",
        "[lfs]\n\turl = http://169.254.169.254/latest/meta-data\n[filter \"evil\"]\n\tsmudge = touch pwned\n",
    );
    hostile.commit(
        ".gitattributes",
        "*.bin filter=lfs diff=lfs merge=lfs -text\n*.evil filter=evil\n",
    );
    hostile.commit("run.evil", "text");
    // As pushed by somebody without LFS: the filter of this host must not clean it either.
    std::fs::write(hostile.source.path().join("big.bin"), &pointer).unwrap();
    let blob = hostile.git(&["hash-object", "-w", "--no-filters", "big.bin"]);
    hostile.git(&[
        "update-index",
        "--add",
        "--cacheinfo",
        &format!("100644,{blob},big.bin"),
    ]);
    hostile.git(&["commit", "-qm", "pointer"]);
    let sha = hostile.git(&["rev-parse", "HEAD"]);
    let got = tokio::time::timeout(
        Duration::from_secs(20),
        hostile.checkout(&sha, "refs/heads/main"),
    );
    assert_eq!(got.await, Ok(Ok(())), "no other server was asked");
    assert_eq!(hostile.file("big.bin"), pointer);
    assert_eq!(hostile.file("run.evil"), "text");
}

#[tokio::test]
async fn hostile_h016_h017_h023_an_agent_checks_the_address_by_itself() {
    let inside = vec!["140.82.121.3".parse().unwrap(), "10.0.0.1".parse().unwrap()];
    let names = [("git.example".to_owned(), inside)];
    let resolver = Resolver::fixed(names.into_iter().collect());
    for (url, why) in [
        ("ext::sh -c touch% pwned", InvalidAddress::Characters),
        ("ext::sh", InvalidAddress::Scheme),
        (
            "--upload-pack=touch pwned;git-upload-pack",
            InvalidAddress::Characters,
        ),
        ("--upload-pack=x", InvalidAddress::Option),
        ("ssh://-oProxyCommand=x@h.example/x", InvalidAddress::Option),
        ("https://u:p@git.example/x", InvalidAddress::Credentials),
        ("https://git.example:22/x", InvalidAddress::Port),
        (
            "https://[::ffff:169.254.169.254]/x",
            InvalidAddress::Internal,
        ),
        ("https://0x7f.1/x", InvalidAddress::Internal),
        ("https://git.example/x", InvalidAddress::Internal),
        ("ssh://git@git.example/x", InvalidAddress::Internal),
        ("https://other.example/x", InvalidAddress::Unknown),
    ] {
        let target = tempfile::tempdir().unwrap();
        let wanted = Wanted {
            url,
            sha: &"1".repeat(40),
            ref_name: "refs/heads/main",
            depth: 1,
            allowed: &[],
            resolver: &resolver,
        };
        let got = checkout(target.path(), &wanted).await;
        assert_eq!(got, Err(CheckoutError::NotAllowed(why)), "{url}");
        let left = std::fs::read_dir(target.path()).unwrap().count();
        assert_eq!(left, 0, "git was not even started");
    }
}
