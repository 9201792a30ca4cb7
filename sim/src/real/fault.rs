//! The faults, drawn from a seed.

use crate::random::Random;

/// The affected connections of a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Plane {
    /// The control stream, and the bulk transfers of the control plane.
    Control,
    /// Gradients.
    Data,
    /// All connections.
    Whole,
}

/// The direction in which a guest's connections lose data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LostDirection {
    /// Nothing arrives in either direction, and neither side is notified.
    Both,
    /// Nothing from the guest reaches the coordinator.
    ToCoordinator,
    /// Nothing from the coordinator reaches the guest.
    FromCoordinator,
    /// Connections are closed, and new ones too.
    Cut,
}

/// A fault. `pick` chooses among the processes that exist when it is injected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    KillWorker {
        pick: usize,
    },
    StopWorker {
        pick: usize,
        pause_ms: u64,
    },
    TermWorker {
        pick: usize,
    },
    Guest {
        proxied: bool,
    },
    /// Several guests join at once.
    Swarm {
        guests: usize,
    },
    /// A guest joins, and it or its likely donor dies a moment later.
    JoinKill {
        donor: bool,
        pause_ms: u64,
    },
    StopCoordinator {
        pause_ms: u64,
    },
    KillCoordinator {
        pause_ms: u64,
    },
    Partition {
        pick: usize,
        plane: Plane,
        lost: LostDirection,
        pause_ms: u64,
    },
}

/// A name for each kind of fault.
const KINDS: [&str; 12] = [
    "kill",
    "stop",
    "term",
    "guest",
    "swarm",
    "donor-kill",
    "joiner-kill",
    "coordinator-stop",
    "coordinator-kill",
    "control-partition",
    "data-partition",
    "partition",
];

/// All kinds of faults.
pub fn kinds_of_faults() -> impl Iterator<Item = &'static str> {
    KINDS.into_iter()
}

impl Fault {
    /// Draws the next fault and the pause before it, in milliseconds.
    pub(super) fn draw(random: &mut Random) -> (u64, Self) {
        let pause = random.between(300, 900);
        let kind = random.between(0, 19);
        let pick = random.below(1 << 16);
        let long_ms = random.between(200, 3_000);
        let fault = match kind {
            0..=2 => Self::KillWorker { pick },
            3..=5 => Self::StopWorker { pick, pause_ms: long_ms },
            6 => Self::TermWorker { pick },
            7..=9 => Self::Guest { proxied: !pick.is_multiple_of(3) },
            10 => Self::StopCoordinator { pause_ms: long_ms.min(2_000) },
            16 => Self::Swarm { guests: random.below(3) + 2 },
            17..=18 => Self::JoinKill { donor: pick.is_multiple_of(2), pause_ms: random.between(20, 400) },
            11..=12 => Self::KillCoordinator { pause_ms: random.between(0, 1_000) },
            _ => {
                let ways = [
                    LostDirection::Both,
                    LostDirection::ToCoordinator,
                    LostDirection::FromCoordinator,
                    LostDirection::Cut,
                ];
                let lost = ways[random.below(4)];
                let plane = [Plane::Control, Plane::Data, Plane::Whole][random.below(3)];
                // Gradients that arrive late do no harm: broken connections are the harder test.
                let lost = if plane == Plane::Data && lost == LostDirection::Both {
                    LostDirection::Cut
                } else {
                    lost
                };
                Self::Partition { pick, plane, lost, pause_ms: long_ms }
            }
        };
        (pause, fault)
    }

    /// The kind's name in tables.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::KillWorker { .. } => "kill",
            Self::StopWorker { .. } => "stop",
            Self::TermWorker { .. } => "term",
            Self::Guest { .. } => "guest",
            Self::StopCoordinator { .. } => "coordinator-stop",
            Self::KillCoordinator { .. } => "coordinator-kill",
            Self::Swarm { .. } => "swarm",
            Self::JoinKill { donor: true, .. } => "donor-kill",
            Self::JoinKill { donor: false, .. } => "joiner-kill",
            Self::Partition { plane: Plane::Control, .. } => "control-partition",
            Self::Partition { plane: Plane::Data, .. } => "data-partition",
            Self::Partition { plane: Plane::Whole, .. } => "partition",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_draws_the_same_faults_and_sooner_or_later_all_kinds() {
        let draw = || {
            let mut random = Random::stream(4, "faults");
            (0..200).map(|_| Fault::draw(&mut random)).collect::<Vec<_>>()
        };
        let faults = draw();
        assert_eq!(faults, draw());
        assert!(faults.iter().all(|(pause, _)| (300..=900).contains(pause)));
        let kinds: std::collections::BTreeSet<_> = faults.iter().map(|(_, fault)| fault.kind()).collect();
        assert_eq!(kinds, KINDS.into_iter().collect());
    }
}
