//! The checkers: they see everything that happens and know nothing of how it is done.
//!
//! Each function takes in one observation and says what is wrong with it, naming the invariant of the design that
//! it breaks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use protocol::ids::{MemberId, Phase, StepKey};
use protocol::journal::Record;
use protocol::messages::{Commit, Ready};

use crate::scenario::Scenario;
use crate::toy::State;

/// What is wrong.
pub(crate) type Finding = Result<(), String>;

/// A quiet single-worker run of the same scenario: what every other run must reproduce bit for bit.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reference {
    /// State check by step.
    pub checks: BTreeMap<u64, u64>,
    /// Journalled hash by step and phase.
    pub hashes: BTreeMap<(u64, Phase), u64>,
    /// Digest of the final state.
    pub digest: [u8; 32],
}

/// What one step of one view computed: microbatch, member, samples.
type Computed = BTreeMap<u32, (MemberId, Vec<u64>)>;

/// What was seen so far, over all lives of a run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Watch {
    reference: Option<Arc<Reference>>,
    /// Commits after rewinds: what the bytes on the disk say.
    history: BTreeMap<(u64, Phase), (StepKey, u64)>,
    /// Every hash that was ever committed and not voided, rewound or not.
    committed: BTreeMap<(u64, Phase), u64>,
    consumed: BTreeMap<u64, Vec<u64>>,
    /// Of every commit, should the journal lose it with its host.
    lost_samples: BTreeMap<StepKey, Vec<u64>>,
    computed: BTreeMap<StepKey, Computed>,
    ready: BTreeMap<StepKey, BTreeSet<MemberId>>,
    /// Slices of a step that reached a member.
    heard: BTreeMap<(MemberId, StepKey), BTreeSet<u32>>,
    members: BTreeMap<u64, BTreeSet<MemberId>>,
    checks: BTreeMap<u64, u64>,
    journalled_versions: BTreeSet<u64>,
    term: u32,
    /// A replica was made wrong on purpose: bits are compared at the end only.
    pub lenient: bool,
}

impl Watch {
    /// A watch that knows what the run must come to.
    #[must_use]
    pub(crate) fn new(reference: Option<Arc<Reference>>) -> Self {
        Self { reference, ..Self::default() }
    }

    /// A record is on the disk.
    ///
    /// # Errors
    /// When it breaks invariant 1, 2 or 4.
    pub(crate) fn on_journalled(&mut self, scenario: &Scenario, record: &Record) -> Finding {
        match record {
            Record::Term(term) if term.term <= self.term => {
                return Err(format!("one history: term {} after term {}", term.term, self.term));
            }
            Record::Term(term) => self.term = term.term,
            Record::View(view) => {
                let members = view.view.members.iter().map(|info| info.member).collect();
                self.members.insert(view.view.id.0, members);
            }
            Record::Commit(commit) => return self.on_committed(scenario, commit.key, commit.hash),
            Record::Adopted(commit) => return self.on_adopted(commit.key, commit.hash),
            Record::Version { step, .. } => {
                self.journalled_versions.insert(*step);
            }

            Record::Rewind { to_step, void, .. } => {
                self.history.retain(|(step, _), _| step <= to_step);
                self.consumed.retain(|step, _| step <= to_step);
                if *void {
                    self.committed.retain(|(step, _), _| step <= to_step);
                    self.checks.retain(|step, _| step <= to_step);
                    self.journalled_versions.retain(|step| step <= to_step);
                }
            }
            Record::Stop { .. } | Record::End(_) => {}
        }
        Ok(())
    }

    /// A new coordinator has read the journal: what the host's crash took from it is no history.
    pub(crate) fn on_reopened(&mut self, records: &[Record]) {
        self.history.clear();
        self.journalled_versions.clear();
        for record in records {
            match record {
                Record::Commit(commit) | Record::Adopted(commit) => {
                    self.history.insert((commit.key.step, commit.key.phase), (commit.key, commit.hash));
                }
                Record::Rewind { to_step, void, .. } => {
                    self.history.retain(|(step, _), _| step <= to_step);
                    if *void {
                        self.journalled_versions.retain(|step| step <= to_step);
                    }
                }
                Record::Version { step, .. } => {
                    self.journalled_versions.insert(*step);
                }

                _ => {}
            }
        }
        let last = self.history.keys().map(|(step, _)| *step).max().unwrap_or(0);
        self.consumed.retain(|step, _| *step <= last);
    }

    /// The journal lost it and has it again: it must be what it was.
    fn on_adopted(&mut self, key: StepKey, hash: u64) -> Finding {
        let last = self.history.keys().rev().find(|(_, phase)| *phase == Phase::Train).map_or(0, |(s, _)| *s);
        if key.step != last + 1 || self.committed.get(&(key.step, key.phase)) != Some(&hash) {
            return Err(format!(
                "one history: step {} was adopted after step {last} and never committed",
                key.step
            ));
        }
        self.history.insert((key.step, key.phase), (key, hash));
        if let Some(samples) = self.lost_samples.get(&key) {
            self.consumed.insert(key.step, samples.clone());
        }
        Ok(())
    }

