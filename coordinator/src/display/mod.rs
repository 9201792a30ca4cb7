//! What people see on standard output: bars on a terminal, plain lines in a pipe, JSON for scripts.

mod bars;
mod block;
mod json;
mod plain;

pub(crate) use plain::print;

use std::io::IsTerminal;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

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
pub(crate) use run_record::Metric;

/// So many lines may wait for whoever reads them.
const WAITING_MAX: usize = 16_384;
/// Progress is shown so often.
const PROGRESS_EVERY: Duration = Duration::from_millis(100);
/// A terminal is asked for its size so often while nothing is new.
const TICK: Duration = Duration::from_millis(500);
/// At the end of the run what waits may take so long.
const END_DEADLINE: Duration = Duration::from_secs(10);

/// What is shown, on a thread of its own: a terminal that is held (Ctrl-S) or a pipe that nobody empties holds up nothing
/// else. What finds no room there is left out, and how much that was is said.
pub(crate) struct Display {
    is_json: bool,
    lines: Option<SyncSender<DisplayMessage>>,
    thread: Option<JoinHandle<()>>,
    progress_shown: Option<Instant>,
    left_out: u64,
}

/// A message to the thread.
enum DisplayMessage {
    Begin(RunInfo),
    Progress(Box<Progress>),
    Metrics(Vec<Metric>),
    Evaluated { epoch: u64, step: u64, line: String },
    Event { event: String, text: String, details: Value },
    LeftOut(u64),
    End { text: String, details: Value, failed: bool },
}

impl Display {
    /// Chooses the form.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(crate) fn new(form: OutputForm) -> std::io::Result<Self> {
        let (lines, inbox) = sync_channel(WAITING_MAX);
        let mut shown = DisplayMode::new(form);
        let show = move || {
            loop {
                match inbox.recv_timeout(TICK) {
                    Ok(line) => shown.show(line),
                    Err(RecvTimeoutError::Timeout) => shown.tick(),
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            }
        };
        let thread = std::thread::Builder::new().name("display".to_owned()).spawn(show)?;
        let is_json = form == OutputForm::Json;
        Ok(Self { is_json, lines: Some(lines), thread: Some(thread), progress_shown: None, left_out: 0 })
    }

    /// The run is about to begin.
    pub(crate) fn begin(&mut self, info: &RunInfo) {
        self.put(DisplayMessage::Begin(info.clone()));
    }

    /// A training step was committed: shown now and then.
    pub(crate) fn progress(&mut self, progress: &Progress) {
        if self.progress_shown.is_none_or(|at| at.elapsed() >= PROGRESS_EVERY) {
            self.progress_now(progress);
        }
    }

    /// How far the run is, before a line about that.
    pub(crate) fn progress_now(&mut self, progress: &Progress) {
        if self.is_json {
            return;
        }
        self.progress_shown = Some(Instant::now());
        if let Some(lines) = &self.lines {
            // The next one tells more.
            let _ = lines.try_send(DisplayMessage::Progress(Box::new(progress.clone())));
        }
    }

    /// Metrics were recorded.
    pub(crate) fn metrics(&mut self, metrics: &[Metric]) {
        if self.is_json && !metrics.is_empty() {
            self.put(DisplayMessage::Metrics(metrics.to_vec()));
        }
    }

    /// An epoch was evaluated: (key, value) of the headline metrics.
    pub(crate) fn evaluated(&mut self, epoch: u64, step: u64, headline: &[(String, f64)]) {
        let line =
            headline.iter().map(|(key, value)| format!("{key} {value:.4}")).collect::<Vec<_>>().join("  ");
        self.put(DisplayMessage::Evaluated { epoch, step, line });
    }

    /// Something that people should know: joins, losses, views, versions, warnings.
    pub(crate) fn event(&mut self, event: &str, text: &str, details: &Value) {
        self.put(DisplayMessage::Event {
            event: event.to_owned(),
            text: text.to_owned(),
            details: details.clone(),
        });
    }

    /// The run is over; the last line says where everything is. Of a run that has failed whoever keeps standard output
    /// in a file finds out why on standard error, as with any error.
    pub(crate) fn end(&mut self, text: &str, details: &Value, failed: bool) {
        self.put(DisplayMessage::End { text: text.to_owned(), details: details.clone(), failed });
    }

