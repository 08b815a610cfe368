//! Logs of attempts: offsets, gaps, endings.

use proptest::prelude::*;
use slipway_objects::Folder;

use super::*;

const STAGE: &str = "01ARZ3NDEKTSV4RRFFQ69G5FAV";

async fn open(dir: &std::path::Path) -> AttemptLog {
    let objects = Arc::new(Folder::open(dir).await.unwrap());
    let clock = Clock::manual(Timestamp::from_millis(1_000));
    AttemptLog::load(
        objects,
        clock,
        &STAGE.parse().unwrap(),
        &STAGE.parse().unwrap(),
        1,
    )
    .await
    .unwrap()
}

fn frame(offset: u64, bytes: &[u8]) -> Frame {
    Frame {
        offset,
        bytes: Bytes::copy_from_slice(bytes),
        close: None,
    }
}

fn closing(whole: &[u8]) -> Frame {
    Frame {
        offset: whole.len() as u64,
        bytes: Bytes::new(),
        close: Some(blake3::hash(whole).to_hex().to_string()),
    }
}

async fn all(log: &AttemptLog) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let more = log.read(bytes.len() as u64).await.unwrap();
        if more.is_empty() {
            return bytes;
        }
        bytes.extend(more);
    }
}

#[tokio::test]
async fn a_log_survives_a_restart_from_its_last_seal() {
    let dir = tempfile::tempdir().unwrap();
    let big = vec![b'x'; SEAL_BYTES];
    let log = open(dir.path()).await;
    let ack = log.append(frame(0, &big)).await.unwrap();
    assert_eq!((ack.received, ack.durable), (4 << 20, 4 << 20));
    let ack = log.append(frame(4 << 20, b"tail")).await.unwrap();
    assert_eq!((ack.received, ack.durable), ((4 << 20) + 4, 4 << 20));
    drop(log);
    let log = open(dir.path()).await;
    let ack = log.append(frame((4 << 20) + 4, b" more")).await.unwrap();
    assert_eq!(
        ack.rewind,
        Some(4 << 20),
        "the unsealed tail is asked for again"
    );
    log.append(frame(4 << 20, b"tail more\n")).await.unwrap();
    let whole = [&big[..], b"tail more\n"].concat();
    let ack = log.append(closing(&whole)).await.unwrap();
    assert!(ack.complete && ack.durable == whole.len() as u64);
    drop(log);
    let log = open(dir.path()).await;
    assert_eq!(all(&log).await, whole);
    assert!(log.progress().ended);
}

#[tokio::test]
async fn a_wrong_digest_starts_the_log_over() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path()).await;
    log.append(frame(0, b"hello\n")).await.unwrap();
    let ack = log.append(closing(b"other!")).await.unwrap();
    assert_eq!(ack.rewind, Some(0));
    log.append(frame(0, b"other!")).await.unwrap();
    assert!(log.append(closing(b"other!")).await.unwrap().complete);
    assert_eq!(all(&log).await, b"other!");
}

#[tokio::test]
async fn the_last_lines_are_given_with_their_offsets() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path()).await;
    log.append(frame(0, b"one\ntwo\r\nthree\nfour"))
        .await
        .unwrap();
    let lines = log.last_lines(2).await.unwrap();
    let got: Vec<(u64, &str)> = lines.iter().map(|l| (l.offset, l.text.as_str())).collect();
    assert_eq!(got, [(9, "three"), (15, "four")]);
    assert_eq!(lines[0].at_ms, 1_000);
}

#[tokio::test]
async fn a_log_above_its_limit_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path()).await;
    let chunk = vec![b'x'; 32 << 20];
    for n in 0..8 {
        let ack = log.append(frame(n * (32 << 20), &chunk)).await.unwrap();
        assert_eq!(ack.refused, None);
    }
    let ack = log.append(frame(LOG_MAX, b"x")).await.unwrap();
    assert_eq!(ack.refused, Some("log_limit"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Frames lost, repeated, overlapping and cut off by restarts: every byte is there once.
    #[test]
    fn log_resume_exact_offsets(
        whole in proptest::collection::vec(any::<u8>(), 1..2_000),
        steps in proptest::collection::vec((0..2_000_usize, 1..500_usize, any::<bool>()), 0..40),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let dir = tempfile::tempdir().unwrap();
            let mut log = open(dir.path()).await;
            for (from, length, restart) in steps {
                if restart {
                    drop(log);
                    log = open(dir.path()).await;
                }
                let from = from.min(whole.len());
                let to = (from + length).min(whole.len());
                let ack = log.append(frame(from as u64, &whole[from..to])).await.unwrap();
                prop_assert!(ack.received <= whole.len() as u64);
            }
            loop {
                let ack = log.append(closing(&whole)).await.unwrap();
                if ack.complete {
                    break;
                }
                let from = usize::try_from(ack.rewind.unwrap_or(ack.received)).unwrap();
                log.append(frame(from as u64, &whole[from..])).await.unwrap();
            }
            prop_assert_eq!(all(&log).await, whole);
            Ok(())
        })?;
    }
}
