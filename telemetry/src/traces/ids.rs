//! Ids that coordinator and workers derive independently.

use std::time::{SystemTime, UNIX_EPOCH};

/// Identifies the trace of one step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StepId {
    /// The run's UUID.
    pub run: [u8; 16],
    /// The coordinator's term.
    pub term: u32,
    /// The step, from 1.
    pub step: u64,
    /// Whether the trace covers the evaluation of that step's state.
    pub is_evaluation: bool,
}

impl StepId {
    /// The trace's id: the first 16 bytes of BLAKE3 over the four fields.
    #[must_use]
    pub fn trace(&self) -> [u8; 16] {
        first(&self.hasher(b"trace"))
    }

    /// The id of the span of the whole step.
    #[must_use]
    pub fn root(&self) -> [u8; 8] {
        first(&self.hasher(b"step"))
    }

    /// The id of a part: a retried step has several parts of one name, which end at different times.
    pub(super) fn part(&self, who: u64, name: &str, end: SystemTime) -> [u8; 8] {
        let since = end.duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut hasher = self.hasher(b"part");
        hasher.update(&who.to_le_bytes()).update(&since.as_nanos().to_le_bytes()).update(name.as_bytes());
        first(&hasher)
    }

    fn hasher(&self, what: &[u8]) -> blake3::Hasher {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.run).update(&self.term.to_le_bytes()).update(&self.step.to_le_bytes());
        hasher.update(&[u8::from(self.is_evaluation)]).update(what);
        hasher
    }
}

fn first<const N: usize>(hasher: &blake3::Hasher) -> [u8; N] {
    let mut bytes = [0; N];
    hasher.finalize_xof().fill(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn ids_are_the_same_everywhere_and_no_two_steps_share_one() {
        let id = StepId { run: [7; 16], term: 2, step: 3, is_evaluation: false };
        let others = [
            StepId { run: [8; 16], ..id },
            StepId { term: 3, ..id },
            StepId { step: 2, ..id },
            StepId { is_evaluation: true, ..id },
        ];
        let traces: BTreeSet<_> = others.iter().chain([&id]).map(StepId::trace).collect();
        assert_eq!(traces.len(), 5);
        let at = UNIX_EPOCH;
        let parts =
            BTreeSet::from([id.root(), id.part(1, "a", at), id.part(2, "a", at), id.part(1, "b", at)]);
        assert_eq!(parts.len(), 4);
        // Other builds must derive the same ids: they are part of the data sent.
        let hex: String = id.trace().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "a4e6bab20bd10841d81a56e7763cc4cc");
    }
}