    fn on_committed(&mut self, scenario: &Scenario, key: StepKey, hash: u64) -> Finding {
        let (step, phase) = (key.step, key.phase);
        let last = self.history.keys().rev().find(|(_, phase)| *phase == Phase::Train).map_or(0, |(s, _)| *s);
        let follows = if phase == Phase::Train { step == last + 1 } else { step == last };
        if !follows {
            return Err(format!("one history: the commit of step {step} ({phase:?}) follows step {last}"));
        }
        if self.history.insert((step, phase), (key, hash)).is_some() {
            return Err(format!("one history: step {step} ({phase:?}) was committed twice"));
        }
        let before = *self.committed.entry((step, phase)).or_insert(hash);
        if before != hash && !self.lenient {
            return Err(format!(
                "one history: step {step} ({phase:?}) was {before:016x} and came back as {hash:016x}"
            ));
        }
        if let Some(reference) = &self.reference
            && !self.lenient
            && reference.hashes.get(&(step, phase)) != Some(&hash)
        {
            return Err(format!("bit-exact: the gradient of step {step} ({phase:?}) is not the quiet run's"));
        }
        self.check_ready(key)?;
        self.check_samples(scenario, key)
    }

    /// Commit only when every member of the view has said Ready for this very key.
    fn check_ready(&self, key: StepKey) -> Finding {
        let none = BTreeSet::new();
        let ready = self.ready.get(&key).unwrap_or(&none);
        let Some(members) = self.members.get(&key.view.0) else {
            return Err(format!(
                "one history: step {} was committed in a view that isn't journalled",
                key.step
            ));
        };
        match members.difference(ready).next() {
            Some(member) => Err(format!(
                "one history: step {} ({:?}) was committed before member {:#x} was ready",
                key.step, key.phase, member.0
            )),
            None => Ok(()),
        }
    }

    /// Every microbatch was computed once, and its samples are noted for the epoch's count.
    fn check_samples(&mut self, scenario: &Scenario, key: StepKey) -> Finding {
        let geometry = &scenario.plan.geometry;
        let plan = match key.phase {
            Phase::Train => geometry.step(key.step),
            Phase::Evaluate => geometry.evaluation(),
        };
        let computed = self.computed.remove(&key).unwrap_or_default();
        if !computed.keys().copied().eq(0..plan.microbatches) {
            let found: Vec<u32> = computed.keys().copied().collect();
            return Err(format!(
                "exactly once: step {} has {} microbatches, computed were {found:?}",
                key.step, plan.microbatches
            ));
        }
        let samples: Vec<u64> = computed.into_values().flat_map(|(_, samples)| samples).collect();
        if samples.len() as u64 != u64::from(plan.samples) {
            return Err(format!("exactly once: step {} has {} samples", key.step, samples.len()));
        }
        if key.phase == Phase::Train {
            self.lost_samples.insert(key, samples.clone());
            self.consumed.insert(key.step, samples);
            self.check_epoch(scenario, key.step)?;
        }
        Ok(())
    }

    /// At an epoch's end each sample has counted once.
    fn check_epoch(&self, scenario: &Scenario, step: u64) -> Finding {
        let geometry = &scenario.plan.geometry;
        let per_epoch = geometry.steps_per_epoch();
        if !step.is_multiple_of(per_epoch) {
            return Ok(());
        }
        let mut counts = vec![0u32; usize::try_from(geometry.samples).unwrap_or(0)];
        for samples in self.consumed.range(step + 1 - per_epoch..=step).map(|(_, samples)| samples) {
            for sample in samples {
                let Some(count) = usize::try_from(*sample).ok().and_then(|at| counts.get_mut(at)) else {
                    return Err(format!("exactly once: sample {sample} is not in the training split"));
                };
                *count += 1;
            }
        }
        match counts.iter().position(|count| *count != 1) {
            Some(sample) => Err(format!(
                "exactly once: sample {sample} counts {} times in the epoch that ends with step {step}",
                counts[sample]
            )),
            None => Ok(()),
        }
    }

    /// A member computed a microbatch.
    ///
    /// # Errors
    /// When another has computed it in the same view.
    pub(crate) fn on_computed(
        &mut self,
        key: StepKey,
        member: MemberId,
        microbatch: u32,
        samples: Vec<u64>,
    ) -> Finding {
        match self.computed.entry(key).or_default().insert(microbatch, (member, samples)) {
            Some((other, _)) if other != member => Err(format!(
                "exactly once: microbatch {microbatch} of step {} was computed by {:#x} and {:#x}",
                key.step, other.0, member.0
            )),
            _ => Ok(()),
        }
    }

