//! Control streams: admission and refusal with their reasons, and lost members.

use super::machine::{Coordinator, State};
use super::{Event, Output, RunEvent};
use crate::ids::{MemberId, MemberKey};
use crate::messages::{Failure, FromWorker, Join, ToWorker, Welcome};
use crate::{BUILD, Millis, PROTOCOL_VERSION};

/// Maximum number of a peer's tasks shown in a message.
const TASKS_SHOWN_MAX: usize = 16;

impl Coordinator {
    pub(super) fn on_message(&mut self, now: Millis, connection: u64, message: FromWorker) {
        let Some(member) = self.roster.by_connection(connection) else {
            return match message {
                FromWorker::Join(join) => self.on_join(now, connection, &join),
                _ => self.put(Output::Close { connection }), // The stream of a refused or removed worker.
            };
        };
        member.heard_at = now;
        let id = member.id;
        match message {
            FromWorker::Join(_) => self.reject(now, id, "it sent a second Join"),
            FromWorker::Prepared { elements } => self.on_prepared(now, id, elements),
            FromWorker::Loaded { step, digest } => self.on_loaded(now, id, step, digest),
            FromWorker::Ready(ready) => self.on_ready(now, id, ready),
            FromWorker::Applied { step, state_check } => self.on_applied(now, id, step, state_check),
            FromWorker::Heartbeat => self.send(connection, ToWorker::Alive),
            FromWorker::Leaving { reason } => self.on_leaving(now, id, &reason),
            FromWorker::Failed(failure) => self.on_failed(now, id, &failure),
            FromWorker::NotUploaded { kind, step, reason } => {
                self.on_not_uploaded(now, (id, kind, step), &reason);
            }
        }
    }

    /// A worker can't continue; the others do. Once the last one has failed, so would any other.
    fn on_failed(&mut self, now: Millis, id: MemberId, failure: &Failure) {
        let Some(connection) = self.roster.get(id).map(|member| member.connection) else { return };
        let message = format!("worker {} failed: {}", self.roster.name(id), failure.message);
        self.put(Output::Close { connection });
        // A newcomer may fail to get ready because of its own machine.
        let is_ready = self.roster.get(id).is_some_and(|member| member.elements.is_some());
        // A checkpoint that this member can't load can't be loaded by any.
        let ordered = self.roster.get(id).and_then(|member| member.ordered).filter(|_| failure.code == 3);
        let is_passed_over = ordered.is_some_and(|step| self.pass_version_over(step, &failure.message));
        if is_passed_over {
            self.forget(id, &failure.message);
            return self.gather(now);
        }
        if self.has_begun && (self.roster.len() > 1 || !is_ready) {
            self.warn(message);
            return self.lose(now, id, &failure.message);
        }
        // The run's outcome gives the reason.
        self.forget(id, "it failed, and the run with it");
        // A peer can't choose an exit code outside the table.
        let code = if matches!(failure.code, 2..=4) { failure.code } else { 4 };
        self.fail(code, &message);
    }

    pub(super) fn on_disconnected(&mut self, now: Millis, connection: u64, reason: &str) {
        if let Some(id) = self.roster.by_connection(connection).map(|member| member.id) {
            self.expect_back(now, id);
            self.lose(now, id, reason);
        }
    }

    pub(super) fn check_leases(&mut self, now: Millis) {
        let lease_ms = self.plan.lease_ms;
        while let Some(member) = self.roster.most_silent()
            && now >= member.heard_at.saturating_add(lease_ms)
        {
            let (id, connection) = (member.id, member.connection);
            let silent_ms = now - member.heard_at;
            // If the worker is alive, it finds its stream closed and rejoins.
            self.expect_back(now, id);
            self.put(Output::Close { connection });
            self.lose(
                now,
                id,
                &format!("nothing was heard from it for {silent_ms} ms (lease {lease_ms} ms)"),
            );
        }
    }

