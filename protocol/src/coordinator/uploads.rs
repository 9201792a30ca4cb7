//! Which checkpoints are on their way, which are whole, and who has failed to bring one.

use std::collections::BTreeSet;

use crate::Millis;
use crate::history::Resume;
use crate::ids::MemberId;

#[derive(Debug)]
pub(super) struct Uploads {
    pub(super) in_flight: Option<Upload>,
    /// Step of a checkpoint that is written and whose record is being appended to the journal.
    pub(super) recording: Option<u64>,
    /// The checkpoint in `recording`, if it was lost in the meantime.
    pub(super) lost: Option<u64>,
    pub(super) durable: Option<(u64, [u8; 32])>,
    /// All checkpoints of this term, in order, and the one from which it started.
    pub(super) known: Vec<(u64, [u8; 32])>,
    /// The step of the last requested checkpoint.
    pub(super) asked_step: Option<u64>,
    pub(super) asked_at: Millis,
    /// One was due during another upload, or a person asked.
    pub(super) owed: bool,
    /// Steps of requested checkpoints that have neither arrived nor failed.
    pub(super) awaited: BTreeSet<u64>,
    /// Those that a rewind made void: they may be a deviant replica's, and may still arrive.
    pub(super) void: BTreeSet<u64>,
}

impl Uploads {
    pub(super) fn new(resume: Option<Resume>, fallbacks: &[Resume], now: Millis) -> Self {
        let durable = resume.map(|resume| (resume.step, resume.digest));
        let asked_step = resume.map(|resume| resume.step);
        let fallbacks = fallbacks.iter().map(|whole| (whole.step, whole.digest));
        let mut known: Vec<(u64, [u8; 32])> = fallbacks.chain(durable).collect();
        known.sort_unstable_by_key(|(step, _)| *step);
        Self {
            in_flight: None,
            recording: None,
            lost: None,
            durable,
            known,
            asked_step,
            asked_at: now,
            owed: false,
            awaited: BTreeSet::new(),
            void: BTreeSet::new(),
        }
    }

    pub(super) fn request(&mut self) {
        self.owed = true;
    }

    pub(super) fn owe(&mut self) {
        self.owed = true;
    }

    pub(super) fn is_owed(&self) -> bool {
        self.owed
    }

    pub(super) fn since_ms(&self, now: Millis) -> u64 {
        now.saturating_sub(self.asked_at)
    }

    pub(super) fn start_clock(&mut self, now: Millis) {
        self.asked_at = now;
    }

    /// Whether a checkpoint of `step` may be requested with its commit: one at a time, and not twice.
    pub(super) fn can_ask(&self, step: u64) -> bool {
        self.in_flight.is_none() && self.asked_step != Some(step)
    }

    /// Whether the last requested checkpoint is of this step.
    pub(super) fn has_asked(&self, step: u64) -> bool {
        self.asked_step == Some(step)
    }

    pub(super) fn durable_step(&self) -> Option<u64> {
        self.durable.map(|(step, _)| step)
    }

    /// The state digest of a loadable checkpoint.
    pub(super) fn digest(&self, step: u64) -> Option<[u8; 32]> {
        self.known.iter().rev().find(|(known, _)| *known == step).map(|(_, digest)| *digest)
    }

    /// The newest checkpoint at or before `step`.
    pub(super) fn newest_until(&self, step: u64) -> Option<u64> {
        self.known.iter().map(|(known, _)| *known).filter(|known| *known <= step).max()
    }

    /// History is rewound: checkpoints of later steps are written again.
    pub(super) fn rewind(&mut self, to_step: u64) {
        self.known.retain(|(known, _)| *known <= to_step);
        self.durable = self.known.iter().max_by_key(|(known, _)| *known).copied();
        self.asked_step = self.asked_step.filter(|step| *step <= to_step);
    }

    /// A checkpoint is damaged: fall back to the one before. Returns false if there is none.
    pub(super) fn pass_over(&mut self, step: u64) -> bool {
        if self.digest(step).is_none() || !self.known.iter().any(|(known, _)| *known < step) {
            return false;
        }
        self.forget(step);
        true
    }

    /// A checkpoint is damaged and may be written again.
    pub(super) fn forget(&mut self, step: u64) {
        self.known.retain(|(known, _)| *known != step);
        self.durable = self.known.iter().max_by_key(|(known, _)| *known).copied();
        self.asked_step = self.asked_step.filter(|asked| *asked != step);
    }

    /// All checkpoints are gone, the one being recorded included.
    pub(super) fn lose_all(&mut self) {
        self.known.clear();
        self.durable = None;
        self.asked_step = None;
        self.in_flight = None;
        self.lost = self.recording.take();
        self.void.append(&mut self.awaited);
    }

    pub(super) fn add_durable(&mut self, step: u64, digest: [u8; 32]) {
        if self.durable.is_none_or(|(durable, _)| step >= durable) {
            self.durable = Some((step, digest));
            self.known.retain(|(known, _)| *known != step);
            self.known.push((step, digest));
        }
    }

    pub(super) fn in_flight(&self) -> Option<Upload> {
        self.in_flight
    }

    /// Whether this member is uploading the checkpoint of this step.
    pub(super) fn is_from(&self, step: u64, from: MemberId) -> bool {
        self.in_flight.is_some_and(|upload| (upload.step, upload.from) == (step, from))
    }

    /// Whether the next event about a checkpoint will arrive without a request.
    pub(super) fn is_busy(&self) -> bool {
        self.in_flight.is_some() || self.recording.is_some()
    }

    pub(super) fn deadline(&self) -> Option<Millis> {
        self.in_flight.map(|upload| upload.until)
    }

    pub(super) fn shift(&mut self, shift: impl Fn(&mut Millis)) {
        if let Some(upload) = &mut self.in_flight {
            shift(&mut upload.until);
        }
    }

    pub(super) fn abandon(&mut self) -> Option<Upload> {
        self.in_flight.take()
    }

    /// A replica deviated: checkpoints after `step` may be its.
    pub(super) fn void_beyond(&mut self, step: u64) {
        self.rewind(step);
        self.in_flight.take_if(|upload| upload.step > step);
        self.void.extend(self.awaited.split_off(&step.saturating_add(1)));
    }

    /// Whether the written checkpoint is the requested one, or is usable although no longer awaited.
    pub(super) fn take_written(&mut self, step: u64) -> bool {
        self.awaited.remove(&step);
        let is_awaited = self.in_flight.take_if(|upload| upload.step == step).is_some();
        is_awaited || !self.void.contains(&step)
    }

    /// Sizes of the collections that grow with checkpoints.
    pub(super) fn sizes(&self) -> [(&'static str, usize); 3] {
        [
            ("versions that may be loaded", self.known.len()),
            ("awaited versions", self.awaited.len()),
            ("void versions", self.void.len()),
        ]
    }

    /// Whether a complete checkpoint is being recorded in the journal.
    pub(super) fn is_recording(&self) -> bool {
        self.recording.is_some()
    }
}

/// An upload that was asked for and has not been recorded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Upload {
    pub(super) step: u64,
    pub(super) from: MemberId,
    pub(super) until: Millis,
}
