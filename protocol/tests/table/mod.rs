//! A coordinator's machine with a journal that never fails, and its workers.
#![allow(dead_code, reason = "not every test program uses all of it")]

use protocol::PROTOCOL_VERSION;
use protocol::coordinator::{CheckpointEvery, Coordinator, Event, OnNan, Outcome, Output, RunEvent, RunPlan};
use protocol::history::History;
use protocol::ids::{Phase, RunId, StepKey};
use protocol::journal::Record;
use protocol::messages::{Commit, Failure, FromWorker, Join, Ready, Timings, ToWorker, View};
use protocol::plan::Geometry;
use protocol::schedule::Schedule;

pub(crate) fn run_plan(workers: u32) -> RunPlan {
    RunPlan {
        run: RunId([7; 16]),
        run_name: "test-1".to_owned(),
        config: String::new(),
        config_digest: "c".to_owned(),
        data_plan: String::new(),
        data_digest: "d".to_owned(),
        data_port: 1,
        task: "toy".to_owned(),
        geometry: Geometry {
            samples: 8,
            batch: 4,
            microbatch: 2,
            seed: 1,
            order: protocol::order::Order::Full,
            evaluation_samples: 4,
            evaluation_microbatch: 2,
        },
        total_steps: 6,
        schedule: Schedule::Constant { learning_rate: 0.1 },
        betas: None,
        clip_norm: None,
        on_nan: OnNan::Stop,
        wait_for_workers: workers,
        min_workers: 1,
        max_workers: 3,
        mixed: false,
        checkpoint_every: CheckpointEvery::Steps(2),
        evaluate_every_epochs: 0,
        early_stopping: None,
        export: false,
        lease_ms: 10_000,
        join_timeout_ms: 60_000,
        rejoin_ms: 5_000,
        load_timeout_ms: 60_000,
        step_timeout_ms: 30_000,
        transfer_timeout_ms: 60_000,
        last_version_ms: RunPlan::LAST_VERSION_MS,
    }
}

pub(crate) fn join(name: &str, slot: Option<u32>) -> Join {
    Join {
        protocol_version: PROTOCOL_VERSION,
        tasks: vec![("toy".to_owned(), 1)],
        fingerprint: [1; 32],
        build: protocol::BUILD.to_owned(),
        name: name.to_owned(),
        device: "cpu".to_owned(),
        slot,
        pid: 1,
        instance: 0,
        run: Some(RunId([7; 16])),
        holds: None,
    }
}

pub(crate) fn ready(key: StepKey) -> Ready {
    Ready {
        key,
        sums: vec![1.0, 4.0],
        squared_norm: 4.0,
        finite: true,
        hash: key.step,
        state_check: 100 + key.step,
        timings: Timings::default(),
    }
}

/// A machine with a journal that never fails, and its outputs.
pub(crate) struct Table {
    pub(crate) machine: Coordinator,
    pub(crate) now: u64,
    pub(crate) outputs: Vec<Output>,
}

impl Table {
    pub(crate) fn new(plan: RunPlan) -> Self {
        Self::resumed(plan, 1, History::fresh())
    }

    pub(crate) fn resumed(plan: RunPlan, term: u32, history: History) -> Self {
        let machine = Coordinator::new(plan, term, history, 0);
        let mut table = Self { machine, now: 0, outputs: Vec::new() };
        table.drain();
        table
    }

    /// Members 0.. have joined, loaded, and work in the first view.
    pub(crate) fn working(plan: RunPlan) -> (Self, View) {
        let count = u64::from(plan.wait_for_workers);
        Self::new(plan).start(count)
    }

    /// `count` members create or load the first state, and the view opens.
    pub(crate) fn start(mut self, count: u64) -> (Self, View) {
        let table = &mut self;
        for connection in 0..count {
            table.say(connection, FromWorker::Join(join("w", None)));
        }
        // No member of an earlier view rejoins.
        table.now += 5_000;
        table.handle(Event::Tick);
        table.handle(Event::VersionWritten { step: 0, digest: [0; 32] });
        for connection in 0..count {
            table.say(connection, FromWorker::Loaded { step: 0, digest: [0; 32] });
        }
        let view = table.outputs.iter().rev().find_map(|output| match output {
            Output::OpenView(view) => Some(view.clone()),
            _ => None,
        });
        let view = view.expect("the first view");
        (self, view)
    }

    pub(crate) fn handle(&mut self, event: Event) {
        self.machine.handle(self.now, event);
        self.drain();
    }

    /// Delivers a message; an admitted worker has its model ready at once.
    pub(crate) fn say(&mut self, connection: u64, message: FromWorker) {
        let FromWorker::Join(join) = message else {
            return self.handle(Event::Message { connection, message });
        };
        let join = Join { instance: connection, ..join };
        self.handle(Event::Message { connection, message: FromWorker::Join(join) });
        if let Some(ToWorker::Welcome(_)) = self.sent(connection).last() {
            self.say(connection, FromWorker::Prepared { elements: 3 });
        }
    }

    pub(crate) fn drain(&mut self) {
        while let Some(output) = self.machine.poll_output() {
            let appends = matches!(output, Output::Append { .. });
            self.outputs.push(output);
            if appends {
                self.machine.handle(self.now, Event::Journalled);
            }
        }
    }

    /// The appended records.
    pub(crate) fn records(&self) -> Vec<Record> {
        let records = self.outputs.iter().filter_map(|output| match output {
            Output::Append { record, .. } => Some(record.clone()),
            _ => None,
        });
        records.collect()
    }

    /// Every member is ready with `step`; returns the resulting commit.
    pub(crate) fn step(&mut self, view: &View, step: u64) -> Commit {
        let key = StepKey { view: view.id, step, phase: Phase::Train };
        for connection in 0..view.members.len() as u64 {
            self.say(connection, FromWorker::Ready(ready(key)));
        }
        let commits = self.outputs.iter().rev().find_map(|output| match output {
            Output::Send { message: ToWorker::Commit(commit), .. } => Some(commit.clone()),
            _ => None,
        });
        commits.filter(|commit| commit.key == key).expect("a commit of this step")
    }

    pub(crate) fn sent(&self, to: u64) -> Vec<&ToWorker> {
        let to_it =
            |output: &'_ Output| matches!(output, Output::Send { connection, .. } if *connection == to);
        let messages = self.outputs.iter().filter(|output| to_it(output)).filter_map(|output| match output {
            Output::Send { message, .. } => Some(message),
            _ => None,
        });
        messages.collect()
    }

    /// The last view sent to this worker.
    pub(crate) fn last_view(&self, of: u64) -> View {
        let view = self.sent(of).into_iter().rev().find_map(|message| match message {
            ToWorker::View(view) => Some(view.clone()),
            _ => None,
        });
        view.expect("a view")
    }

    pub(crate) fn warnings(&self) -> Vec<&str> {
        let warnings = self.outputs.iter().filter_map(|output| match output {
            Output::RunEvent(RunEvent::Warning { message }) => Some(message.as_str()),
            _ => None,
        });
        warnings.collect()
    }

    pub(crate) fn refusal(&self, of: u64) -> Option<&Failure> {
        self.sent(of).into_iter().rev().find_map(|message| match message {
            ToWorker::Refused(failure) => Some(failure),
            _ => None,
        })
    }

    pub(crate) fn outcome(&self) -> Option<&Outcome> {
        self.outputs.iter().find_map(|output| match output {
            Output::Finished(outcome) => Some(outcome),
            _ => None,
        })
    }
}
