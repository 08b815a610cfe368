//! Rows that are asked for at once are read in one statement, on PostgreSQL: what an agent's report or an
//! assignment needs is known by its key, and hundreds ask at the same time. There is no timer: what is alone
//! is read alone.
//!
//! Reads only, and nothing is kept: whoever asks sees what was committed before it asked. SQLite has no round
//! trip to save, and reads each for itself.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::PgPool;
use tokio::sync::{mpsc, oneshot};

use crate::builds::{BuildRow, LayerRow, StageRow};
use crate::error::StoreError;
use crate::queue::QueueRow;
use crate::sql::{self, Rows, args, sql};
use crate::writer::in_background;

/// Questions that wait; beyond it callers wait.
const QUEUE: usize = 1_024;
/// Keys of one statement.
const GROUP: usize = 64;

type Answer<R> = Result<Vec<R>, StoreError>;

struct Asked<R> {
    key: String,
    answer: oneshot::Sender<Answer<R>>,
}

/// How one kind of row is found.
struct Kind<R> {
    /// By one key.
    one: &'static str,
    /// By a JSON array of keys; ordered as the other within each key.
    many: &'static str,
    key: fn(&R) -> &str,
}

/// The door for one kind of row. Cheap to clone.
pub(crate) struct Lookup<R> {
    queue: mpsc::Sender<Asked<R>>,
}

impl<R> Clone for Lookup<R> {
    fn clone(&self) -> Self {
        Self {
            queue: self.queue.clone(),
        }
    }
}

/// All kinds.
#[derive(Clone)]
pub(crate) struct Lookups {
    pub(crate) stages: Lookup<StageRow>,
    pub(crate) builds: Lookup<BuildRow>,
    pub(crate) layers: Lookup<LayerRow>,
    pub(crate) queues: Lookup<QueueRow>,
}

impl Lookups {
    pub(crate) fn start(pool: &PgPool) -> Self {
        Self {
            stages: Lookup::start(
                pool,
                Kind {
                    one: sql!("build_stages/get"),
                    many: sql!("build_stages/get_all.postgres"),
                    key: |row: &StageRow| &row.stage_id,
                },
            ),
            builds: Lookup::start(
                pool,
                Kind {
                    one: sql!("builds/get"),
                    many: sql!("builds/get_all.postgres"),
                    key: |row: &BuildRow| &row.build_id,
                },
            ),
            layers: Lookup::start(
                pool,
                Kind {
                    one: sql!("build_stages/layers"),
                    many: sql!("build_stages/layers_all.postgres"),
                    key: |row: &LayerRow| &row.build_id,
                },
            ),
            queues: Lookup::start(
                pool,
                Kind {
                    one: sql!("build_stages/queue_of_build"),
                    many: sql!("build_stages/queue_of_builds.postgres"),
                    key: |row: &QueueRow| &row.build_id,
                },
            ),
        }
    }
}

impl<R: Rows + Clone + 'static> Lookup<R> {
    fn start(pool: &PgPool, kind: Kind<R>) -> Self {
        let (queue, asked) = mpsc::channel(QUEUE);
        in_background(serve(pool.clone(), asked, kind));
        Self { queue }
    }

    /// The rows of a key.
    pub(crate) async fn ask(&self, key: &str) -> Answer<R> {
        let gone = || StoreError::Unavailable("nobody reads any more".to_owned());
        let (answer, done) = oneshot::channel();
        let key = key.to_owned();
        let asked = Asked { key, answer };
        self.queue.send(asked).await.map_err(|_| gone())?;
        done.await.map_err(|_| gone())?
    }
}

async fn serve<R: Rows + Clone>(pool: PgPool, mut asked: mpsc::Receiver<Asked<R>>, kind: Kind<R>) {
    let mut group: Vec<Asked<R>> = Vec::with_capacity(GROUP);
    while asked.recv_many(&mut group, GROUP).await > 0 {
        let keys: BTreeSet<&str> = group.iter().map(|asked| asked.key.as_str()).collect();
        let found = match keys.len() {
            1 => None,
            _ => many(&pool, &keys, &kind).await.ok(),
        };
        match found {
            Some(mut found) => {
                // The last who asks gets the rows, the others a copy.
                let mut left: BTreeMap<String, usize> = BTreeMap::new();
                for asked in &group {
                    *left.entry(asked.key.clone()).or_default() += 1;
                }
                for asked in group.drain(..) {
                    let more = left.get_mut(&asked.key).map_or(0, |left| {
                        *left -= 1;
                        *left
                    });
                    let rows = match more {
                        0 => found.remove(&asked.key),
                        _ => found.get(&asked.key).cloned(),
                    };
                    asked.answer(Ok(rows.unwrap_or_default()));
                }
            }
            // One key, or one of the rows cannot be read: that is for those who asked for it.
            None => {
                for asked in group.drain(..) {
                    let rows = read(&pool, kind.one, &asked.key).await;
                    asked.answer(rows);
                }
            }
        }
    }
}

async fn many<R: Rows>(
    pool: &PgPool,
    keys: &BTreeSet<&str>,
    kind: &Kind<R>,
) -> Result<BTreeMap<String, Vec<R>>, StoreError> {
    let keys = serde_json::json!(keys).to_string();
    let mut found: BTreeMap<String, Vec<R>> = BTreeMap::new();
    for row in read::<R>(pool, kind.many, &keys).await? {
        let key = (kind.key)(&row).to_owned();
        found.entry(key).or_default().push(row);
    }
    Ok(found)
}

async fn read<R: Rows>(pool: &PgPool, statement: &'static str, key: &str) -> Answer<R> {
    let query = sqlx::query_as_with(statement, sql::postgres(args![key])?);
    Ok(query.fetch_all(pool).await?)
}

impl<R> Asked<R> {
    fn answer(self, rows: Answer<R>) {
        // Whoever asked may have gone.
        let _gone = self.answer.send(rows);
    }
}
