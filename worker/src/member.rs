//! The state of an admitted worker: model, data, parameters, and its part in the view.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::Instant;

use configs::Config;
use datasets::{AugmentKey, DataPlan};
use protocol::accumulate::Accumulator;
use protocol::ids::Phase;
use protocol::member_step::MemberStep;
use protocol::messages::{Failure, Timings, Welcome};
use protocol::order::Order;
use protocol::plan::Geometry;
use protocol::reduce::{BLOCK, block_hash};
use tokio::sync::mpsc;
use trainer::{
    Agreement, DataSpec, Engine, GradientSink, HostBatch, HostOptimizer, ModelConfig, OpenDevice, Precision,
    Registry,
};
use wire::tls::ClientTls;
use wire::token::Token;

use crate::channel::DriverEvent;
use crate::channel::{Command, CoordinatorLink};
use crate::data::Samples;
use crate::exchange::{self, DataEndpoint, Exchange};
use crate::failure::{WorkError, fail, failure};
use crate::feed::{Feed, ShardAssignment};
use crate::metrics::Metrics;
use crate::reduced::Reduced;
use crate::transfer::Transfer;
use crate::versions::Versions;

/// A member of a run. Its phases are in `state` (checkpoints and transfers) and `step` (steps).
pub(crate) struct Member {
    pub(crate) transfer: Transfer,
    pub(crate) token: Token,
    pub(crate) tls: Option<ClientTls>,
    pub(crate) host: String,
    pub(crate) data_port: u16,
    /// Where the exchange reports received steps.
    pub(crate) commands: SyncSender<Command>,
    /// Where the checkpoint thread reports failed uploads.
    answers: mpsc::Sender<DriverEvent>,

    pub(crate) welcome: Welcome,
    pub(crate) config: Config,
    pub(crate) plan: DataPlan,
    pub(crate) geometry: Geometry,
    pub(crate) samples: Arc<Samples>,

    pub(crate) engine: Box<dyn Engine>,
    pub(crate) optimizer: HostOptimizer,
    /// Threads for a step's work on the host.
    pub(crate) host_threads: usize,
    /// The committed parameters, flat; the device has a copy.
    pub(crate) parameters: Vec<f32>,
    /// Step of the committed state.
    pub(crate) step: u64,
    pub(crate) state_check: u64,

    /// Gradients of the step in flight.
    pub(crate) gradients: Accumulator,
    /// Sums of the evaluation in flight.
    pub(crate) scores: Accumulator,
    pub(crate) work: Option<ViewWork>,
    pub(crate) reduction: MemberStep<Box<Reduced>>,
    /// A step's unused buffer, if no exchange has it.
    pub(crate) spare: Option<Box<Reduced>>,

    pub(crate) versions: Versions,
    pub(crate) timings: Timings,
    /// When the last partial was sent.
    pub(crate) pushed: Instant,
    pub(crate) apply_us: u32,
    pub(crate) snapshot_us: u32,
    pub(crate) metrics: Metrics,
}

/// This member's part of a view.
pub(crate) struct ViewWork {
    pub(crate) place: ShardAssignment,
    pub(crate) feed: Feed,
    pub(crate) is_alone: bool,
    /// `None` for the only member of a view, and after the connection broke: then another view follows.
    pub(crate) exchange: Option<Exchange>,
}

