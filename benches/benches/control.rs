//! Cost of a step in the coordinator's control plane: decoding a Ready of each member, the state machine, the journal
//! record, and encoding a Commit for each member. `cargo bench --workspace --bench control`.
//!
//! Sockets and gradients are left out, as they depend on network and model. Members are synthetic, the code is real.

use std::time::{Duration, Instant};

use prost::Message;
use protocol::PROTOCOL_VERSION;
use protocol::coordinator::{CheckpointEvery, Coordinator, Event, OnNan, Output, RunPlan};
use protocol::history::History;
use protocol::ids::{Phase, RunId, StepKey};
use protocol::journal;
use protocol::messages::{FromWorker, Join, Ready, Timings, ToWorker};
use protocol::plan::Geometry;
use protocol::schedule::Schedule;
use wire::convert::{from_worker_in, from_worker_out, to_worker_out};

const STEPS: u64 = 200;

fn main() {
    println!("control plane of the coordinator, one core, median of {STEPS} steps");
    for members in [1, 3, 10, 100, 1_000] {
        let mut run = Run::start(members);
        let mut times: Vec<Duration> = (1..=STEPS).map(|step| run.step(step)).collect();
        times.sort();
        let median = times[times.len() / 2].as_secs_f64() * 1e3;
        println!(
            "{members:>6} members  {median:8.3} ms a step, {:.2} us a member",
            median * 1e3 / members as f64
        );
    }
}

struct Run {
    machine: Coordinator,
    members: u64,
    view: Option<protocol::ids::ViewId>,
    commits: usize,
    bytes: usize,
}

impl Run {
    /// All members have joined, hold state 0, and work in the first view.
    fn start(members: u64) -> Self {
        let machine = Coordinator::new(plan(members), 1, History::fresh(), 0);
        let mut run = Self { machine, members, view: None, commits: 0, bytes: 0 };
        run.drain();
        for connection in 0..members {
            run.say(connection, FromWorker::Join(join(connection)));
            run.say(connection, FromWorker::Prepared { elements: 1 });
        }
        run.say(0, FromWorker::Loaded { step: 0, digest: [0; 32] });
        run.handle(Event::VersionWritten { step: 0, digest: [0; 32] });
        for connection in 1..members {
            run.say(connection, FromWorker::Loaded { step: 0, digest: [0; 32] });
        }
        assert!(run.view.is_some(), "the first view is open");
        run
    }

    /// CPU time of one step.
    fn step(&mut self, step: u64) -> Duration {
        let view = self.view.expect("a view");
        let key = StepKey { view, step, phase: Phase::Train };
        let ready = Ready {
            key,
            sums: vec![1.0, 64.0, 60.0],
            squared_norm: 1.0,
            finite: true,
            hash: step,
            state_check: step,
            timings: Timings::default(),
        };
        let frames: Vec<Vec<u8>> = (0..self.members)
            .map(|_| from_worker_out(FromWorker::Ready(ready.clone())).encode_to_vec())
            .collect();
        let before = self.commits;
        let began = Instant::now();
        for (connection, frame) in frames.iter().enumerate() {
            let message = wire::proto::FromWorker::decode(&frame[..]).expect("our own bytes");
            let message = from_worker_in(message).expect("our own message");
            self.handle(Event::Message { connection: connection as u64, message });
        }
        let took = began.elapsed();
        assert_eq!(self.commits - before, self.members as usize, "everybody was told");
        took
    }

    fn say(&mut self, connection: u64, message: FromWorker) {
        self.handle(Event::Message { connection, message });
    }

    fn handle(&mut self, event: Event) {
        self.machine.handle(0, event);
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(output) = self.machine.poll_output() {
            match output {
                Output::Append { record, .. } => {
                    self.bytes += journal::encode(&record).len();
                    self.machine.handle(0, Event::Journalled);
                }
                Output::OpenView(view) => self.view = Some(view.id),
                Output::Send { message, .. } => {
                    self.commits += usize::from(matches!(message, ToWorker::Commit(_)));
                    self.bytes += to_worker_out(message).encode_to_vec().len();
                }
                _ => {}
            }
        }
    }
}

fn join(instance: u64) -> Join {
    Join {
        protocol_version: PROTOCOL_VERSION,
        tasks: vec![("mlp".to_owned(), 1)],
        fingerprint: [1; 32],
        build: protocol::BUILD.to_owned(),
        name: format!("w{instance}"),
        device: "cpu".to_owned(),
        slot: None,
        pid: 1,
        instance,
        run: None,
        holds: None,
    }
}

fn plan(members: u64) -> RunPlan {
    let workers = u32::try_from(members).expect("a count");
    RunPlan {
        run: RunId([1; 16]),
        run_name: "bench".to_owned(),
        config: String::new(),
        config_digest: String::new(),
        data_plan: String::new(),
        data_digest: String::new(),
        data_port: 1,
        task: "mlp".to_owned(),
        geometry: Geometry {
            samples: 1 << 20,
            batch: 1 << 12,
            microbatch: 4,
            seed: 1,
            order: protocol::order::Order::Full,
            evaluation_samples: 0,
            evaluation_microbatch: 1,
        },
        total_steps: 1 << 20,
        schedule: Schedule::Constant { learning_rate: 0.1 },
        betas: Some((0.9, 0.999)),
        clip_norm: Some(1.0),
        on_nan: OnNan::Stop,
        wait_for_workers: workers,
        min_workers: 1,
        max_workers: workers,
        mixed: false,
        checkpoint_every: CheckpointEvery::Steps(1 << 20),
        evaluate_every_epochs: 0,
        early_stopping: None,
        export: false,
        lease_ms: 10_000,
        join_timeout_ms: RunPlan::STEP_TIMEOUT_MS,
        rejoin_ms: RunPlan::REJOIN_MS,
        load_timeout_ms: RunPlan::LOAD_TIMEOUT_MS,
        step_timeout_ms: RunPlan::STEP_TIMEOUT_MS,
        transfer_timeout_ms: RunPlan::TRANSFER_TIMEOUT_MS,
        last_version_ms: RunPlan::LAST_VERSION_MS,
    }
}
