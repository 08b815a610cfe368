//! A small disk: an ext4 in a file. It can be full, and a copy of the file is what a machine would find after a
//! power cut: pages that nobody synced are in the kernel's memory and not in it.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use slipway_store::{Db, Settings};

/// A small file system of its own.
pub(crate) struct Disk {
    folder: tempfile::TempDir,
    /// The folder that it lies over.
    over: Option<PathBuf>,
}

/// The same disk after a cut.
pub(crate) struct AfterCut<'a>(&'a Disk);

impl Disk {
    /// `None` where nothing can be mounted.
    pub(crate) fn mount() -> Option<Self> {
        let disk = Self::create()?;
        mount(&disk.at("disk.img"), &disk.at("now")).then_some(disk)
    }

    /// Mounted over a folder, with what is in it.
    pub(crate) fn over(folder: &Path) -> Option<Self> {
        let mut disk = Self::mount()?;
        let inside = folder.join(".");
        let copied = run("cp", &["-a".as_ref(), &inside, &disk.at("now")]);
        (copied && mount(&disk.at("disk.img"), folder)).then_some(())?;
        disk.over = Some(folder.to_owned());
        Some(disk)
    }

    /// Not a byte more goes onto it.
    pub(crate) fn fill(&self) {
        let mut ballast = std::fs::File::create(self.at("now/ballast")).expect("made");
        for piece in [1 << 20, 4096, 1] {
            let zeros = vec![0; piece];
            while ballast.write_all(&zeros).is_ok() {}
        }
        // Until now it was only promised.
        ballast.sync_all().expect("kept");
    }

    /// There is room again.
    pub(crate) fn make_room(&self) {
        std::fs::remove_file(self.at("now/ballast")).expect("removed");
    }

    fn create() -> Option<Self> {
        let folder = tempfile::tempdir().ok()?;
        let disk = Self { folder, over: None };
        std::fs::create_dir_all(disk.at("now")).ok()?;
        std::fs::create_dir_all(disk.at("later")).ok()?;
        let image = std::fs::File::create(disk.at("disk.img")).ok()?;
        image.set_len(64 << 20).ok()?;
        run(
            "mkfs.ext4",
            &[
                "-q".as_ref(),
                "-F".as_ref(),
                "-m0".as_ref(),
                &disk.at("disk.img"),
            ],
        )
        .then_some(disk)
    }

    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Everything so far is on the disk.
    pub(crate) fn sync(&self) {
        assert!(run("sync", &["-f".as_ref(), &self.at("now")]), "synced");
    }

    pub(crate) fn cut(&self) -> AfterCut<'_> {
        std::fs::copy(self.at("disk.img"), self.at("cut.img")).expect("copied");
        assert!(mount(&self.at("cut.img"), &self.at("later")), "mounted");
        AfterCut(self)
    }
}

impl AfterCut<'_> {
    pub(crate) async fn open(&self, name: &str) -> Db {
        let path = self.0.at("later").join(name);
        Db::open(&Settings::Sqlite(path)).await.expect("open")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let over = self.over.iter().cloned();
        for at in over.chain([self.at("now")]) {
            let _unmounted = run("umount", &["-l".as_ref(), &at]);
        }
    }
}

impl Drop for AfterCut<'_> {
    fn drop(&mut self) {
        let _unmounted = run("umount", &[&self.0.at("later")]);
    }
}

fn run(program: &str, args: &[&Path]) -> bool {
    Command::new(program)
        .args(args)
        .status()
        .is_ok_and(|status| status.success())
}

fn mount(image: &Path, at: &Path) -> bool {
    run("mount", &["-o".as_ref(), "loop".as_ref(), image, at])
}
