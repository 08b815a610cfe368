//! A new version that fills its memory.

use std::time::Duration;

use super::canary::canary;
use super::serving_one;

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_that_fills_its_memory_is_taken_back_and_one_as_full_as_stable_is_not() {
    let (mut world, _one, first) = serving_one().await;
    // Stable is nearly as full: that is how this service is.
    world.fakes.target.fill(&first, 880);
    let (id, _two) = canary(&mut world, &[1_000, 10_000], 600_000, |_| {}).await;
    world.fakes.target.fill(&id, 900);
    world.until(&id, "baked", |row| row.phase == "bake").await;
    looked(&world, &id, 3).await;
    assert_eq!(
        world.row(&id).await.phase,
        "bake",
        "two points are not too much"
    );
    // More than five points above stable's highest.
    world.fakes.target.fill(&id, 950);
    looked(&world, &id, 5).await;
    let row = world.ended(&id).await;
    assert_eq!(row.status, "rolled_back", "{row:#?}");
    assert_eq!(
        row.reason.as_deref(),
        Some(
            "Rolled back: an instance of the new version uses 95.0 % of its memory (limit 93.0 %)."
        )
    );
    assert_eq!(world.serving("production").await, Some(first));
}

async fn looked(world: &super::World, id: &str, times: usize) {
    for _ in 0..6_000 {
        let ticks = world.db.gate_ticks(id, 0, 10_000).await.unwrap();
        if ticks.iter().filter(|tick| tick.source == "memory").count() >= times {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never looked {times} times at memory");
}
