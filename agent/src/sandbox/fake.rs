//! A sandbox without containers: stages end as scripted. For tests of the fleet and for benches of
//! dispatch, where execution itself is not what is measured.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use slipway_proto::convert::AttemptKey;
use tokio::sync::{mpsc, watch};

use super::{Ended, EngineSaid, EngineWas, ImageMade, ImageRun, Sandbox, SandboxError, StageRun};

/// How a stage is to end.
#[derive(Clone, Debug)]
pub struct Script {
    /// What it prints.
    pub output: Bytes,
    /// Its exit code.
    pub code: i64,
    /// How long it takes.
    pub takes: Duration,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            output: Bytes::from_static(b"done\n"),
            code: 0,
            takes: Duration::ZERO,
        }
    }
}

struct Running {
    script: Script,
    started: watch::Sender<bool>,
    ended: watch::Sender<Option<i64>>,
}

#[derive(Default)]
struct Inner {
    scripts: BTreeMap<String, Script>,
    running: BTreeMap<AttemptKey, Arc<Running>>,
    created: usize,
}

/// The fake. Cheap to clone; clones share.
#[derive(Clone, Default)]
pub struct FakeSandbox(Arc<Mutex<Inner>>);

impl FakeSandbox {
    /// Every stage prints one line and ends well at once.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn with<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Scripts every stage whose shell lines contain `words`.
    pub fn script(&self, words: &str, script: Script) {
        self.with(|inner| inner.scripts.insert(words.to_owned(), script));
    }

    /// How many stages were created.
    #[must_use]
    pub fn created(&self) -> usize {
        self.with(|inner| inner.created)
    }

    fn running(&self, key: &AttemptKey) -> Result<Arc<Running>, SandboxError> {
        self.with(|inner| inner.running.get(key).cloned())
            .ok_or_else(|| SandboxError::Engine("there is no such container".to_owned()))
    }
}

#[async_trait]
impl Sandbox for FakeSandbox {
    async fn engine(&self) -> Result<EngineSaid, SandboxError> {
        Ok(EngineSaid {
            version: "fake".to_owned(),
            buildkit: false,
            reproducible_images: false,
            user_namespaces: false,
        })
    }

    async fn answers(&self) -> Result<(), SandboxError> {
        Ok(())
    }

    async fn gone(&self) {
        std::future::pending().await
    }

    async fn ensure_image(&self, _: &str) -> Result<(), SandboxError> {
        Ok(())
    }

    async fn create(&self, run: &StageRun) -> Result<(), SandboxError> {
        self.with(|inner| {
            let script = inner
                .scripts
                .iter()
                .find(|(words, _)| run.script.contains(words.as_str()))
                .map(|(_, script)| script.clone())
                .unwrap_or_default();
            inner.created += 1;
            let running = Running {
                script,
                started: watch::Sender::new(false),
                ended: watch::Sender::new(None),
            };
            inner.running.insert(run.key.clone(), Arc::new(running));
        });
        Ok(())
    }

    async fn start(&self, key: &AttemptKey) -> Result<(), SandboxError> {
        self.running(key)?.started.send_replace(true);
        Ok(())
    }

    fn output(&self, key: &AttemptKey) -> BoxStream<'static, Result<Bytes, SandboxError>> {
        match self.running(key) {
            Err(error) => futures::stream::iter([Err(error)]).boxed(),
            Ok(running) => {
                let output = running.script.output.clone();
                let end = async move {
                    let mut ended = running.ended.subscribe();
                    drop(ended.wait_for(Option::is_some).await);
                    None
                };
                futures::stream::iter([Ok(output)])
                    .chain(futures::stream::once(end).filter_map(|end| async move { end }))
                    .boxed()
            }
        }
    }

    async fn written(&self, _: &AttemptKey) -> Result<u64, SandboxError> {
        Ok(0)
    }

    async fn wait(&self, key: &AttemptKey) -> Result<Ended, SandboxError> {
        let running = self.running(key)?;
        let mut started = running.started.subscribe();
        drop(started.wait_for(|started| *started).await);
        let mut ended = running.ended.subscribe();
        let stopped = async {
            drop(ended.wait_for(Option::is_some).await);
        };
        tokio::select! {
            () = tokio::time::sleep(running.script.takes) => {}
            () = stopped => {}
        }
        let code = (*running.ended.borrow()).unwrap_or(running.script.code);
        running.ended.send_replace(Some(code));
        Ok(Ended {
            code,
            out_of_memory: None,
            engine: EngineWas::There,
        })
    }

    async fn stop(&self, key: &AttemptKey, _: Duration) -> Result<(), SandboxError> {
        if let Ok(running) = self.running(key) {
            running.started.send_replace(true);
            running.ended.send_replace(Some(143));
        }
        Ok(())
    }

    async fn remove(&self, key: &AttemptKey) -> Result<(), SandboxError> {
        self.with(|inner| inner.running.remove(key));
        Ok(())
    }

    async fn held(&self) -> Result<Vec<AttemptKey>, SandboxError> {
        Ok(self.with(|inner| {
            let started = inner.running.iter().filter(|(_, r)| *r.started.borrow());
            started.map(|(key, _)| key.clone()).collect()
        }))
    }

    async fn remains(&self) -> Result<Vec<AttemptKey>, SandboxError> {
        Ok(self.with(|inner| inner.running.keys().cloned().collect()))
    }

    async fn build(
        &self,
        image: &ImageRun,
        printed: mpsc::Sender<Vec<u8>>,
    ) -> Result<ImageMade, SandboxError> {
        let _nobody_reads = printed.send(b"built\n".to_vec()).await;
        let hash = slipway_core::digest::Digest::of(&image.context);
        Ok(ImageMade {
            repository: "fake/image".to_owned(),
            digest: format!("sha256:{hash}"),
            reproducible: true,
        })
    }
}
