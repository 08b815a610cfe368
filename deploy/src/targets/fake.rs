//! A target in memory: real listeners may stand behind its instances, or nothing at all.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use slipway_core::rollout::{InstanceView, VersionSpec};
use slipway_core::traffic::Fence;

use super::{Instances, Place, Target, TargetError};

#[derive(Default)]
struct Inner {
    versions: BTreeMap<String, (u64, Vec<InstanceView>)>,
    addresses: BTreeMap<String, String>,
    images: Vec<String>,
    lose_replies: u32,
    readable: bool,
    memory: BTreeMap<String, u32>,
}

/// Instances that exist by being written down.
pub struct FakeTarget {
    inner: Mutex<Inner>,
}

impl Default for FakeTarget {
    fn default() -> Self {
        Self {
            inner: Mutex::new(Inner {
                readable: true,
                ..Inner::default()
            }),
        }
    }
}

impl FakeTarget {
    fn with<T>(&self, act: impl FnOnce(&mut Inner) -> T) -> T {
        act(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Instances whose image is `image` answer at `address`.
    pub fn serve(&self, image: &str, address: &str) {
        self.with(|inner| inner.addresses.insert(image.to_owned(), address.to_owned()));
    }

    /// The next replies are lost: it happened, and the caller hears of a time-out.
    pub fn lose_replies(&self, count: u32) {
        self.with(|inner| inner.lose_replies = count);
    }

    /// Whether it can be read.
    pub fn set_readable(&self, readable: bool) {
        self.with(|inner| inner.readable = readable);
    }

    /// An instance ends by itself.
    pub fn end(&self, instance: &str) {
        self.with(|inner| {
            let all = inner.versions.values_mut().flat_map(|(_, list)| list);
            all.filter(|one| one.id == instance)
                .for_each(|one| one.address = None);
        });
    }

    /// An instance ends by itself and is started again.
    pub fn crash(&self, instance: &str) {
        self.with(|inner| {
            let all = inner.versions.values_mut().flat_map(|(_, list)| list);
            all.filter(|one| one.id == instance)
                .for_each(|one| one.exits += 1);
        });
    }

    /// The fullest instance of a version uses this much of its memory, thousandths.
    pub fn fill(&self, version: &str, permille: u32) {
        self.with(|inner| inner.memory.insert(version.to_owned(), permille));
    }

    /// Every image that was started, in order.
    #[must_use]
    pub fn started(&self) -> Vec<String> {
        self.with(|inner| inner.images.clone())
    }

    fn reply(inner: &mut Inner) -> Result<(), TargetError> {
        if inner.lose_replies == 0 {
            return Ok(());
        }
        inner.lose_replies -= 1;
        Err(TargetError::Unknown("the reply was lost".to_owned()))
    }
}

fn fenced(inner: &Inner, fence: Fence) -> Result<(), TargetError> {
    match inner.versions.values().map(|(token, _)| *token).max() {
        Some(seen) if seen > fence.token => Err(TargetError::StaleToken { seen }),
        _ => Ok(()),
    }
}

#[async_trait]
impl Target for FakeTarget {
    async fn ensure(
        &self,
        fence: Fence,
        _place: &Place,
        version: &VersionSpec,
    ) -> Result<(), TargetError> {
        self.with(|inner| {
            fenced(inner, fence)?;
            let address = inner.addresses.get(&version.image).cloned();
            let address = address.unwrap_or_else(|| "127.0.0.1:9".to_owned());
            let known = inner
                .versions
                .entry(version.version_id.clone())
                .or_default();
            known.0 = fence.token;
            for number in 1..=version.replicas {
                let id = format!("slipway-{}-{number}", version.version_id);
                match known.1.iter_mut().find(|one| one.id == id) {
                    Some(one) => one.address = Some(address.clone()),
                    None => {
                        known.1.push(InstanceView {
                            id,
                            address: Some(address.clone()),
                            exits: 0,
                            oom: false,
                        });
                        inner.images.push(version.image.clone());
                    }
                }
            }
            Self::reply(inner)
        })
    }

    async fn observe(&self, _place: &Place) -> Result<Instances, TargetError> {
        self.with(|inner| {
            if !inner.readable {
                return Err(TargetError::Unknown("not readable".to_owned()));
            }
            let versions = inner.versions.iter();
            Ok(versions
                .map(|(id, (_, list))| (id.clone(), list.clone()))
                .collect())
        })
    }

    async fn memory(&self, _place: &Place, version: &str) -> Result<Option<u32>, TargetError> {
        self.with(|inner| Ok(inner.memory.get(version).copied()))
    }

    async fn park(
        &self,
        fence: Fence,
        _place: &Place,
        version: &str,
        keep: u32,
        _grace: Duration,
    ) -> Result<(), TargetError> {
        self.with(|inner| {
            fenced(inner, fence)?;
            let list = inner.versions.get_mut(version).map(|(_, list)| list);
            for one in list
                .into_iter()
                .flatten()
                .skip(usize::try_from(keep).unwrap_or(usize::MAX))
            {
                one.address = None;
            }
            Self::reply(inner)
        })
    }

    async fn retire(
        &self,
        fence: Fence,
        _place: &Place,
        version: &str,
        _grace: Duration,
    ) -> Result<(), TargetError> {
        self.with(|inner| {
            fenced(inner, fence)?;
            inner.versions.remove(version);
            Self::reply(inner)
        })
    }
}
