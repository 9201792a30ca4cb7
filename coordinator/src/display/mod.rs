//! What people see on standard output: bars on a terminal, plain lines in a pipe, JSON for scripts.

mod bars;
mod json;
mod plain;

use std::io::IsTerminal;

use crate::cli::OutputForm;

/// What the display needs to know of a run before its first step.
#[derive(Clone, Debug)]
pub(crate) struct RunInfo {
    /// The run's name.
    pub(crate) name: String,
    /// Steps of the whole run.
    pub(crate) total_steps: u64,
    /// Steps of an epoch.
    pub(crate) steps_per_epoch: u64,
    /// Samples of a step that isn't an epoch's short last one.
    pub(crate) batch: u32,
    /// Step from which this process goes on (0 for a new run).
    pub(crate) first_step: u64,
    /// The coordinator's term.
    pub(crate) term: u32,
}

/// A committed training step, digested for people.
#[derive(Clone, Debug, Default)]
pub(crate) struct Progress {
    /// Committed steps.
    pub(crate) step: u64,
    /// Epoch of the step, from 0.
    pub(crate) epoch: u64,
    /// Samples a second over the last few seconds.
    pub(crate) samples_per_second: f64,
    /// Mean training loss of the step.
    pub(crate) loss: f64,
    /// Training accuracy of the step, for classification.
    pub(crate) accuracy: Option<f64>,
    /// Share of the members' time in the last steps that they waited for data, 0 to 1.
    pub(crate) data_wait: Option<f64>,
    /// Seconds until the end at this speed.
    pub(crate) eta_s: f64,
    /// A line per member.
    pub(crate) members: Vec<MemberLine>,
}

/// One member's speed and share.
#[derive(Clone, Debug, Default)]
pub(crate) struct MemberLine {
    /// Name.
    pub(crate) name: String,
    /// Device.
    pub(crate) device: String,
    /// Samples a second while it computes.
    pub(crate) samples_per_second: f64,
    /// Its part of the samples, 0 to 1.
    pub(crate) share: f64,
    /// How long it waited for its samples, in milliseconds.
    pub(crate) data_ms: f64,
}

/// A metric as it goes to metrics.jsonl.
pub(crate) use tracker::Metric;

/// One of the three forms.
pub(crate) enum Display {
    /// indicatif bars.
    Bars(bars::Bars),
    /// A line now and then.
    Plain(plain::Plain),
    /// A line of JSON for each metric and event.
    Json(json::Json),
}

impl Display {
    /// Chooses the form.
    pub(crate) fn new(form: OutputForm) -> Self {
        match form {
            OutputForm::Json => Self::Json(json::Json),
            OutputForm::Text if std::io::stdout().is_terminal() => Self::Bars(bars::Bars::new()),
            OutputForm::Text => Self::Plain(plain::Plain::default()),
        }
    }

    /// The run is about to begin.
    pub(crate) fn begin(&mut self, info: &RunInfo) {
        match self {
            Self::Bars(bars) => bars.begin(info),
            Self::Plain(plain) => plain.begin(info),
            Self::Json(_) => {}
        }
    }

    /// A training step was committed.
    pub(crate) fn progress(&mut self, progress: &Progress) {
        match self {
            Self::Bars(bars) => bars.progress(progress),
            Self::Plain(plain) => plain.progress(progress),
            Self::Json(_) => {}
        }
    }

    /// Metrics were recorded.
    pub(crate) fn metrics(&mut self, metrics: &[Metric]) {
        if let Self::Json(json) = self {
            json.metrics(metrics);
        }
    }

    /// An epoch was evaluated: (key, value) of the headline metrics.
    pub(crate) fn evaluated(&mut self, epoch: u64, step: u64, headline: &[(String, f64)]) {
        let line =
            headline.iter().map(|(key, value)| format!("{key} {value:.4}")).collect::<Vec<_>>().join("  ");
        match self {
            Self::Bars(bars) => bars.line(&format!("epoch {:>3}  step {step:>6}  {line}", epoch + 1)),
            Self::Plain(plain) => plain.evaluated(epoch, step, &line),
            Self::Json(_) => {}
        }
    }

    /// Something that people should know: joins, losses, views, versions, warnings.
    pub(crate) fn event(&mut self, event: &str, text: &str, details: &serde_json::Value) {
        match self {
            Self::Bars(bars) => bars.line(text),
            Self::Plain(_) => plain::print(text),
            Self::Json(json) => json.event(event, text, details),
        }
    }

    /// The run is over; the last line says where everything is.
    pub(crate) fn end(&mut self, text: &str, details: &serde_json::Value) {
        match self {
            Self::Bars(bars) => bars.end(text),
            Self::Plain(_) => plain::print(text),
            Self::Json(json) => json.event("end", text, details),
        }
    }

    /// The run has failed: whoever keeps standard output in a file finds out why on standard error, as with any error.
    pub(crate) fn fail(&mut self, text: &str, details: &serde_json::Value) {
        self.end(text, details);
        if !std::io::stdout().is_terminal() {
            eprintln!("coordinator: {text}");
        }
    }
}

/// Seconds as people say them: `42 s`, `3 min 05 s`, `2 h 07 min`.
pub(crate) fn duration(seconds: f64) -> String {
    let whole = if seconds.is_finite() && seconds > 0.0 { seconds.round() as u64 } else { 0 };
    match whole {
        0..=99 => format!("{whole} s"),
        100..=5999 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3600, whole % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn durations_read_well() {
        let said: Vec<String> = [0.2, 42.0, 185.0, 7_620.0, f64::NAN].map(super::duration).into();
        assert_eq!(said, ["0 s", "42 s", "3 min 05 s", "2 h 07 min", "0 s"]);
    }
}
