//! What every object store must do, run on every adapter.

#![expect(
    clippy::unwrap_used,
    reason = "a suite of assertions: what fails here is the finding"
)]

use bytes::Bytes;
use futures::TryStreamExt as _;

use crate::{Key, ObjectStore};

fn key(text: &str) -> Key {
    match Key::new(text) {
        Ok(key) => key,
        Err(error) => panic!("{text}: {error}"),
    }
}

/// The whole suite; panics at the first thing that does not hold. Uses keys below `suite/`.
///
/// # Panics
/// When the store breaks the contract.
pub async fn suite(store: &dyn ObjectStore) {
    put_get_replace_remove(store).await;
    a_large_object_appears_only_when_finished(store).await;
    reading_begins_at_the_offset(store).await;
    listing_is_ordered_and_stays_below_its_folder(store).await;
}

async fn put_get_replace_remove(store: &dyn ObjectStore) {
    let key = key("suite/a/one");
    assert_eq!(store.get(&key).await.unwrap(), None);
    store.put(&key, Bytes::from_static(b"first")).await.unwrap();
    store
        .put(&key, Bytes::from_static(b"second"))
        .await
        .unwrap();
    assert_eq!(store.get(&key).await.unwrap().unwrap(), "second");
    store.remove(&key).await.unwrap();
    store.remove(&key).await.unwrap();
    assert_eq!(store.get(&key).await.unwrap(), None);
}

async fn a_large_object_appears_only_when_finished(store: &dyn ObjectStore) {
    let key = key("suite/large");
    let mut dropped = store.write(&key).await.unwrap();
    dropped.write(Bytes::from(vec![1; 1 << 20])).await.unwrap();
    drop(dropped);
    assert_eq!(
        store.get(&key).await.unwrap(),
        None,
        "unfinished is invisible"
    );
    let mut writing = store.write(&key).await.unwrap();
    for part in 0..12_u8 {
        writing
            .write(Bytes::from(vec![part; 1 << 20]))
            .await
            .unwrap();
    }
    assert_eq!(store.get(&key).await.unwrap(), None, "not finished yet");
    writing.finish().await.unwrap();
    let whole = store.get(&key).await.unwrap().unwrap();
    assert_eq!((whole.len(), whole[5 << 20]), (12 << 20, 5));
    store.remove(&key).await.unwrap();
}

async fn reading_begins_at_the_offset(store: &dyn ObjectStore) {
    let key = key("suite/range");
    store
        .put(&key, Bytes::from_static(b"0123456789"))
        .await
        .unwrap();
    let reading = store.read(&key, 4).await.unwrap().unwrap();
    assert_eq!(reading.size, 10);
    let chunks: Vec<Bytes> = reading.bytes.try_collect().await.unwrap();
    assert_eq!(chunks.concat(), b"456789");
    let end = store.read(&key, 10).await.unwrap().unwrap();
    let chunks: Vec<Bytes> = end.bytes.try_collect().await.unwrap();
    assert!(chunks.concat().is_empty());
    store.remove(&key).await.unwrap();
}

async fn listing_is_ordered_and_stays_below_its_folder(store: &dyn ObjectStore) {
    for name in [
        "suite/list/b",
        "suite/list/a/x",
        "suite/list/c",
        "suite/listed",
    ] {
        store
            .put(&key(name), Bytes::from_static(b"xy"))
            .await
            .unwrap();
    }
    let listed = store.list(&key("suite/list")).await.unwrap();
    let names: Vec<(&str, u64)> = listed.iter().map(|l| (l.key.as_str(), l.size)).collect();
    let expected = [
        ("suite/list/a/x", 2),
        ("suite/list/b", 2),
        ("suite/list/c", 2),
    ];
    assert_eq!(names, expected);
    assert!(store.list(&key("suite/none")).await.unwrap().is_empty());
    for name in [
        "suite/list/b",
        "suite/list/a/x",
        "suite/list/c",
        "suite/listed",
    ] {
        store.remove(&key(name)).await.unwrap();
    }
}
