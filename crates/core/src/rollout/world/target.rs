//! The world's target and router: what is seen of them, and what an effect does there, under its fence.

use super::*;

impl World {
    pub(super) fn observe(&mut self) -> Observed {
        let view = |list: Option<&Vec<(String, bool)>>| -> Vec<InstanceView> {
            list.into_iter()
                .flatten()
                .map(|(id, running)| InstanceView {
                    id: id.clone(),
                    address: running.then(|| "10.0.0.1:8080".to_owned()),
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
        let well = TargetView::running(&target.new) >= 2 && !self.faults.unhealthy;
        self.healthy_since = well.then_some(self.healthy_since.unwrap_or(self.now));
        let counters = |version: &str| {
            self.router
                .counters
                .get(version)
                .cloned()
                .unwrap_or_default()
        };
        let traffic = self.router.readable.then(|| TrafficView {
            fence: self.router.seen.map(|seen| seen.fence).unwrap_or_default(),
            weights: self
                .router
                .table
                .iter()
                .flat_map(|table| &table.versions)
                .map(|share| (share.version.clone(), share.weight_bp))
                .collect(),
            new: counters(NEW),
            stable: self
                .state
                .stable
                .as_deref()
                .map(counters)
                .unwrap_or_default(),
        });
        let smoke = match self.faults.smoke_fails {
            true => Smoke::Failed("500".to_owned()),
            false => Smoke::Passed,
        };
        Observed {
            target: Some(target),
            traffic,
            blind_for: Duration::ZERO,
            health: Some(Health {
                ready_for: self.healthy_since.map(|since| self.now.since(since)),
                failing: u32::from(!well && self.healthy_since.is_some()),
                detail: "connection refused".to_owned(),
            }),
            smoke: Some(smoke),
        }
    }

    /// Does an effect as a target or router does; false = refused.
    pub(in crate::rollout) fn effect(&mut self, effect: Effect, fence: Fence) -> bool {
        match effect {
            Effect::EnsureNew => self.ensure(NEW),
            Effect::EnsureStable => {
                let stable = self
                    .state
                    .stable
                    .clone()
                    .expect("there is a stable version");
                self.ensure(&stable);
            }
            Effect::Route { new_bp } => return self.route(new_bp, fence),
            Effect::DrainNew => {}
            Effect::RetireNew => {
                self.target.remove(NEW);
            }
        }
        true
    }

    pub(super) fn ensure(&mut self, version: &str) {
        let list = self.target.entry(version.to_owned()).or_default();
        for (id, running) in instances(version, 2) {
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

    pub(super) fn route(&mut self, new_bp: u32, fence: Fence) -> bool {
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