impl Member {
    /// Builds the task from the config and opens the data. The parameters are undefined until a state is loaded.
    pub(crate) fn prepare(
        registry: &Registry,
        (device, metrics): (&OpenDevice, Metrics),
        link: CoordinatorLink,
        welcome: &Welcome,
        (commands, answers): (SyncSender<Command>, mpsc::Sender<DriverEvent>),
    ) -> Result<Self, WorkError> {
        let config = Config::parse(&welcome.config, "the run's configuration", &[])
            .map_err(|error| fail(2, error.to_string()))?;
        let plan = serde_json::from_str::<DataPlan>(&welcome.data_plan)
            .map_err(|error| fail(3, format!("the dataset's plan can't be read: {error}")))?;
        let CoordinatorLink { client, token, tls, host, runtime } = link;
        let transfer = Transfer::new(client, runtime, welcome);
        let samples = Arc::new(Samples::open(&plan, config.train.precision, &transfer)?);
        let geometry = geometry(&config, &samples);
        let (engine, optimizer) = build(registry, &config, samples.spec(), device)?;
        let layout = engine.layout();
        let optimizer =
            optimizer.with_decay_1d(config.optimizer.decay_1d).with_threads(device.host_threads());
        let regions =
            layout.parameters.iter().map(|parameter| parameter.offset..parameter.offset + parameter.len);
        let gradients = Accumulator::new(regions.collect());
        let parameters = vec![0.0; layout.elements];
        let versions = Versions::start(transfer.clone(), answers.clone())?;
        tracing::info!(model = config.model.kind, elements = layout.elements, "model and data are ready");
        let mut member = Self {
            transfer,
            token,
            tls,
            host,
            data_port: welcome.data_port,
            commands,
            answers,
            welcome: welcome.clone(),
            config,
            plan,
            geometry,
            samples,
            engine,
            optimizer,
            host_threads: device.host_threads(),
            parameters,
            step: 0,
            state_check: 0,
            gradients,
            scores: Accumulator::new(Vec::new()),
            work: None,
            reduction: MemberStep::default(),
            spare: None,
            versions,
            timings: Timings::default(),
            pushed: Instant::now(),
            apply_us: 0,
            snapshot_us: 0,
            metrics,
        };
        freeze(member.engine.as_mut(), &member.config)?;
        // burn draws a module's initial values lazily: force it now rather than during a trial.
        member.engine.initialise(member.config.run.seed).map_err(|error| failure(&error))?;
        member.warm_up()?;
        Ok(member)
    }

    /// Whether this is a member of the same run, with the same model and data: then it keeps its state.
    pub(crate) fn is_of(&self, welcome: &Welcome) -> bool {
        let config = Config::parse(&welcome.config, "the run's configuration", &[]);
        self.welcome.run == welcome.run
            && self.welcome.data_plan == welcome.data_plan
            && config.is_ok_and(|config| config.digest() == self.config.digest())
    }

    /// Rejoins the same run over another stream, perhaps to another coordinator.
    pub(crate) fn join_again(&mut self, link: CoordinatorLink, welcome: &Welcome) -> Result<(), WorkError> {
        self.config = Config::parse(&welcome.config, "the run's configuration", &[])
            .map_err(|error| fail(2, error.to_string()))?;
        let CoordinatorLink { client, token, tls, host, runtime } = link;
        self.transfer = Transfer::new(client, runtime, welcome);
        self.versions = Versions::start(self.transfer.clone(), self.answers.clone())?;
        (self.token, self.tls, self.host, self.data_port) = (token, tls, host, welcome.data_port);
        self.welcome = welcome.clone();
        // The data connection belongs to the former membership.
        self.work = None;
        self.reduction.join_again();
        Ok(())
    }

    pub(crate) fn try_data_plane(&self) -> Result<(), String> {
        let endpoint = DataEndpoint {
            host: &self.host,
            port: self.data_port,
            token: &self.token,
            tls: self.tls.as_ref(),
        };
        exchange::try_to_reach(&endpoint, &self.welcome)
    }

    /// Whether it waits for a mean that can't arrive, as its data connection broke: another view must follow.
    pub(crate) fn is_cut_off(&self) -> bool {
        let has_none = |work: &ViewWork| !work.is_alone && work.exchange.is_none();
        self.reduction.is_waiting() && self.work.as_ref().is_some_and(has_none)
    }

    /// Leaves the view before rejoining; computed microbatches are kept.
    pub(crate) fn leave_view(&mut self) {
        self.work = None;
        self.reduction.leave_view();
    }