    /// A slice reached a member.
    pub(crate) fn on_slice(&mut self, member: MemberId, key: StepKey, slice: u32) {
        self.heard.entry((member, key)).or_default().insert(slice);
    }

    /// A member itself said Ready.
    ///
    /// # Errors
    /// When not every slice of this very view has reached it: what was reduced in another view is void.
    pub(crate) fn on_ready(&mut self, member: MemberId, ready: &Ready, slices: usize) -> Finding {
        self.ready.entry(ready.key).or_default().insert(member);
        let heard = self.heard.get(&(member, ready.key)).map_or(0, BTreeSet::len);
        if ready.key.phase == Phase::Train && heard < slices {
            let (step, member) = (ready.key.step, member.0);
            return Err(format!(
                "one view: member {member:#x} is ready for step {step} with {heard} of {slices} slices of its view"
            ));
        }
        self.heard.retain(|(other, key), _| *other != member || *key >= ready.key);
        Ok(())
    }

    /// The coordinator sent a Commit.
    ///
    /// # Errors
    /// When it isn't what the journal holds.
    pub(crate) fn on_commit_sent(&self, commit: &Commit) -> Finding {
        let key = commit.key;
        match self.history.get(&(key.step, key.phase)) {
            Some((journalled, hash)) if *journalled == key && *hash == commit.hash => Ok(()),
            _ => Err(format!(
                "one history: a commit of step {} is told that the journal doesn't hold",
                key.step
            )),
        }
    }

    /// A member has applied a commit.
    ///
    /// # Errors
    /// When its state is not that of the others, or not the quiet run's.
    pub(crate) fn on_applied(&mut self, member: MemberId, state: &State) -> Finding {
        let (step, check) = (state.step, state.check());
        if self.lenient {
            return Ok(());
        }
        if *self.checks.entry(step).or_insert(check) != check {
            return Err(format!("identical replicas: member {:#x} has another state {step}", member.0));
        }
        match self.reference.as_ref().and_then(|reference| reference.checks.get(&step)) {
            Some(expected) if *expected != check => {
                Err(format!("bit-exact: state {step} of member {:#x} is not the quiet run's", member.0))
            }
            _ => Ok(()),
        }
    }

    /// A version's manifest was written, or a version is about to be loaded.
    ///
    /// # Errors
    /// When its content is not that of the committed state.
    pub(crate) fn on_version(&self, step: u64, state: &State) -> Finding {
        if self.lenient {
            return Ok(());
        }
        if state.step != step || self.checks.get(&step).is_some_and(|check| *check != state.check()) {
            return Err(format!("versions: version {step} does not hold state {step}"));
        }
        Ok(())
    }

    /// A run goes on from this version although these are whole.
    ///
    /// # Errors
    /// When it could have gone on from a newer one.
    pub(crate) fn on_resume(&self, chosen: Option<u64>, whole: &[(u64, [u8; 32])]) -> Finding {
        let last = self.history.keys().map(|(step, _)| *step).max().unwrap_or(0);
        let counts = |step: &u64| *step <= last && self.journalled_versions.contains(step);
        let best = whole.iter().map(|(step, _)| *step).filter(counts).max();
        if chosen < best {
            return Err(format!("versions: the run resumes from {chosen:?} and version {best:?} is whole"));
        }
        Ok(())
    }

    /// The run says that it is complete.
    ///
    /// # Errors
    /// When the final state is not the quiet run's, or isn't a version.
    pub(crate) fn on_completed(&self, scenario: &Scenario, newest: Option<(u64, [u8; 32])>) -> Finding {
        let steps = scenario.plan.total_steps;
        let Some((step, digest)) = newest else {
            return Err("versions: the run is complete and has no version".to_owned());
        };
        let last = self.reference.as_ref().and_then(|reference| reference.checks.keys().max().copied());
        // The quiet run says where one that may end early does.
        let is_end = match (&scenario.plan.early_stopping, last) {
            (Some(_), Some(last)) => step == last,
            (Some(_), None) => step <= steps,
            (None, _) => step == steps,
        };
        if !is_end {
            return Err(format!(
                "versions: the run is complete at step {steps}, its newest version is {step}"
            ));
        }
        match &self.reference {
            Some(reference) if reference.digest != digest => {
                Err("bit-exact: the final digest is not the quiet run's".to_owned())
            }
            _ => Ok(()),
        }
    }

    /// What this run came to, as a reference for others.
    #[must_use]
    pub(crate) fn to_reference(&self, digest: [u8; 32]) -> Reference {
        let hashes = self.history.iter().map(|(at, (_, hash))| (*at, *hash)).collect();
        Reference { checks: self.checks.clone(), hashes, digest }
    }
}
