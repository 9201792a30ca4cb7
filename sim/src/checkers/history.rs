//! One history (invariant 1) that contains each sample once (invariant 2).

use protocol::coordinator::OnNan;
use protocol::ids::{MemberId, Phase, StepKey};
use protocol::journal::{CommitRecord, Record};
use protocol::messages::{Commit, Verdict};

use super::{CheckResult, Oracle};
use crate::scenario::Scenario;

impl Oracle {
    /// A record was written to the disk.
    ///
    /// # Errors
    /// When it breaks invariant 1, 2 or 4.
    pub(crate) fn on_journalled(
        &mut self,
        scenario: &Scenario,
        on_nan: OnNan,
        record: &Record,
    ) -> CheckResult {
        match record {
            Record::Term(term) if term.term <= self.term => {
                return Err(format!("one history: term {} after term {}", term.term, self.term));
            }
            Record::Term(term) => self.term = term.term,
            Record::View(view) => {
                let members = view.view.members.iter().map(|info| info.member).collect();
                self.members.insert(view.view.id.0, members);
            }
            Record::Commit(commit) => {
                self.on_committed(scenario, commit.key, commit.hash)?;
                return self.check_verdict(scenario, on_nan, commit);
            }
            Record::Adopted(commit) => return self.on_adopted(commit.key, commit.hash),
            Record::Version { step, .. } => {
                self.journalled_versions.insert(*step);
            }
            Record::Rewind { to_step, void, .. } => {
                self.history.retain(|(step, _), _| step <= to_step);
                self.consumed.retain(|step, _| step <= to_step);
                self.agreed = self.agreed.min(*to_step);
                self.proven = self.proven.min(*to_step);
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

    /// A new coordinator has read the journal: records lost in the host's crash are no history.
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
        // By a committed step, the members agreed on the check of the state before it.
        self.agreed = self.last().saturating_sub(1);
        self.proven = self.agreed.saturating_sub(1);
    }

    /// The journal lost a commit and has it again: it must be unchanged.
    fn on_adopted(&mut self, key: StepKey, hash: u64) -> CheckResult {
        let last = self.last();
        // Earlier commits of its view are restored with it.
        for step in last + 1..=key.step {
            let own = StepKey { step, ..key };
            let known = self.committed.get(&(step, key.phase)).map(|(hash, _)| *hash);
            let Some(known) = known.filter(|known| step < key.step || *known == hash) else {
                return Err(format!(
                    "one history: step {step} was adopted after step {last} and never committed"
                ));
            };
            self.history.insert((step, key.phase), (own, known));
            if let Some(samples) = self.lost_samples.get(&own) {
                self.consumed.insert(step, samples.clone());
            }
        }
        match key.step > last {
            true => Ok(()),
            false => Err(format!("one history: step {} was adopted after step {last}", key.step)),
        }
    }

    fn on_committed(&mut self, scenario: &Scenario, key: StepKey, hash: u64) -> CheckResult {
        let (step, phase) = (key.step, key.phase);
        let last = self.last();
        let follows = if phase == Phase::Train { step == last + 1 } else { step == last };
        if !follows {
            return Err(format!("one history: the commit of step {step} ({phase:?}) follows step {last}"));
        }
        if self.history.insert((step, phase), (key, hash)).is_some() {
            return Err(format!("one history: step {step} ({phase:?}) was committed twice"));
        }
        let is_tainted = self.is_step_tainted(key);
        let before = self.committed.insert((step, phase), (hash, is_tainted));
        if let Some((before, was_tainted)) = before
            && before != hash
            && !was_tainted
            && !is_tainted
        {
            return Err(format!(
                "one history: step {step} ({phase:?}) was {before:016x} and came back as {hash:016x}"
            ));
        }
        if let Some(reference) = &self.reference
            && !is_tainted
            && !self.has_tainted_past(step)
            && reference.hashes.get(&(step, phase)) != Some(&hash)
        {
            return Err(format!("bit-exact: the gradient of step {step} ({phase:?}) is not the quiet run's"));
        }
        self.check_ready(key)?;
        self.check_samples(scenario, key)
    }

    /// Whether an earlier step made this history differ from the quiet run's.
    fn has_tainted_past(&self, step: u64) -> bool {
        self.history.range(..(step, Phase::Train)).any(|(_, (key, _))| self.is_step_tainted(*key))
    }

    /// Checks that every microbatch was computed once, and records its samples for the epoch's count.
    fn check_samples(&mut self, scenario: &Scenario, key: StepKey) -> CheckResult {
        let geometry = &scenario.plan.geometry;
        let plan = geometry.plan(key.step, key.phase);
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

    /// Non-finite steps are skipped or end the run, as `train.on_nan` specifies.
    fn check_verdict(&self, scenario: &Scenario, on_nan: OnNan, commit: &CommitRecord) -> CheckResult {
        let (step, toy) = (commit.key.step, &scenario.toy);
        let samples = self.consumed.get(&step).filter(|_| commit.key.phase == Phase::Train);
        let (Some(samples), Some(nan)) = (samples, toy.nan_sample) else { return Ok(()) };
        let weighs = toy.weightless == 0 || !nan.is_multiple_of(toy.weightless);
        if !weighs || !samples.contains(&nan) {
            return Ok(());
        }
        match (on_nan, commit.verdict) {
            (OnNan::Stop, _) => Err(format!("on_nan: step {step} is not finite, and was committed")),
            (OnNan::Skip, Verdict::Skip) => Ok(()),
            (OnNan::Skip, Verdict::Apply) => {
                Err(format!("on_nan: step {step} is not finite, and is applied"))
            }
        }
    }

    /// Checks at an epoch's end that each sample was consumed once.
    fn check_epoch(&self, scenario: &Scenario, step: u64) -> CheckResult {
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
    /// When another member has computed it in the same view.
    pub(crate) fn on_computed(
        &mut self,
        key: StepKey,
        member: MemberId,
        microbatch: u32,
        samples: Vec<u64>,
    ) -> CheckResult {
        match self.computed.entry(key).or_default().insert(microbatch, (member, samples)) {
            Some((other, _)) if other != member => Err(format!(
                "exactly once: microbatch {microbatch} of step {} was computed by {:#x} and {:#x}",
                key.step, other.0, member.0
            )),
            _ => Ok(()),
        }
    }

    /// The coordinator sent a Commit.
    ///
    /// # Errors
    /// When it differs from the journal.
    pub(crate) fn on_commit_sent(&self, commit: &Commit) -> CheckResult {
        let key = commit.key;
        match self.history.get(&(key.step, key.phase)) {
            Some((journalled, hash)) if *journalled == key && *hash == commit.hash => Ok(()),
            _ => Err(format!(
                "one history: a commit of step {} is told that the journal doesn't hold",
                key.step
            )),
        }
    }
}