    /// Drops the data connection (of this number, if given): the next view opens another.
    pub(crate) fn lose_exchange(&mut self, number: Option<u64>, reason: &str) {
        let Some(work) = &mut self.work else { return };
        let is_meant = |exchange: &Exchange| number.is_none_or(|number| exchange.number() == number);
        if work.exchange.as_ref().is_some_and(is_meant) {
            work.exchange = None;
            tracing::warn!("{reason}; waiting for another view");
        }
    }

    /// Computes one microbatch of every shape that will occur, so that a GPU's kernels are compiled before the first
    /// step's deadline starts; and computes it twice, to detect a model with non-deterministic results. The results
    /// are discarded.
    fn warm_up(&mut self) -> Result<(), Failure> {
        let began = Instant::now();
        let (mut batch, mut scratch) = self.samples.buffers();
        let shapes = shapes(&self.geometry);
        let (samples, key) = (self.samples.clone(), AugmentKey { seed: self.geometry.seed, epoch: 0 });
        let mut gather = |phase, count: u32, batch: &mut HostBatch| {
            let ordinals: Vec<u64> = (0..u64::from(count)).collect();
            let gathered = samples.gather(phase, key, &ordinals, &mut scratch, batch);
            gathered.map_err(|error| fail(3, error.to_string()))
        };
        // Within a phase, small shapes precede large ones.
        let largest = shapes.iter().rfind(|(phase, _)| *phase == Phase::Train);
        if let Some((phase, count)) = largest.filter(|_| self.config.train.precision != Precision::F32) {
            gather(*phase, *count, &mut batch)?;
            compare_with_f32(self.engine.as_mut(), &batch)?;
        }
        for (phase, count) in shapes {
            gather(phase, count, &mut batch)?;
            let first = self.try_out(phase, &batch)?;
            let again = self.try_out(phase, &batch)?;
            if first != again {
                let message = "the same microbatch gave other bits when it was computed again: something in this model \
                               adds in no fixed order on this device (burn's sum() on a GPU does, \
                               trainer::ordered_sum doesn't), so no run of it repeats another bit for bit";
                tracing::warn!(samples = count, ?phase, "{message}");
            }
        }
        tracing::info!(took = ?began.elapsed(), "every shape is compiled");
        Ok(())
    }

    /// A hash of the bits of a microbatch's results.
    fn try_out(&mut self, phase: Phase, batch: &HostBatch) -> Result<u64, Failure> {
        let mut bits = RegionHash(0);
        let sums = match phase {
            Phase::Train => self.engine.gradient(batch, 0, &mut bits),
            Phase::Evaluate => self.engine.evaluate(batch),
        };
        let sums = sums.map_err(|error| failure(&error))?;
        Ok(sums.iter().fold(bits.0, |hash, sum| mix(hash, sum.to_bits())))
    }
}

/// Builds a configuration's model on a device, and its optimizer.
pub(crate) fn build(
    registry: &Registry,
    config: &Config,
    data: &DataSpec,
    device: &OpenDevice,
) -> Result<(Box<dyn Engine>, HostOptimizer), Failure> {
    let model = ModelConfig::new(&config.model.kind, &config.model.keys).map_err(|error| failure(&error))?;
    let engine = registry.build(&config.model.kind, &model, data, device).map_err(|error| failure(&error))?;
    let optimizer = HostOptimizer::new((&config.optimizer).into(), engine.layout());
    Ok((engine, optimizer.map_err(|error| failure(&error))?))
}

/// Freezes the parameters that `init.freeze` names.
pub(crate) fn freeze(engine: &mut dyn Engine, config: &Config) -> Result<(), Failure> {
    let layout = engine.layout();
    let names: Vec<&str> = layout.parameters.iter().map(|parameter| parameter.name.as_str()).collect();
    let frozen = trainer::names::matching("init.freeze", &config.init.freeze, &names);
    let frozen = frozen.map_err(|error| failure(&error))?;
    if frozen.contains(&true) {
        engine.freeze(&frozen).map_err(|error| failure(&error))?;
    }
    Ok(())
}