    fn put(&mut self, shown: DisplayMessage) {
        let Some(lines) = &self.lines else { return };
        if self.left_out > 0 && lines.try_send(DisplayMessage::LeftOut(self.left_out)).is_ok() {
            self.left_out = 0;
        }
        if lines.try_send(shown).is_err() {
            self.left_out += 1;
        }
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        self.lines = None;
        let until = Instant::now() + END_DEADLINE;
        while self.thread.as_ref().is_some_and(|thread| !thread.is_finished()) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// A line of a command that shows no run.
pub(crate) fn say(form: OutputForm, event: &str, text: &str, details: &Value) {
    match form {
        OutputForm::Text => plain::print(text),
        OutputForm::Json => json::Json.event(event, text, details),
    }
}

impl DisplayMessage {
    /// With names and texts of others as they can be shown. JSON has its own way.
    fn printable(self) -> Self {
        let text = |text: String| printable::text(&text).into_owned();
        let line = |text: &mut String| *text = printable::line(text).into_owned();
        match self {
            Self::Begin(mut info) => {
                line(&mut info.name);
                Self::Begin(info)
            }
            Self::Progress(mut progress) => {
                for member in &mut progress.members {
                    line(&mut member.name);
                    line(&mut member.device);
                }
                Self::Progress(progress)
            }
            Self::Evaluated { epoch, step, line } => Self::Evaluated { epoch, step, line: text(line) },
            Self::Event { event, text: said, details } => Self::Event { event, text: text(said), details },
            Self::End { text: said, details, failed } => Self::End { text: text(said), details, failed },
            other @ (Self::Metrics(_) | Self::LeftOut(_)) => other,
        }
    }
}

/// One of the three forms.
enum DisplayMode {
    /// Bars, drawn over and over.
    Bars(bars::Bars),
    /// A line now and then.
    Plain(plain::Plain),
    /// A line of JSON for each metric and event.
    Json(json::Json),
}

impl DisplayMode {
    fn new(form: OutputForm) -> Self {
        match form {
            OutputForm::Json => Self::Json(json::Json),
            OutputForm::Text if is_drawable() => Self::Bars(bars::Bars::new()),
            OutputForm::Text => Self::Plain(plain::Plain::default()),
        }
    }

    fn tick(&mut self) {
        if let Self::Bars(bars) = self {
            bars.tick();
        }
    }

    fn show(&mut self, shown: DisplayMessage) {
        let shown = if matches!(self, Self::Json(_)) { shown } else { shown.printable() };
        match (self, shown) {
            (Self::Bars(bars), DisplayMessage::Begin(info)) => bars.begin(&info),
            (Self::Bars(bars), DisplayMessage::Progress(progress)) => bars.progress(&progress),
            (Self::Bars(bars), DisplayMessage::Evaluated { epoch, step, line }) => {
                bars.line(&format!("epoch {:>3}  step {step:>6}  {line}", epoch + 1));
            }
            (Self::Bars(bars), DisplayMessage::Event { text, .. }) => bars.line(&text),
            (Self::Bars(bars), DisplayMessage::End { text, .. }) => bars.end(&text),
            (Self::Plain(plain), DisplayMessage::Begin(info)) => plain.begin(&info),
            (Self::Plain(plain), DisplayMessage::Progress(progress)) => plain.progress(&progress),
            (Self::Plain(plain), DisplayMessage::Evaluated { epoch, step, line }) => {
                plain.evaluated(epoch, step, &line);
            }
            (Self::Plain(_), DisplayMessage::Event { text, .. }) => plain::print(&text),
            (Self::Plain(_), DisplayMessage::End { text, failed, .. }) => {
                end(&text, failed, || plain::print(&text));
            }
            (Self::Json(json), DisplayMessage::Metrics(metrics)) => json.metrics(&metrics),
            (Self::Json(json), DisplayMessage::Event { event, text, details }) => {
                json.event(&event, &text, &details);
            }
            (Self::Json(json), DisplayMessage::End { text, details, failed }) => {
                end(&text, failed, || json.event("end", &text, &details));
            }
            (own, DisplayMessage::LeftOut(lines)) => {
                let text = format!("{lines} lines were left out here: nobody read them in time");
                let event = "left_out".to_owned();
                own.show(DisplayMessage::Event { event, text, details: json!({ "lines": lines }) });
            }
            (
                Self::Json(_),
                DisplayMessage::Begin(_) | DisplayMessage::Progress(_) | DisplayMessage::Evaluated { .. },
            )
            | (Self::Bars(_) | Self::Plain(_), DisplayMessage::Metrics(_)) => {}
        }
    }
}

/// Whether standard output is a terminal whose cursor can be moved.
fn is_drawable() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

fn end(text: &str, failed: bool, show: impl FnOnce()) {
    show();
    if failed && !std::io::stdout().is_terminal() && !is_one_file() {
        printable::error_line(format_args!("coordinator: {text}"));
    }
}

/// Whether standard output and standard error go to one place, where a word is said once.
fn is_one_file() -> bool {
    let of = |stat: rustix::fs::Stat| (stat.st_dev, stat.st_ino);
    let out = rustix::fs::fstat(std::io::stdout()).map(of);
    out.is_ok() && out == rustix::fs::fstat(std::io::stderr()).map(of)
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
    use super::*;

    #[test]
    fn what_finds_no_room_is_counted_and_said_when_there_is_some() {
        let (lines, inbox) = sync_channel(2);
        let mut display =
            Display { is_json: true, lines: Some(lines), thread: None, progress_shown: None, left_out: 0 };
        for number in 0..5 {
            display.event("message", &number.to_string(), &Value::Null);
        }
        display.progress(&Progress::default());
        let taken: Vec<DisplayMessage> = inbox.try_iter().collect();
        assert!(matches!(&taken[..], [_, DisplayMessage::Event { text, .. }] if text == "1"));
        display.event("message", "5", &Value::Null);
        let taken: Vec<DisplayMessage> = inbox.try_iter().collect();
        assert!(
            matches!(&taken[..], [DisplayMessage::LeftOut(3), DisplayMessage::Event { text, .. }] if text == "5")
        );
        display.event("message", "6", &Value::Null);
        assert!(
            matches!(inbox.try_iter().collect::<Vec<_>>()[..], [DisplayMessage::Event { .. }]),
            "said once"
        );
    }

    #[test]
    fn durations_read_well() {
        let said: Vec<String> = [0.2, 42.0, 185.0, 7_620.0, f64::NAN].map(duration).into();
        assert_eq!(said, ["0 s", "42 s", "3 min 05 s", "2 h 07 min", "0 s"]);
    }
}
