//! The world's target and router: what is seen of them, and what an effect does there, under its fence.

use super::*;
use crate::gate::GateReport;

impl World {
    pub(super) fn observe(&mut self) -> Observed {
        let view = |list: Option<&Vec<(String, bool)>>| -> Vec<InstanceView> {
            list.into_iter()
                .flatten()
                .map(|(id, running)| InstanceView {
                    id: id.clone(),
                    address: running.then(|| "10.0.0.1:8080".to_owned()),
                    exits: 0,
                    oom: false,
                })
                .collect()
        };
        let stable = self
            .state
            .stable
            .as_ref()
            .and_then(|version| self.target.get(version));
        let target = TargetView {
            new: view(self.target.get(NEW)),
            stable: view(stable),
        };
        let all = !target.new.is_empty() && target.new.iter().all(|one| one.address.is_some());
        let well = all && !self.faults.unhealthy;
        self.healthy_since = well.then_some(self.healthy_since.unwrap_or(self.now));
        let gates = self.gates();
        let traffic = self.router.readable.then(|| TrafficView {
            fence: self.router.seen.map(|seen| seen.fence).unwrap_or_default(),
            weights: self
                .router
                .table
                .iter()
                .flat_map(|table| &table.versions)
                .map(|share| (share.version.clone(), share.weight_bp))
                .collect(),
            leased: self.router.leased,
            tripped: self.router.tripped.clone(),
            apart: Vec::new(),
        });
        let smoke = match self.faults.smoke_fails {
            true => Smoke::Failed("500".to_owned()),
            false => Smoke::Passed,
        };
        Observed {
            refused: None,
            target: Some(target),
            traffic,
            blind_for: Duration::ZERO,
            gates,
            health: Some(Health {
                ready_for: self.healthy_since.map(|since| self.now.since(since)),
                failing: u32::from(!well && self.healthy_since.is_some()),
                detail: "connection refused".to_owned(),
            }),
            smoke: Some(smoke),
            ..Observed::default()
        }
    }

    /// Reads the counters every five seconds while somebody looks, and judges them.
    fn gates(&mut self) -> Option<GateReport> {
        if !self.router.readable {
            return None;
        }
        let counts = |version: Option<&str>| {
            let counted = version.and_then(|version| self.router.counters.get(version));
            counted.cloned().unwrap_or_default()
        };
        let reading = Reading {
            boot_id: "b1".to_owned(),
            at: self.now.as_millis(),
            canary: counts(Some(NEW)),
            stable: counts(self.state.stable.as_deref()),
            parts: std::collections::BTreeMap::new(),
        };
        let looking = matches!(self.state.phase, Phase::Bake | Phase::Watch | Phase::Paused);
        if !looking {
            return None;
        }
        if self.window.0 != self.state.step_idx || self.window.1.is_none() {
            self.window = (self.state.step_idx, Some(reading), vec![]);
        } else if let Some(last) = &self.window.1
            && reading.at - last.at >= 5_000
        {
            let tick = reading.since(last);
            self.window.2.push(tick);
            self.window.1 = Some(reading);
        }
        let windows = Windows {
            baseline: &[],
            ticks: &self.window.2,
            instances: None,
            custom: None,
        };
        judge_gates(&self.plan, &self.state, windows, self.now)
    }

    /// Does an effect as a target or router does; false = refused.
    pub(in crate::rollout) fn effect(&mut self, effect: Effect, fence: Fence) -> bool {
        match effect {
            Effect::EnsureNew { count } => self.ensure(NEW, count),
            Effect::EnsureStable => {
                let stable = self
                    .state
                    .stable
                    .clone()
                    .expect("there is a stable version");
                self.ensure(&stable, 2);
            }
            Effect::Route { new_bp } => {
                let leased = new_bp > 0 && self.plan.kind == Kind::Rollout;
                return self.route(new_bp, fence, leased);
            }
            Effect::Seal => return self.route(FULL_BP, fence, false),
            Effect::ParkStable { keep } => {
                let stable = self.state.stable.clone().unwrap_or_default();
                for one in self
                    .target
                    .get_mut(&stable)
                    .into_iter()
                    .flatten()
                    .skip(keep as usize)
                {
                    one.1 = false;
                }
            }
            Effect::DrainNew => {}
            Effect::RetireNew => {
                self.target.remove(NEW);
            }
        }
        true
    }

    pub(super) fn ensure(&mut self, version: &str, count: u32) {
        let list = self.target.entry(version.to_owned()).or_default();
        for (id, running) in instances(version, count) {
            match list.iter_mut().find(|(known, _)| *known == id) {
                Some((_, alive)) => *alive = true,
                None => {
                    self.creations += 1;
                    self.started_images.push(self.plan.new.image.clone());
                    list.push((id, running));
                }
            }
        }
    }

    pub(super) fn route(&mut self, new_bp: u32, fence: Fence, leased: bool) -> bool {
        let stable = self.state.stable.clone();
        let mut weights = vec![(NEW, new_bp)];
        if let Some(stable) = &stable {
            weights.push((stable.as_str(), FULL_BP - new_bp));
        }
        let table = self.table(&weights);
        table.check().expect("a table that may carry traffic");
        match judge_fence(self.router.seen, fence, table.hash()) {
            FenceAnswer::Apply => {
                self.router.seen = Some(Seen {
                    fence,
                    hash: table.hash(),
                });
                self.router.table = Some(table);
                self.router.leased = leased;
                self.router.commits += 1;
                true
            }
            FenceAnswer::Already => true,
            _ => {
                self.router.refused += 1;
                false
            }
        }
    }
}
