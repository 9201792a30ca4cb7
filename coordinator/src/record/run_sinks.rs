//! Other trackers beside a run: started with it, told of its metrics, and given a while at its end. Whatever they do,
//! the run goes on.

use std::path::Path;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use configs::Resolved;
use protocol::coordinator::Outcome;
use protocol::messages::EndReason;
use sinks::{PushError, SinkConfig, Sinks};

use crate::cli::PushArgs;
use crate::display;
use crate::run::prepare::StartError;
use crate::signals;

/// How long the end of a run waits for trackers that take nothing, if it came by itself: four times that if they do.
const PATIENCE: Duration = Duration::from_secs(15);
/// If it was told to end: whoever did that waits.
const PATIENCE_INTERRUPTED: Duration = Duration::from_secs(5);
/// After that long people want to know what is waited for.
const SILENCE: Duration = Duration::from_secs(1);
/// How long `tracker push` tries again while nothing is taken.
const PATIENCE_PUSH: Duration = Duration::from_secs(20);

/// A variable of the environment, if it says anything.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The sinks that the configuration and the environment ask for.
pub(crate) fn wanted(resolved: &Resolved) -> Result<Vec<SinkConfig>, StartError> {
    SinkConfig::of(&resolved.config.tracker, &resolved.stem, &variable).map_err(StartError::config)
}

/// The sinks of a run that goes on.
#[derive(Default)]
pub(crate) struct RunningSinks {
    sinks: Option<Sinks>,
    /// For the end: how what is left is sent.
    wanted: Vec<SinkConfig>,
    /// What the tracker that is served beside the run has to say.
    served: Option<Receiver<String>>,
}

impl RunningSinks {
    /// Starts them, once the run's folder has its record. What goes wrong is said, and training goes on.
    pub(crate) fn start(wanted: Vec<SinkConfig>, run_dir: &Path, say: impl FnOnce(&str)) -> Self {
        if wanted.is_empty() {
            return Self::default();
        }
        match Sinks::start(run_dir, wanted.clone()) {
            Ok(sinks) => Self { sinks: Some(sinks), wanted, served: None },
            Err(why) => {
                say(&format!("no sinks beside this run, no thread is left for them: {why}"));
                Self::default()
            }
        }
    }

    /// The tracker that is served beside the run is heard, too.
    pub(crate) fn hearing(self, served: Option<Receiver<String>>) -> Self {
        Self { served, ..self }
    }

    /// Metrics were written.
    pub(crate) fn notify(&self) {
        if let Some(sinks) = &self.sinks {
            sinks.notify();
        }
    }

    /// What people should know since the last call.
    pub(crate) fn remarks(&mut self) -> Vec<String> {
        let mut remarks = self.sinks.as_mut().map(Sinks::remarks).unwrap_or_default();
        remarks.extend(self.served.iter().flat_map(Receiver::try_iter));
        remarks
    }

    /// The run is over and its record written: what is left is sent, for a while, or until a signal comes.
    pub(crate) async fn finish(mut self, run_dir: &Path, outcome: &Outcome, mut say: impl FnMut(&str)) {
        self.remarks().iter().for_each(|line| say(line));
        let Some(sinks) = self.sinks else { return };
        let patience = if outcome.reason == EndReason::Interrupted { PATIENCE_INTERRUPTED } else { PATIENCE };
        let mut ending = tokio::task::spawn_blocking(move || sinks.finish(patience));
        let stopped = signals::told_to_end();
        tokio::pin!(stopped);
        let mut hint = Box::pin(tokio::time::sleep(SILENCE));
        let mut is_hinted = false;
        loop {
            tokio::select! {
                ended = &mut ending => {
                    let (mut lines, left) = ended
                        .unwrap_or_else(|why| (vec![format!("the end of the sinks isn't known: {why}")], Vec::new()));
                    lines.extend(left.into_iter().map(|left| left.text));
                    return lines.iter().for_each(|line| say(line));
                }
                () = &mut stopped => {
                    let command = |sink: &SinkConfig| format!("{}: {}", sink.name(), sink.push_command(run_dir));
                    let commands: Vec<String> = self.wanted.iter().map(command).collect();
                    let what = "what is left isn't waited for; send it later by";
                    return say(&format!("{what} {}", commands.join("; ")));
                }
                () = &mut hint, if !is_hinted => {
                    is_hinted = true;
                    say("sending what is left to other trackers (Ctrl-C: send it later)");
                }
            }
        }
    }
}

/// `coordinator tracker push`: all of a run that isn't there yet.
pub(crate) fn push(args: &PushArgs) -> Result<(), StartError> {
    let sink = SinkConfig::named(&args.to, args.experiment.as_deref(), &args.run_dir, &variable);
    let sink = sink.map_err(StartError::config)?;
    let pushed = sinks::push(&args.run_dir, &sink, PATIENCE_PUSH).map_err(|why| match why {
        PushError::Run(why) => StartError::data(why),
        PushError::Refused(why) => StartError::config(why),
        PushError::Failed(why) => StartError::failed(format!(
            "{why}. What was sent stays sent; the same command goes on from there"
        )),
    })?;
    for remark in &pushed.remarks {
        display::print(remark);
    }
    let before =
        if pushed.before > 0 { format!(" ({} were there before)", pushed.before) } else { String::new() };
    display::print(&format!("{} metrics sent{before}: {}", pushed.metrics, pushed.place));
    Ok(())
}