    /// The run is over, but a worker that was cut off may not know.
    pub(super) fn on_late(&mut self, now: Millis, event: &Event) {
        if let Event::Message { connection, message: FromWorker::Join(join) } = event {
            self.on_join(now, *connection, join);
        }
    }

    /// Whether recently lost workers may still return to learn that the run is over.
    #[must_use]
    pub fn expects_late_workers(&self, now: Millis) -> bool {
        self.disconnected.is_expected(now)
    }

    /// Notes a lost member that will rejoin by itself if it is alive.
    pub(super) fn expect_back(&mut self, now: Millis, id: MemberId) {
        if let Some(member) = self.roster.get(id) {
            self.disconnected.lost(now, member);
        }
    }

    fn on_join(&mut self, now: Millis, connection: u64, join: &Join) {
        if let State::Ending(outcome) | State::Finished(outcome) = &self.state {
            let (reason, message) = (outcome.reason, outcome.message.clone());
            self.disconnected.returned(join.instance, join.slot);
            self.send(connection, ToWorker::End { reason, message });
            return self.put(Output::Close { connection });
        }
        // A process that rejoins has abandoned its old stream, whether or not this side has noticed.
        let old = self.roster.iter().find(|member| member.instance == join.instance).map(|member| member.id);
        if let Some(id) = old {
            self.lose(now, id, "it came back on another stream");
        }
        match self.examine(join) {
            Ok(()) => {
                self.admit(now, connection, join);
                // While members gather, all claims are heard first.
                let is_over = matches!(self.state, State::Closing(_));
                self.compare_claims(now, is_over);
            }
            Err(message) => {
                let failure = Failure { code: 2, message };
                self.send(connection, ToWorker::Refused(failure.clone()));
                self.put(Output::Close { connection });
                // The run's own workers are all alike: no other one would fare better.
                if join.slot.is_some() && !self.has_begun && self.roster.iter().next().is_none() {
                    let message = format!("local worker {} was refused: {}", join.name, failure.message);
                    return self.fail(failure.code, &message);
                }
                self.emit(RunEvent::Refused { name: join.name.clone(), failure });
            }
        }
    }

    /// Checks that a worker fits this run; the error is the reason for refusal.
    fn examine(&self, join: &Join) -> Result<(), String> {
        if join.protocol_version != PROTOCOL_VERSION {
            let theirs = join.protocol_version;
            return Err(format!(
                "protocol version {theirs} is not the coordinator's {PROTOCOL_VERSION}; use workers and \
                 coordinator of one release"
            ));
        }
        let task = &self.plan.task;
        let Some((_, schema)) = join.tasks.iter().find(|(name, _)| name == task) else {
            let known: Vec<&str> =
                join.tasks.iter().take(TASKS_SHOWN_MAX).map(|(name, _)| name.as_str()).collect();
            return Err(format!(
                "the worker doesn't know the task \"{task}\"; it knows {} (a worker with tasks of one's own is named by \
                 local.worker_binary)",
                known.join(", ")
            ));
        };
        if join.slot.is_some() && join.run.is_some_and(|run| run != self.plan.run) {
            return Err(format!(
                "it is a local worker of another run, which its own coordinator starts again; at this address is \
                 {:?} now",
                self.plan.run_name
            ));
        }
        let first = self.roster.iter().next().map(|member| member.schema);
        if let Some(first) = first.filter(|first| first != schema) {
            return Err(format!(
                "the worker's schema of task \"{task}\" is {schema}, the other workers' is {first}; use one build"
            ));
        }
        if self.roster.len() >= self.plan.max_workers.max(1) as usize {
            return Err(format!("the run has its elastic.max_workers = {} workers", self.plan.max_workers));
        }
        self.examine_fingerprint(join)
    }

