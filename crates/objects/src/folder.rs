//! Objects as files of a local folder: temporary file, fsync, rename, fsync of the folder.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use tokio::fs;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _, AsyncWriteExt as _};

use crate::{Key, Listed, ObjectError, ObjectStore, Reading, Writing};

/// Bytes read from a file at once.
const CHUNK: usize = 256 * 1024;
/// Where unfinished objects live; no key begins with a dot.
const UNFINISHED: &str = ".unfinished";

/// A folder.
#[derive(Clone)]
pub struct Folder {
    root: PathBuf,
    number: Arc<AtomicU64>,
}

fn failed(error: &std::io::Error) -> ObjectError {
    if error.kind() == ErrorKind::StorageFull || error.kind() == ErrorKind::QuotaExceeded {
        ObjectError::Full(error.to_string())
    } else {
        ObjectError::Unavailable(error.to_string())
    }
}

impl Folder {
    /// Uses a folder, making it when it is not there; what an earlier process left unfinished goes.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub async fn open(root: impl Into<PathBuf>) -> Result<Self, ObjectError> {
        let root = root.into();
        let unfinished = root.join(UNFINISHED);
        match fs::remove_dir_all(&unfinished).await {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(failed(&e)),
            _ => {}
        }
        fs::create_dir_all(&unfinished)
            .await
            .map_err(|e| failed(&e))?;
        Ok(Self {
            root,
            number: Arc::default(),
        })
    }

    fn path(&self, key: &Key) -> PathBuf {
        self.root.join(key.as_str())
    }
}

struct Unfinished {
    file: Option<fs::File>,
    temporary: PathBuf,
    target: PathBuf,
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if self.file.take().is_some() {
            // What stays behind is removed at the next start.
            let _best_effort = std::fs::remove_file(&self.temporary);
        }
    }
}

#[async_trait]
impl Writing for Unfinished {
    async fn write(&mut self, bytes: Bytes) -> Result<(), ObjectError> {
        let file = self.file.as_mut().ok_or_else(closed)?;
        file.write_all(&bytes).await.map_err(|e| failed(&e))
    }

    async fn finish(mut self: Box<Self>) -> Result<(), ObjectError> {
        let mut file = self.file.take().ok_or_else(closed)?;
        let finished = async {
            file.flush().await?;
            file.sync_all().await?;
            drop(file);
            let parent = self.target.parent().unwrap_or(Path::new("."));
            fs::create_dir_all(parent).await?;
            fs::rename(&self.temporary, &self.target).await?;
            fs::File::open(parent).await?.sync_all().await
        };
        let result: std::io::Result<()> = finished.await;
        if result.is_err() {
            let _best_effort = fs::remove_file(&self.temporary).await;
        }
        result.map_err(|e| failed(&e))
    }
}

fn closed() -> ObjectError {
    ObjectError::Unavailable("the object is finished already".to_owned())
}

#[async_trait]
impl ObjectStore for Folder {
    async fn put(&self, key: &Key, bytes: Bytes) -> Result<(), ObjectError> {
        let mut writing = self.write(key).await?;
        writing.write(bytes).await?;
        writing.finish().await
    }

    async fn write(&self, key: &Key) -> Result<Box<dyn Writing>, ObjectError> {
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        let temporary = self.root.join(UNFINISHED).join(number.to_string());
        let file = fs::File::create(&temporary).await.map_err(|e| failed(&e))?;
        Ok(Box::new(Unfinished {
            file: Some(file),
            temporary,
            target: self.path(key),
        }))
    }

    async fn read(&self, key: &Key, offset: u64) -> Result<Option<Reading>, ObjectError> {
        let mut file = match fs::File::open(self.path(key)).await {
            Ok(file) => file,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(failed(&e)),
        };
        let meta = file.metadata().await.map_err(|e| failed(&e))?;
        if !meta.is_file() {
            return Ok(None);
        }
        file.seek(std::io::SeekFrom::Start(offset))
            .await
            .map_err(|e| failed(&e))?;
        let bytes = futures::stream::try_unfold(file, |mut file| async move {
            let mut chunk = vec![0; CHUNK];
            let read = file.read(&mut chunk).await.map_err(|e| failed(&e))?;
            chunk.truncate(read);
            Ok((read > 0).then(|| (Bytes::from(chunk), file)))
        })
        .boxed();
        Ok(Some(Reading {
            size: meta.len(),
            bytes,
        }))
    }

    async fn remove(&self, key: &Key) -> Result<(), ObjectError> {
        match fs::remove_file(self.path(key)).await {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(failed(&e)),
            _ => Ok(()),
        }
    }

    async fn list(&self, folder: &Key) -> Result<Vec<Listed>, ObjectError> {
        let mut found = Vec::new();
        let mut todo = vec![folder.as_str().to_owned()];
        while let Some(at) = todo.pop() {
            let mut entries = match fs::read_dir(self.root.join(&at)).await {
                Ok(entries) => entries,
                Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                    continue;
                }
                Err(e) => return Err(failed(&e)),
            };
            while let Some(entry) = entries.next_entry().await.map_err(|e| failed(&e))? {
                let Some(name) = entry.file_name().to_str().map(str::to_owned) else {
                    continue;
                };
                let key = format!("{at}/{name}");
                let meta = entry.metadata().await.map_err(|e| failed(&e))?;
                if meta.is_dir() {
                    todo.push(key);
                } else {
                    let size = meta.len();
                    found.push(Listed { key, size });
                }
            }
        }
        found.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_folder_keeps_the_contract() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::open(dir.path()).await.unwrap();
        crate::conformance::suite(&folder).await;
        let left = std::fs::read_dir(dir.path().join(UNFINISHED)).unwrap();
        assert_eq!(left.count(), 0, "dropped objects leave nothing behind");
    }
}
