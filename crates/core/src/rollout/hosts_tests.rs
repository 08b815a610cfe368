//! Rules of several hosts, by example and as properties. Owns no rule of its own.

use proptest::prelude::*;

use super::*;
use crate::traffic::Stickiness;

fn host(name: &str, engine: Option<u64>, router: Option<u64>) -> HostView {
    HostView {
        name: name.to_owned(),
        engine_silent: engine.map(Duration::from_secs),
        router_silent: router.map(Duration::from_secs),
        why: "no answer".to_owned(),
    }
}

fn table(weights: &[(&str, u32, &[&str])]) -> TrafficTable {
    let share = |(version, weight_bp, hosts): &(&str, u32, &[&str])| Share {
        version: (*version).to_owned(),
        weight_bp: *weight_bp,
        instances: hosts
            .iter()
            .map(|host| Instance {
                id: at_host(&format!("slipway-{version}-1"), host),
                address: "10.0.0.1:80".to_owned(),
            })
            .collect(),
    };
    TrafficTable {
        service: "shop/production".to_owned(),
        hosts: vec![],
        listen: "0.0.0.0:80".to_owned(),
        versions: weights.iter().map(share).collect(),
        upstream_timeout_ms: 1_000,
        canary: "new".to_owned(),
        stickiness: Stickiness::None,
        lease: None,
    }
}

#[test]
fn a_dead_host_leaves_soon_a_cut_one_after_its_lease_and_a_dead_engine_alone_never() {
    assert!(!host("a", None, None).is_out());
    assert!(!host("a", Some(14), Some(14)).is_out());
    assert!(host("a", Some(15), Some(15)).is_out());
    assert!(!host("a", None, Some(74)).is_out());
    assert!(host("a", None, Some(75)).is_out());
    assert!(!host("a", Some(9_000), None).is_out());
}

#[test]
fn forward_waits_for_whoever_may_have_traffic_and_back_waits_for_nobody_silent() {
    let cut = [
        host("a", None, None),
        host("b", None, None),
        host("c", None, Some(5)),
    ];
    assert!(
        unheard(&cut, false)
            .unwrap()
            .contains("host c: unreachable")
    );
    let at = Timestamp::from_millis;
    let first = troubles(&cut, &[], at(5));
    assert_eq!(first, troubles(&cut, &first, at(9)), "known since then");
    assert_eq!(unheard(&cut, true), None);
    let dead = [
        host("a", None, None),
        host("b", None, None),
        host("c", Some(20), Some(20)),
    ];
    assert_eq!(unheard(&dead, false), None);
    let most = [
        host("a", None, None),
        host("b", Some(20), Some(20)),
        host("c", Some(20), Some(20)),
    ];
    assert!(unheard(&most, false).unwrap().contains("only 1 of 3"));
    assert_eq!(unheard(&most, true), None);
    let one_of_two = [host("a", None, None), host("b", Some(20), Some(20))];
    assert!(unheard(&one_of_two, false).is_some(), "half is not most");
}

#[test]
fn a_host_without_the_new_version_gives_stable_everything() {
    let whole = table(&[("new", 1_000, &["a"]), ("old", 9_000, &["a", "b"])]);
    let a = table_of("a", &whole, None).unwrap();
    assert_eq!((a.weight_of("new"), a.weight_of("old")), (1_000, 9_000));
    let b = table_of("b", &whole, None).unwrap();
    assert_eq!((b.weight_of("new"), b.weight_of("old")), (0, 10_000));
    assert_eq!((b.check(), b.canary.as_str()), (Ok(()), ""));
    assert_eq!(table_of("c", &whole, None), None, "nothing is there");
    let known = table(&[("old", 10_000, &["c"])]);
    let c = table_of("c", &whole, Some(&known)).unwrap();
    assert_eq!(c.weight_of("old"), 10_000, "what its router knows goes on");
}

#[test]
fn a_router_that_went_back_by_itself_is_apart_and_a_host_without_the_new_version_is_not() {
    let fence = Fence {
        token: 3,
        generation: 4,
    };
    let shared = table(&[("new", 1_000, &["a"]), ("old", 9_000, &["a"])]);
    let alone = table(&[("old", 10_000, &["b"])]);
    let mut reverted = table(&[("new", 0, &["c"]), ("old", 10_000, &["c"])]);
    reverted.lease = None;
    let of = |name: &str, table: &TrafficTable| (name.to_owned(), (fence, Some(table.clone())));
    let seen = agreed(&BTreeMap::from([
        of("a", &shared),
        of("d", &shared),
        of("b", &alone),
    ]));
    assert_eq!((seen.fence, seen.apart.len()), (fence, 0));
    assert_eq!(seen.table.unwrap().weight_of("new"), 1_000);
    let seen = agreed(&BTreeMap::from([
        of("a", &shared),
        of("d", &shared),
        of("c", &reverted),
    ]));
    assert_eq!(seen.apart, ["c"]);
    let older = (
        Fence {
            token: 3,
            generation: 3,
        },
        Some(alone.clone()),
    );
    let seen = agreed(&BTreeMap::from([of("a", &shared), ("b".to_owned(), older)]));
    assert_eq!(
        seen.apart,
        ["b"],
        "an older fence is apart, whatever it says"
    );
}

