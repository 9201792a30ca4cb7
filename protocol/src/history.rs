//! The history of a run: the fold of the journal's records, with rewinds applied.

use std::collections::BTreeMap;

use crate::early_stopping::SUMS_KEPT;
use crate::ids::{Phase, RunId, ViewId};
use crate::journal::{CommitRecord, EndRecord, Record, TermRecord, ViewRecord};
use crate::messages::EndReason;

/// The part of a commit that a resumed run needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct CommittedStep {
    view: ViewId,
    hash: u64,
    applied: u64,
    fingerprint: Option<[u8; 32]>,
    /// See [`CommitRecord::state_check`].
    state_check: u64,
    /// How many members reported it.
    witnesses: usize,
}

/// The checkpoint from which a resumed run starts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Resume {
    /// Step of the checkpoint.
    pub step: u64,
    /// State digest of the checkpoint.
    pub digest: [u8; 32],
}

/// A run's history so far. [`History::fresh`] for a new run; otherwise [`History::replay`] the journal and choose the
/// checkpoint to continue from with [`History::resume_from`].
#[derive(Clone, PartialEq, Debug, Default)]
pub struct History {
    term: u32,
    run: Option<(RunId, String, String)>,
    commits: BTreeMap<(u64, Phase), CommittedStep>,
    expected: BTreeMap<(u64, Phase), CommittedStep>,
    /// The first sums of each evaluation, for early stopping.
    evaluations: BTreeMap<u64, Vec<f64>>,
    versions: BTreeMap<u64, [u8; 32]>,
    fingerprint: Option<[u8; 32]>,
    mixed: bool,
    /// Members of the last view.
    members: usize,
    last_view: Option<ViewId>,
    /// The last view before the last rewind.
    rewound_in: Option<ViewId>,
    last_commit: Option<CommitRecord>,
    end: Option<EndRecord>,
    resume: Option<Resume>,
    /// Other intact checkpoints.
    fallbacks: Vec<Resume>,
}

/// The journal is not a history, or does not contain a checkpoint.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum HistoryError {
    /// Terms must grow.
    #[error("journal record {index}: term {found} after term {last}: two coordinators wrote this journal")]
    Term {
        /// Number of the record, from 0.
        index: usize,
        /// The term so far.
        last: u32,
        /// The record's term.
        found: u32,
    },
    /// Another run's record.
    #[error("journal record {index}: belongs to another run than the records before it")]
    Run {
        /// Number of the record, from 0.
        index: usize,
    },
    /// A commit that doesn't follow the last one.
    #[error(
        "journal record {index}: commit of step {found} ({phase:?}) after step {last}; the history has a gap"
    )]
    Gap {
        /// Number of the record, from 0.
        index: usize,
        /// The last committed step.
        last: u64,
        /// The record's step.
        found: u64,
        /// The record's phase.
        phase: Phase,
    },
    /// A second commit of a step without a rewind in between.
    #[error("journal record {index}: step {step} ({phase:?}) is committed a second time without a rewind")]
    Twice {
        /// Number of the record, from 0.
        index: usize,
        /// The step of the commit.
        step: u64,
        /// The phase of the commit.
        phase: Phase,
    },
    /// A commit by a view of an older term, or before any term.
    #[error("journal record {index}: view {view:#x} is not of term {term}")]
    View {
        /// Number of the record, from 0.
        index: usize,
        /// The record's view.
        view: u64,
        /// The term so far.
        term: u32,
    },
    /// A checkpoint of an uncommitted step.
    #[error("journal record {index}: version {step} is ahead of the last committed step, {last}")]
    VersionAhead {
        /// Number of the record, from 0.
        index: usize,
        /// The checkpoint's step.
        step: u64,
        /// The last committed step.
        last: u64,
    },
    /// The journal does not name this checkpoint.
    #[error("version {step} is not in the journal; it has {known}")]
    UnknownVersion {
        /// The checkpoint's step.
        step: u64,
        /// The known checkpoints, for display.
        known: String,
    },
    /// The checkpoint's content differs from the journal's record.
    #[error(
        "version {step} has another state digest than the journal says: its files were changed or mixed up"
    )]
    OtherDigest {
        /// The checkpoint's step.
        step: u64,
    },
}

impl History {
    /// The history of a run that hasn't begun.
    #[must_use]
    pub fn fresh() -> Self {
        Self::default()
    }

