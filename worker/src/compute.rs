//! The compute thread: it owns the engine, the flat buffers, the optimizer and the accumulator, and executes one
//! command after the other.

use std::panic::AssertUnwindSafe;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use protocol::messages::Failure;
use protocol::worker::Event;
use tokio::sync::{mpsc, oneshot};
use trainer::{DeviceSpec, OpenDevice, Registry};

use crate::captured_stderr::quietly;
use crate::channel::{Command, CoordinatorLink, DriverEvent};
use crate::failure::{WorkError, fail, failure};
use crate::member::Member;
use crate::metrics::Metrics;
use crate::reachability::ReachabilityCheck;

/// The opened device, as Join describes it.
pub(crate) struct OpenedDevice {
    /// Tasks with their schema versions.
    pub(crate) tasks: Vec<(String, u32)>,
    pub(crate) fingerprint: [u8; 32],
    /// Display name of the device.
    pub(crate) device: String,
    /// Backend and driver of the device.
    pub(crate) driver: String,
}

/// Starts the thread. It opens the device, reports to `ready`, and answers commands with events.
pub(crate) fn spawn(
    registry: Registry,
    device: DeviceSpec,
    metrics: Metrics,
    ready: oneshot::Sender<Result<OpenedDevice, Failure>>,
    commands: Receiver<Command>,
    (own, answers): (SyncSender<Command>, mpsc::Sender<DriverEvent>),
) -> Result<JoinHandle<()>, Failure> {
    let run = move || {
        trainer::device::use_one_thread();
        let device = match open(&registry, &device) {
            Ok((device, opened)) => {
                // If the driver has exited, the command channel is closed too.
                let _ = ready.send(Ok(opened));
                device
            }
            Err(failure) => {
                let _ = ready.send(Err(failure));
                return;
            }
        };
        let mut compute_thread = ComputeThread {
            registry,
            device,
            metrics,
            own,
            answers: answers.clone(),
            link: None,
            member: None,
            proof: None,
            cut_off: None,
            connection_failures: 0,
        };
        let worked = std::panic::catch_unwind(AssertUnwindSafe(|| compute_thread.run(&commands)));
        if let Err(panic) = worked {
            let what = panic_message(panic.as_ref());
            let failure = fail(4, format!("the compute thread panicked: {what}"));
            let _ = answers.blocking_send(DriverEvent::Worked(Event::Failed(failure)));
        }
    };
    std::thread::Builder::new()
        .name("compute".to_owned())
        .spawn(run)
        .map_err(|error| fail(4, format!("the compute thread can't be started: {error}")))
}