fn of(version: &str, host: &str, count: u32) -> Vec<InstanceView> {
    let one = |number| InstanceView {
        id: at_host(&format!("slipway-{version}-{number}"), host),
        address: Some("10.0.0.1:80".to_owned()),
        exits: 0,
        oom: false,
    };
    (1..=count).map(one).collect()
}

#[test]
fn what_is_left_on_a_silent_host_holds_nobody_up_and_what_is_left_elsewhere_does() {
    let left = of("new", "b", 1);
    let heard = [host("a", None, None), host("b", None, None)];
    assert!(!is_gone(&left, &heard) && is_gone(&[], &heard));
    assert!(is_gone(
        &left,
        &[host("a", None, None), host("b", None, Some(4))]
    ));
    assert!(!is_gone(&left, &[]), "one host alone: what is left is left");
}

#[test]
fn every_host_has_a_canary_and_one_that_is_out_is_not_waited_for() {
    let mut hosts = vec![
        host("a", None, None),
        host("b", None, None),
        host("c", None, None),
    ];
    let mut seen = of("new", "a", 1);
    seen.extend(of("new", "b", 1));
    assert!(
        !standing(&seen, &hosts, 1, 6, false).all_run,
        "c has none yet"
    );
    hosts[2] = host("c", Some(20), Some(20));
    let found = standing(&seen, &hosts, 1, 6, false);
    assert!(found.all_run && found.part_runs);
    assert_eq!(found.taking_part, ["a", "b"]);
    seen[0].address = None;
    let found = standing(&seen, &hosts, 1, 6, false);
    assert!(found.all_exist && !found.all_run && !found.part_runs);
    let dead = Some(20);
    let hosts = [
        host("a", dead, dead),
        host("b", None, None),
        host("c", dead, dead),
    ];
    assert!(
        !standing(&seen, &hosts, 1, 6, false).part_runs,
        "one of three is not most"
    );
    assert!(
        standing(&seen, &hosts, 1, 6, true).part_runs,
        "a rollback takes what is left"
    );
}

proptest! {
    #[test]
    fn every_replica_has_a_host_and_no_host_is_empty(replicas in 1_u32..200, hosts in 1_usize..=100) {
        let each: Vec<u32> = (0..hosts).map(|index| replicas_at(replicas, index, hosts)).collect();
        let sum: u32 = each.iter().sum();
        prop_assert_eq!(sum, replicas.max(u32::try_from(hosts).unwrap()));
        prop_assert!(each.iter().max().unwrap() - each.iter().min().unwrap() <= 1);
    }

    #[test]
    fn no_host_has_less_than_its_share(replicas in 1_u32..200, hosts in 1_usize..=100, weight in 1_u32..=10_000) {
        let count = (u64::from(replicas) * u64::from(weight)).div_ceil(10_000).max(1);
        let count = u32::try_from(count).unwrap();
        for index in 0..hosts {
            let (own, wanted) = (replicas_at(replicas, index, hosts), wanted_at(count, replicas, index, hosts));
            prop_assert!(wanted >= 1 && wanted <= own);
            prop_assert!(u64::from(wanted) * 10_000 >= u64::from(own) * u64::from(weight));
        }
    }

    #[test]
    fn weights_sum_to_everything_on_every_host(new in 0_u32..=10_000, has in proptest::collection::vec((any::<bool>(), any::<bool>(), any::<bool>()), 1..8)) {
        let names: Vec<String> = (0..has.len()).map(|i| format!("h{i}")).collect();
        let with = |which: fn(&(bool, bool, bool)) -> bool| -> Vec<&str> {
            names.iter().zip(&has).filter(|(_, has)| which(has)).map(|(name, _)| name.as_str()).collect()
        };
        let (of_new, of_old) = (with(|has| has.0), with(|has| has.1));
        let whole = table(&[("new", new, &of_new), ("old", 10_000 - new, &of_old)]);
        for (name, has) in names.iter().zip(&has) {
            let known = table(&[("old", 10_000, &[name.as_str()])]);
            let current = has.2.then_some(&known);
            match table_of(name, &whole, current) {
                Some(table) => {
                    prop_assert_eq!(table.check(), Ok(()));
                    let strange = table.versions.iter().flat_map(|share| &share.instances)
                        .any(|one| host_of(&one.id).1 != Some(name));
                    prop_assert!(!strange);
                    prop_assert!(table.weight_of("new") == 0 || has.0);
                }
                None => prop_assert!(!has.1 && !has.2),
            }
        }
    }
}