/// Refuses a model whose first gradient in half precision shows that it needs f32.
fn compare_with_f32(engine: &mut dyn Engine, batch: &HostBatch) -> Result<(), Failure> {
    let agreement = Agreement::measure(engine, batch, 0).and_then(|agreement| {
        agreement.check(batch.precision)?;
        Ok(agreement)
    });
    let Agreement { loss, gradient, cosine } = agreement.map_err(|error| failure(&error))?;
    tracing::info!(
        precision = %batch.precision,
        samples = batch.count,
        "beside f32 the loss is {loss:.1e} off and the gradient {gradient:.1e} of its length, cosine {cosine:.6}"
    );
    Ok(())
}

/// A hash over all regions, in the order in which they arrive.
struct RegionHash(u64);

impl GradientSink for RegionHash {
    fn region(&mut self, _parameter: usize, _offset: usize, data: &[f32]) {
        self.0 = data.chunks(BLOCK).fold(self.0, |hash, block| mix(hash, block_hash(block)));
    }
}

fn mix(hash: u64, value: u64) -> u64 {
    (hash.rotate_left(5) ^ value).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

/// The run's geometry, equal to the coordinator's: both derive it from the same configuration and plan.
fn geometry(config: &Config, samples: &Samples) -> Geometry {
    Geometry {
        samples: samples.training_len(),
        batch: config.train.batch_size,
        microbatch: config.train.microbatch(),
        seed: config.run.seed,
        order: order(&config.dataset),
        evaluation_samples: samples.evaluation_len(),
        evaluation_microbatch: config.train.evaluation_microbatch(),
    }
}

/// The order of samples in an epoch.
fn order(dataset: &configs::Dataset) -> Order {
    match dataset.shuffle {
        configs::Shuffle::Full => Order::Full,
        configs::Shuffle::Window => Order::Window(dataset.shuffle_window),
        configs::Shuffle::None => Order::AsStored,
    }
}

/// All sample counts that a microbatch of this run can have.
fn shapes(geometry: &Geometry) -> BTreeSet<(Phase, u32)> {
    let mut shapes = BTreeSet::new();
    let mut add = |phase, samples: u32, size: u32| {
        let size = size.max(1);
        let last = samples % size;
        shapes.extend((samples >= size).then_some((phase, size)));
        shapes.extend((last > 0).then_some((phase, last)));
    };
    if geometry.samples > 0 {
        add(Phase::Train, geometry.step(1).samples, geometry.microbatch);
        add(Phase::Train, geometry.step(geometry.steps_per_epoch()).samples, geometry.microbatch);
    }
    add(Phase::Evaluate, geometry.evaluation().samples, geometry.evaluation_microbatch);
    shapes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_of_a_run_is_warmed_up() {
        let geometry = Geometry {
            samples: 103,
            batch: 20,
            microbatch: 8,
            seed: 1,
            order: Order::Full,
            evaluation_samples: 17,
            evaluation_microbatch: 8,
        };
        let mut occurring = BTreeSet::new();
        let mut ordinals = Vec::new();
        for step in 1..=geometry.steps_per_epoch() {
            let plan = geometry.step(step);
            for microbatch in 0..plan.microbatches {
                geometry.ordinals_into(&plan, microbatch, &mut ordinals);
                occurring.insert((Phase::Train, ordinals.len() as u32));
            }
        }
        for microbatch in 0..geometry.evaluation().microbatches {
            geometry.evaluation_ordinals_into(microbatch, &mut ordinals);
            occurring.insert((Phase::Evaluate, ordinals.len() as u32));
        }
        assert_eq!(shapes(&geometry), occurring);
        assert_eq!(shapes(&Geometry { samples: 0, evaluation_samples: 0, ..geometry }), BTreeSet::new());
    }
}