    /// Reads a journal's records.
    ///
    /// # Errors
    /// When they are not one history: terms that don't grow, another run's records, gaps, double commits.
    pub fn replay<'a>(records: impl IntoIterator<Item = &'a Record>) -> Result<Self, HistoryError> {
        let mut history = Self::fresh();
        for (index, record) in records.into_iter().enumerate() {
            history.fold(index, record)?;
        }
        Ok(history)
    }

    /// The last term taken; 0 if none.
    #[must_use]
    pub fn term(&self) -> u32 {
        self.term
    }

    /// The run's id, from its first term.
    #[must_use]
    pub fn run(&self) -> Option<RunId> {
        self.run.as_ref().map(|(run, _, _)| *run)
    }

    /// Digest of the trajectory keys of the last term.
    #[must_use]
    pub fn config_digest(&self) -> Option<&str> {
        self.run.as_ref().map(|(_, config, _)| config.as_str())
    }

    /// Digest of the dataset version of the last term.
    #[must_use]
    pub fn data_digest(&self) -> Option<&str> {
        self.run.as_ref().map(|(_, _, data)| data.as_str())
    }

    /// The last committed training step, after rewinds; 0 if none.
    #[must_use]
    pub fn last_step(&self) -> u64 {
        self.commits.keys().rev().find(|(_, phase)| *phase == Phase::Train).map_or(0, |(step, _)| *step)
    }

    /// How the run ended, unless a later term was taken.
    #[must_use]
    pub fn end(&self) -> Option<&EndRecord> {
        self.end.as_ref()
    }

    /// Whether the run is over for good.
    #[must_use]
    pub fn is_completed(&self) -> bool {
        self.end.as_ref().is_some_and(|end| end.reason == EndReason::Completed)
    }

    /// Members of the last view if its coordinator died without ending the run: they may still be alive, holding its
    /// state.
    #[must_use]
    pub fn orphans(&self) -> usize {
        self.members
    }

    /// Whether the members of every view so far shared one numerics fingerprint, so that invariant 4 is claimed.
    #[must_use]
    pub fn is_exact(&self) -> bool {
        !self.mixed
    }

    /// The numerics fingerprint of the last view, if its members shared one.
    #[must_use]
    pub fn fingerprint(&self) -> Option<[u8; 32]> {
        self.fingerprint
    }

    /// The checkpoints from which a run may continue, newest first: (step, state digest).
    pub fn versions(&self) -> impl Iterator<Item = (u64, [u8; 32])> + '_ {
        let last = self.last_step();
        self.versions.range(..=last).rev().map(|(step, digest)| (*step, *digest))
    }

    /// Chooses the checkpoint to continue from: the newest of [`History::versions`] that the store finds intact.
    /// Without a choice the run starts again from its seed.
    ///
    /// # Errors
    /// When the journal doesn't name this checkpoint, or names it with another digest. A checkpoint whose manifest is
    /// durable but whose record is lost doesn't count: it may be a deviant replica's.
    pub fn resume_from(&mut self, step: u64, digest: [u8; 32]) -> Result<(), HistoryError> {
        let journalled = self.versions().find(|(known, _)| *known == step);
        match journalled {
            None => {
                let known: Vec<String> = self.versions().map(|(step, _)| step.to_string()).collect();
                let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                Err(HistoryError::UnknownVersion { step, known })
            }
            Some((_, journalled)) if journalled != digest => Err(HistoryError::OtherDigest { step }),
            Some(_) => {
                self.resume = Some(Resume { step, digest });
                Ok(())
            }
        }
    }

    /// Adds another intact checkpoint, in case a replica proves to have deviated before the newest was made.
    ///
    /// # Errors
    /// As [`History::resume_from`].
    pub fn fall_back_to(&mut self, step: u64, digest: [u8; 32]) -> Result<(), HistoryError> {
        let newest = self.resume;
        self.resume_from(step, digest)?;
        self.fallbacks.extend(std::mem::replace(&mut self.resume, newest));
        Ok(())
    }

    /// The intact checkpoints other than the chosen one.
    pub(crate) fn fallbacks(&self) -> &[Resume] {
        &self.fallbacks
    }

    /// The latest state that the journal proves to be free of deviant replicas. With the commit of a step, all
    /// members agree on the check of the state before it; so an upload of the state before that is the one from which
    /// everybody continued.
    #[must_use]
    pub fn proven_step(&self) -> u64 {
        self.last_step().saturating_sub(2)
    }

    /// The chosen checkpoint.
    #[must_use]
    pub fn resume(&self) -> Option<Resume> {
        self.resume
    }

    /// Applied steps (Adam's t) up to and including `step`.
    #[must_use]
    pub fn applied(&self, step: u64) -> u64 {
        self.commits.get(&(step, Phase::Train)).map_or(0, |mark| mark.applied)
    }

    /// Whether the state of `step` was evaluated.
    #[must_use]
    pub fn is_evaluated(&self, step: u64) -> bool {
        self.commits.contains_key(&(step, Phase::Evaluate))
    }

    /// The valid evaluations, in order: the step and its first sums.
    pub(crate) fn evaluations(&self) -> impl Iterator<Item = (u64, &[f64])> {
        self.evaluations.iter().map(|(step, sums)| (*step, sums.as_slice()))
    }

    /// The commit of this training step, if it is the journal's last one.
    pub(crate) fn last_commit(&self, step: u64) -> Option<&CommitRecord> {
        self.last_commit.as_ref().filter(|commit| commit.key.step == step)
    }

    /// Whether this is the commit of its step: a rewind leaves none of another view.
    pub(crate) fn has(&self, commit: &CommitRecord) -> bool {
        let mark = self.commits.get(&(commit.key.step, commit.key.phase));
        mark.is_some_and(|mark| (mark.view, mark.hash) == (commit.key.view, commit.hash))
    }

    /// The check of the state of `step`, from the next commit or from the state's evaluation, and how many members
    /// reported it.
    pub(crate) fn state_check(&self, step: u64) -> Option<(u64, usize)> {
        let of = |key: (u64, Phase)| self.commits.get(&key).filter(|mark| mark.state_check != 0);
        let after = step.checked_add(1).and_then(|next| of((next, Phase::Train)));
        let evaluated = of((step, Phase::Evaluate));
        let known = after.into_iter().chain(evaluated).max_by_key(|mark| mark.witnesses);
        known.map(|mark| (mark.state_check, mark.witnesses))
    }

    /// Whether a commit that the journal lacks can be its next one, or was lost together with others before it: it
    /// must be of a view that no rewind has left behind. Views are durable before they are announced, so lost commits
    /// are of the last one.
    pub(crate) fn can_adopt(&self, commit: &CommitRecord) -> bool {
        let next = self.last_step() + 1;
        let is_next = commit.key.step == next;
        let is_beyond = commit.key.step > next && self.last_view == Some(commit.key.view);
        (is_next || is_beyond)
            && commit.key.phase == Phase::Train
            && self.rewound_in.is_none_or(|view| commit.key.view > view)
            && commit.key.view.0 >> 32 <= u64::from(self.term)
    }

    /// Adds a journalled commit.
    pub(crate) fn note_commit(&mut self, record: &CommitRecord) {
        let (step, phase) = (record.key.step, record.key.phase);
        let mark = CommittedStep {
            view: record.key.view,
            hash: record.hash,
            applied: record.applied,
            fingerprint: self.fingerprint,
            state_check: record.state_check,
            witnesses: self.members.max(1),
        };
        self.commits.insert((step, phase), mark);
        match phase {
            Phase::Train => self.last_commit = Some(record.clone()),
            Phase::Evaluate => {
                let sums = record.sums.iter().take(SUMS_KEPT).copied().collect();
                self.evaluations.insert(step, sums);
            }
        }
    }

    /// Adds a journalled view.
    pub(crate) fn note_view(&mut self, record: &ViewRecord) {
        self.fingerprint = record.fingerprint;
        self.mixed |= record.fingerprint.is_none();
        self.members = record.view.members.len();
        self.last_view = Some(record.view.id);
    }

    /// Adds a journalled checkpoint.
    pub(crate) fn note_version(&mut self, step: u64, digest: [u8; 32]) {
        self.versions.insert(step, digest);
    }

    /// The hash that a replayed step must have, if it was committed before a rewind by members of this `fingerprint`.
    pub(crate) fn expected_hash(
        &self,
        step: u64,
        phase: Phase,
        fingerprint: Option<[u8; 32]>,
    ) -> Option<u64> {
        let mark = self.expected.get(&(step, phase))?;
        (fingerprint.is_some() && mark.fingerprint == fingerprint && self.is_exact()).then_some(mark.hash)
    }

    /// The digest that a rewritten checkpoint must have.
    pub(crate) fn expected_version(&self, step: u64, fingerprint: Option<[u8; 32]>) -> Option<[u8; 32]> {
        let same = fingerprint.is_some() && self.fingerprint == fingerprint && self.is_exact();
        same.then(|| self.versions.get(&step).copied()).flatten()
    }

    /// Applies the rewind that the machine is about to journal.
    pub(crate) fn rewind(&mut self, to_step: u64, void: bool) {
        self.rewound_in = self.last_view;
        let beyond: Vec<(u64, Phase)> = self.commits.keys().copied().filter(|(s, _)| *s > to_step).collect();
        for key in beyond {
            if let Some(mark) = self.commits.remove(&key) {
                self.expected.insert(key, mark);
            }
        }
        self.evaluations.retain(|step, _| *step <= to_step);
        if self.last_commit.as_ref().is_some_and(|commit| commit.key.step > to_step) {
            self.last_commit = None;
        }
        if void {
            self.expected.retain(|(step, _), _| *step <= to_step);
            self.versions.retain(|step, _| *step <= to_step);
        }
    }

    /// Sizes of the collections that grow with commits, checkpoints and evaluations.
    pub(crate) fn sizes(&self) -> [(&'static str, usize); 4] {
        [
            ("commits", self.commits.len()),
            ("replayed commits", self.expected.len()),
            ("evaluations", self.evaluations.len()),
            ("journalled versions", self.versions.len()),
        ]
    }

    fn fold(&mut self, index: usize, record: &Record) -> Result<(), HistoryError> {
        match record {
            Record::Term(term) => self.fold_term(index, term)?,
            Record::View(view) => self.fold_view(index, view)?,
            Record::Commit(commit) => {
                self.check_view(index, commit.key.view.0)?;
                self.fold_commit(index, commit)?;
            }
            Record::Adopted(commit) if self.can_adopt(commit) => self.note_commit(commit),
            Record::Adopted(commit) => self.fold_commit(index, commit)?,
            Record::Version { step, digest } => {
                let last = self.last_step();
                if *step > last {
                    return Err(HistoryError::VersionAhead { index, step: *step, last });
                }
                self.note_version(*step, *digest);
            }
            Record::Rewind { to_step, void, .. } => self.rewind(*to_step, *void),
            Record::Stop { .. } => {}
            Record::End(end) => {
                self.end = Some(end.clone());
                // Every member was notified of the end.
                self.members = 0;
            }
        }
        Ok(())
    }

    fn fold_term(&mut self, index: usize, record: &TermRecord) -> Result<(), HistoryError> {
        if record.term <= self.term {
            return Err(HistoryError::Term { index, last: self.term, found: record.term });
        }
        if self.run().is_some_and(|run| run != record.run) {
            return Err(HistoryError::Run { index });
        }
        self.term = record.term;
        self.run = Some((record.run, record.config_digest.clone(), record.data_digest.clone()));
        self.end = None;
        Ok(())
    }

    fn fold_view(&mut self, index: usize, record: &ViewRecord) -> Result<(), HistoryError> {
        self.check_view(index, record.view.id.0)?;
        self.note_view(record);
        Ok(())
    }

    fn fold_commit(&mut self, index: usize, record: &CommitRecord) -> Result<(), HistoryError> {
        let (step, phase) = (record.key.step, record.key.phase);
        if self.commits.contains_key(&(step, phase)) {
            return Err(HistoryError::Twice { index, step, phase });
        }
        let last = self.last_step();
        let follows = match phase {
            Phase::Train => last.checked_add(1) == Some(step),
            Phase::Evaluate => step == last && step > 0,
        };
        if !follows {
            return Err(HistoryError::Gap { index, last, found: step, phase });
        }
        self.note_commit(record);
        Ok(())
    }

    fn check_view(&self, index: usize, view: u64) -> Result<(), HistoryError> {
        if self.term == 0 || view >> 32 != u64::from(self.term) {
            return Err(HistoryError::View { index, view, term: self.term });
        }
        Ok(())
    }
}
