//! The sinks (other trackers) of a run: started with it, notified of its metrics, and given time to finish at its end.
//! Whatever they do, the run goes on.

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

/// How long the end of an uninterrupted run waits for sinks that make no progress; four times as long if they do.
const PATIENCE: Duration = Duration::from_secs(15);
/// The same for an interrupted run, whose user is waiting.
const PATIENCE_INTERRUPTED: Duration = Duration::from_secs(5);
/// After this long, a message says what is being waited for.
const SILENCE: Duration = Duration::from_secs(1);
/// How long `tracker push` retries without progress.
const PATIENCE_PUSH: Duration = Duration::from_secs(20);

/// An environment variable, if set and not empty.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The sinks that the configuration and the environment request.
pub(crate) fn wanted(resolved: &Resolved) -> Result<Vec<SinkConfig>, StartError> {
    SinkConfig::of(&resolved.config.tracker, &resolved.stem, &variable).map_err(StartError::config)
}

#[derive(Default)]
pub(crate) struct RunningSinks {
    sinks: Option<Sinks>,
    /// For the push commands that are shown if metrics are left unsent.
    wanted: Vec<SinkConfig>,
    /// Remarks of the tracker that is served alongside the run.
    served: Option<Receiver<String>>,
}

impl RunningSinks {
    /// Starts the sinks, once the run's record is written. Errors are reported, and training goes on.
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

    /// Adds the remarks of the tracker that is served alongside the run.
    pub(crate) fn with_remarks_of(self, served: Option<Receiver<String>>) -> Self {
        Self { served, ..self }
    }

    /// Notifies the sinks that metrics were written.
    pub(crate) fn notify(&self) {
        if let Some(sinks) = &self.sinks {
            sinks.notify();
        }
    }

    /// Remarks for people since the last call.
    pub(crate) fn remarks(&mut self) -> Vec<String> {
        let mut remarks = self.sinks.as_mut().map(Sinks::remarks).unwrap_or_default();
        remarks.extend(self.served.iter().flat_map(Receiver::try_iter));
        remarks
    }

    /// After the run's record is written, sends the rest until a deadline or a signal.
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

/// Runs `coordinator tracker push`: sends what the target lacks of a run.
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