fn open(registry: &Registry, spec: &DeviceSpec) -> Result<(OpenDevice, OpenedDevice), Failure> {
    let device = quietly(|| trainer::device::open(spec)).map_err(|error| failure(&error))?;
    let fingerprint = trainer::fingerprint(&device).map_err(|error| failure(&error))?;
    let opened = OpenedDevice {
        tasks: registry.names(),
        fingerprint,
        device: device.info().to_string(),
        driver: device.driver().to_owned(),
    };
    Ok((device, opened))
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

/// Give up after this many commands in a row that failed because of the connection.
const CONNECTION_FAILURES_MAX: u32 = 5;

/// After a data connection breaks, another view follows, unless the coordinator noticed the break before opening the
/// last one: then the member rejoins. Longer than the coordinator takes to open a view.
const VIEW_PATIENCE: Duration = Duration::from_secs(5);

/// The driver has exited.
struct Disconnected;

/// The thread's state, before and after it becomes a member.
struct ComputeThread {
    registry: Registry,
    device: OpenDevice,
    metrics: Metrics,
    own: SyncSender<Command>,
    answers: mpsc::Sender<DriverEvent>,
    link: Option<Box<CoordinatorLink>>,
    member: Option<Box<Member>>,
    /// Set while it is unknown whether the member can reach the data plane.
    proof: Option<ReachabilityCheck>,
    /// Since when the member waits for another view, as its data connection broke.
    cut_off: Option<Instant>,
    connection_failures: u32,
}

impl ComputeThread {
    fn run(&mut self, commands: &Receiver<Command>) {
        loop {
            let done = match self.next(commands) {
                Ok(Some(Command::Quit)) | Err(Disconnected) => return,
                Ok(Some(command)) => self.carry_out(command),
                Ok(None) => self.look_after(),
            };
            self.cut_off = match &self.member {
                Some(member) if member.is_cut_off() => self.cut_off.or_else(|| Some(Instant::now())),
                _ => None,
            };
            let event = match done {
                Ok(None) => continue,
                Ok(Some(event @ Event::NotUploaded { .. })) => event,
                Ok(Some(event)) => {
                    self.connection_failures = 0;
                    event
                }
                Err(error) => self.failed(error),
            };
            if self.answers.blocking_send(DriverEvent::Worked(event)).is_err() {
                return;
            }
        }
    }

    /// The next command; `None` if something is due first.
    fn next(&self, commands: &Receiver<Command>) -> Result<Option<Command>, Disconnected> {
        let view = self.cut_off.map(|since| VIEW_PATIENCE.saturating_sub(since.elapsed()));
        let Some(pause) = self.proof.as_ref().map(ReachabilityCheck::pause).into_iter().chain(view).min()
        else {
            return commands.recv().map(Some).map_err(|_| Disconnected);
        };
        match commands.recv_timeout(pause) {
            Ok(command) => Ok(Some(command)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(Disconnected),
        }
    }

    /// Performs what is due.
    fn look_after(&mut self) -> Result<Option<Event>, WorkError> {
        if self.cut_off.is_none_or(|since| since.elapsed() < VIEW_PATIENCE) {
            return self.prove();
        }
        if let Some(member) = &mut self.member {
            member.leave_view();
        }
        Err(WorkError::ConnectionLost("the data connection broke, and no other view followed".to_owned()))
    }

    /// Tries to reach the data plane; on success the member is prepared.
    fn prove(&mut self) -> Result<Option<Event>, WorkError> {
        let (Some(member), Some(mut proof)) = (&self.member, self.proof.take()) else { return Ok(None) };
        if proof.settle(member.try_data_plane())? {
            return Ok(Some(Event::Prepared { elements: member.parameters.len() as u64 }));
        }
        self.proof = Some(proof);
        Ok(None)
    }

    /// A broken connection is retried by rejoining, but not for ever.
    fn failed(&mut self, error: WorkError) -> Event {
        let reason = match error {
            WorkError::Failed(failure) => return Event::Failed(failure),
            WorkError::ConnectionLost(reason) => reason,
        };
        self.connection_failures += 1;
        if self.connection_failures > CONNECTION_FAILURES_MAX {
            return Event::Failed(fail(4, reason));
        }
        Event::Disconnected { reason }
    }

    fn carry_out(&mut self, command: Command) -> Result<Option<Event>, WorkError> {
        match command {
            Command::Connected(link) => {
                self.link = Some(link);
                // The attempts so far used the address of the former admission.
                self.proof = None;
                return Ok(None);
            }
            Command::Prepare(welcome) => {
                let link = self.link.take().ok_or_else(|| fail(4, "Welcome came before the connection"))?;
                match self.member.take().filter(|member| member.is_of(&welcome)) {
                    Some(mut member) => {
                        member.join_again(*link, &welcome)?;
                        self.member = Some(member);
                    }
                    None => {
                        let ways = (self.own.clone(), self.answers.clone());
                        let opened = (&self.device, self.metrics.clone());
                        let member = Member::prepare(&self.registry, opened, *link, &welcome, ways)?;
                        self.member = Some(Box::new(member));
                    }
                }
                self.proof = Some(ReachabilityCheck::begin());
                return Ok(None);
            }
            _ => {}
        }
        let member = self.member.as_mut().ok_or_else(|| fail(4, "an order came before Welcome"))?;
        match command {
            Command::Initialise => member.initialise().map(Some),
            Command::Load { step } => member.load(step).map(Some),
            Command::FetchState { step } => member.take_state(step).map(Some),
            Command::SendState { step } => Ok(member.show_state(step)),
            Command::EnterView(view) => member.enter_view(&view).map(|()| None),
            Command::Compute(key) => member.compute(key),
            Command::Reduced(reduced) => Ok(member.take_reduced(reduced)),
            Command::LinkLost { number, reason } => {
                member.lose_exchange(Some(number), &reason);
                Ok(None)
            }
            Command::Apply(commit) => member.apply(&commit).map(Some),
            Command::WriteVersion { step } => member.write_version(step).map(|()| None),
            Command::Export { step } => member.export(step).map(|()| None),
            Command::Connected(_) | Command::Prepare(_) | Command::Quit => Ok(None),
        }
    }
}
