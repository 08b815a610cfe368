//! A repository that is pushed to: a bare one, which the system reads, and a checkout.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A repository.
pub struct Repository {
    /// What is registered.
    pub url: String,
    work: PathBuf,
}

impl Repository {
    /// An empty one below `dir`.
    ///
    /// # Panics
    /// When git fails.
    #[must_use]
    pub fn create(dir: &Path, name: &str) -> Self {
        let bare = dir.join(format!("{name}.git"));
        let work = dir.join(name);
        for folder in [&bare, &work] {
            if let Err(error) = std::fs::create_dir_all(folder) {
                panic!("{}: {error}", folder.display());
            }
        }
        git(&bare, &["init", "-q", "--bare", "-b", "main", "."]);
        git(&work, &["init", "-q", "-b", "main", "."]);
        git(
            &work,
            &["remote", "add", "origin", &bare.display().to_string()],
        );
        let url = format!("file://{}", bare.display());
        Self { url, work }
    }

    /// Writes a file; not committed yet.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn write(&self, path: &str, text: &str) {
        let path = self.work.join(path);
        let folder = path.parent().unwrap_or(&self.work);
        let written = std::fs::create_dir_all(folder).and_then(|()| std::fs::write(&path, text));
        if let Err(error) = written {
            panic!("{}: {error}", path.display());
        }
    }

    /// Commits everything and pushes the branch; answers with the commit.
    pub fn push(&self, message: &str) -> String {
        git(&self.work, &["add", "-A"]);
        git(
            &self.work,
            &["commit", "-q", "--allow-empty", "-m", message],
        );
        git(
            &self.work,
            &["push", "-q", "-f", "origin", "HEAD:refs/heads/main"],
        );
        git(&self.work, &["rev-parse", "HEAD"])
    }

    /// Any other command in the checkout.
    pub fn git(&self, args: &[&str]) -> String {
        git(&self.work, args)
    }
}

fn git(dir: &Path, args: &[&str]) -> String {
    let done = Command::new("git")
        .args(["-c", "user.name=Ada", "-c", "user.email=ada@example.org"])
        .args(args)
        .current_dir(dir)
        .output();
    match done {
        Ok(done) if done.status.success() => {
            String::from_utf8_lossy(&done.stdout).trim().to_owned()
        }
        Ok(done) => panic!("git {args:?}: {}", String::from_utf8_lossy(&done.stderr)),
        Err(error) => panic!("git {args:?}: {error}"),
    }
}
