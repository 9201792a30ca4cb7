//! What goes wrong, drawn from a seed.

use crate::random::Random;

/// Which way of a guest's control connection is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lost {
    /// Nothing arrives, neither way, and nobody is told.
    Both,
    /// The coordinator hears nothing of the guest.
    ToCoordinator,
    /// The guest hears nothing of the coordinator.
    FromCoordinator,
    /// Connections are closed, and new ones too.
    Cut,
}

/// One fault. `pick` chooses among the processes that are there when it strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    KillWorker { pick: usize },
    StopWorker { pick: usize, pause_ms: u64 },
    TermWorker { pick: usize },
    Guest { proxied: bool },
    StopCoordinator { pause_ms: u64 },
    KillCoordinator { pause_ms: u64 },
    Partition { pick: usize, lost: Lost, pause_ms: u64 },
}

impl Fault {
    /// The next fault and the pause before it, in milliseconds.
    pub(super) fn draw(random: &mut Random) -> (u64, Self) {
        let pause = random.between(300, 900);
        let kind = random.between(0, 15);
        let pick = random.below(1 << 16);
        let long_ms = random.between(200, 3_000);
        let fault = match kind {
            0..=2 => Self::KillWorker { pick },
            3..=5 => Self::StopWorker { pick, pause_ms: long_ms },
            6 => Self::TermWorker { pick },
            7..=9 => Self::Guest { proxied: !pick.is_multiple_of(3) },
            10 => Self::StopCoordinator { pause_ms: long_ms.min(2_000) },
            11..=12 => Self::KillCoordinator { pause_ms: random.between(0, 1_000) },
            _ => {
                let lost =
                    [Lost::Both, Lost::ToCoordinator, Lost::FromCoordinator, Lost::Cut][random.below(4)];
                Self::Partition { pick, lost, pause_ms: long_ms }
            }
        };
        (pause, fault)
    }

    /// One word for tables.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::KillWorker { .. } => "kill",
            Self::StopWorker { .. } => "stop",
            Self::TermWorker { .. } => "term",
            Self::Guest { .. } => "guest",
            Self::StopCoordinator { .. } => "coordinator-stop",
            Self::KillCoordinator { .. } => "coordinator-kill",
            Self::Partition { .. } => "partition",
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
        assert_eq!(kinds.len(), 7, "{kinds:?}");
    }
}