    fn examine_fingerprint(&self, join: &Join) -> Result<(), String> {
        if self.plan.mixed {
            return Ok(());
        }
        let (expected, whose) = match self.roster.iter().next().map(|member| member.fingerprint) {
            Some(first) => (Some(first), "the other workers'"),
            None => (self.history.fingerprint(), "that of the run so far"),
        };
        match expected {
            Some(expected) if expected != join.fingerprint => Err(format!(
                "the worker's numerics fingerprint {} on {} is not {whose} {}: its results would differ in \
                 their last bits; elastic.mixed = true admits it and gives up bit-exactness",
                short(&join.fingerprint),
                join.device,
                short(&expected),
            )),
            _ => Ok(()),
        }
    }

    fn admit(&mut self, now: Millis, connection: u64, join: &Join) {
        let task = &self.plan.task;
        let schema = join.tasks.iter().find(|(name, _)| name == task).map_or(0, |(_, schema)| *schema);
        let id = self.fresh_member();
        let name = self.roster.add(id, connection, join, (self.plan.run, schema), now);
        self.emit(RunEvent::Joined { member: id, join: Join { name: name.clone(), ..join.clone() } });
        self.remember_trouble(now, id);
        if join.build != BUILD {
            self.warn(format!(
                "worker {name} is of another release: {:?}, the coordinator is {BUILD}",
                join.build
            ));
        }
        if join.run.is_some_and(|run| run != self.plan.run) {
            self.warn(format!("worker {name} comes from another run: what it holds is of no use here"));
        }
        self.disconnected.returned(join.instance, join.slot);
        let plan = &self.plan;
        let welcome = Welcome {
            run: plan.run,
            run_name: plan.run_name.clone(),
            member: id,
            name,
            config: plan.config.clone(),
            data_plan: plan.data_plan.clone(),
            data_port: plan.data_port,
            heartbeat_ms: plan.heartbeat_ms(),
            key: MemberKey::default(),
        };
        self.send(connection, ToWorker::Welcome(welcome));
        self.look_at_claim(id);
    }

    /// A rejoining worker keeps its penalty; a run that continues without it may quarantine it.
    fn remember_trouble(&mut self, now: Millis, id: MemberId) {
        let is_going_on = !matches!(self.state, State::Gathering { .. });
        let Some(member) = self.roster.get_mut(id) else { return };
        member.penalty = self.penalties.of(now, member.instance);
        let Some(until) = member.penalty.barred_until(now).filter(|_| is_going_on) else { return };
        member.is_barred = true;
        self.bars_until = Some(self.bars_until.map_or(until, |first| first.min(until)));
        let message = format!(
            "worker {} is back, and enters in {} ms: its data connection broke too often",
            member.name,
            until - now
        );
        self.warn(message);
    }

    /// SIGTERM at a worker: it finishes the step in flight, and the others continue.
    fn on_leaving(&mut self, now: Millis, id: MemberId, reason: &str) {
        if let Some(member) = self.roster.get_mut(id) {
            member.leaving = Some(reason.to_owned());
        }
        match &self.state {
            State::Stepping(_) | State::Committing(_) if self.is_in_view(id) => {}
            State::Opening | State::Handover { .. } | State::Closing(_) | State::Ending(_) => {}
            State::Initialising(state) if state.by == id => {
                self.dismiss_leavers();
                self.gather(now);
            }
            State::Gathering { .. } | State::Loading { .. } if self.leaves_too_few() => self.hold(now),
            _ => {
                self.dismiss_leavers();
                self.advance(now);
            }
        }
    }

    /// Refuses a member that broke the protocol.
    pub(super) fn reject(&mut self, now: Millis, id: MemberId, what: &str) {
        if let Some(connection) = self.roster.get(id).map(|member| member.connection) {
            let failure = Failure { code: 4, message: what.to_owned() };
            self.send(connection, ToWorker::Refused(failure));
            self.put(Output::Close { connection });
            self.lose(now, id, &format!("it broke the protocol: {what}"));
        }
    }
}

fn short(digest: &[u8; 32]) -> String {
    digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect()
}
