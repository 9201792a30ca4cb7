//! Shares by measured speed: a straggler gets fewer microbatches.

use super::machine::Coordinator;
use super::phase_state::Balance;
use crate::Millis;
use crate::assignment::{ranges, shares_from_speed};
use crate::ids::MemberId;
use crate::messages::{Timings, View};

/// Interval between two checks of the balance: steps of a few milliseconds are noise.
const LOOK_EVERY_MS: u64 = 5_000;
/// Minimum number of steps per check.
const LOOK_STEPS: u32 = 16;
/// Consecutive checks that must agree before the run rebalances.
const LOOKS: u32 = 2;
/// Weight of the newest step in a member's speed: an average over about the last twenty.
const NEWEST: f64 = 0.1;
/// Rebalancing must save this fraction of a step to be worth a view.
const GAIN_MIN: f64 = 0.15;

impl Coordinator {
    /// Shares by speed; equal while no speed is known.
    pub(super) fn shares(speeds: &[f64]) -> Vec<u32> {
        if speeds.iter().all(|speed| *speed <= 0.0) {
            vec![1; speeds.len()]
        } else {
            shares_from_speed(speeds)
        }
    }

    pub(super) fn view_began(&mut self, now: Millis) {
        self.balance = Balance { looked_at: now, steps: 0, unbalanced: 0 };
    }

    /// Updates the members' speeds from a committed training step, and checks the balance when that is due.
    pub(super) fn measure(&mut self, now: Millis, timings: &[(MemberId, Timings)]) {
        self.balance.steps = self.balance.steps.saturating_add(1);
        for (id, timings) in timings {
            let us = f64::from(timings.compute_us) + f64::from(timings.data_us);
            if us <= 0.0 || timings.samples == 0 {
                continue;
            }
            let speed = f64::from(timings.samples) * 1e6 / us;
            if let Some(member) = self.roster.get_mut(*id) {
                member.speed =
                    if member.speed > 0.0 { member.speed + NEWEST * (speed - member.speed) } else { speed };
            }
        }
        let is_due =
            now.saturating_sub(self.balance.looked_at) >= LOOK_EVERY_MS && self.balance.steps >= LOOK_STEPS;
        if is_due {
            let unbalanced = if self.is_unbalanced() { self.balance.unbalanced + 1 } else { 0 };
            self.balance = Balance { looked_at: now, steps: 0, unbalanced };
        }
    }

    /// Whether the microbatches should be reassigned.
    pub(super) fn wants_balance(&self) -> bool {
        self.balance.unbalanced >= LOOKS
    }

    /// Whether other shares would shorten steps by [`GAIN_MIN`].
    fn is_unbalanced(&self) -> bool {
        let Some(view) = self.view.as_ref().filter(|view| view.members.len() > 1) else { return false };
        let speeds: Vec<f64> = view
            .members
            .iter()
            .map(|info| self.roster.get(info.member).map_or(0.0, |member| member.speed))
            .collect();
        if speeds.iter().any(|speed| *speed <= 0.0) {
            return false;
        }
        let now = self.step_cost(&shares_of(view), &speeds);
        let then = self.step_cost(&Self::shares(&speeds), &speeds);
        now > 0.0 && then < now * (1.0 - GAIN_MIN)
    }

    /// The slowest member's time for a whole batch, in units of microbatches.
    fn step_cost(&self, shares: &[u32], speeds: &[f64]) -> f64 {
        let geometry = &self.plan.geometry;
        let count = geometry.batch.div_ceil(geometry.microbatch.max(1));
        let costs =
            ranges(shares, count).into_iter().zip(speeds).map(|(range, speed)| range.len() as f64 / speed);
        costs.fold(0.0, f64::max)
    }

    /// Names the slow members, for display.
    pub(super) fn describe_balance(&self) -> String {
        let Some(view) = &self.view else { return String::new() };
        let speeds = view.members.iter().filter_map(|info| self.roster.get(info.member));
        let speeds: Vec<(f64, &str)> = speeds.map(|member| (member.speed, member.name.as_str())).collect();
        let slowest = speeds.iter().copied().min_by(|a, b| a.0.total_cmp(&b.0));
        let fastest = speeds.iter().map(|(speed, _)| *speed).fold(0.0, f64::max);
        match slowest {
            Some((speed, name)) if speed > 0.0 => {
                format!(
                    "{name} is {:.1} times slower than the fastest and gets fewer microbatches",
                    fastest / speed
                )
            }
            _ => "shares follow the measured speeds".to_owned(),
        }
    }
}

fn shares_of(view: &View) -> Vec<u32> {
    view.members.iter().map(|info| info.share).collect()
}
