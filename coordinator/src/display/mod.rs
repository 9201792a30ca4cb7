//! Output to standard output: bars on a terminal, plain lines in a pipe, JSON for scripts.

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

/// The facts about a run that the display needs before the first step.
#[derive(Clone, Debug)]
pub(crate) struct RunInfo {
    pub(crate) name: String,
    pub(crate) total_steps: u64,
    pub(crate) steps_per_epoch: u64,
    /// Samples of a full step (an epoch's last step may be shorter).
    pub(crate) batch: u32,
    /// Step from which this process continues (0 for a new run).
    pub(crate) first_step: u64,
    pub(crate) term: u32,
}

/// Progress at a committed training step.
#[derive(Clone, Debug, Default)]
pub(crate) struct Progress {
    pub(crate) step: u64,
    /// Epoch of the step, counted from 0.
    pub(crate) epoch: u64,
    /// Averaged over the last few seconds.
    pub(crate) samples_per_second: f64,
    /// Mean training loss of the step.
    pub(crate) loss: f64,
    /// Training accuracy of the step, for classification tasks.
    pub(crate) accuracy: Option<f64>,
    /// Share of recent step time that the members spent waiting for data, 0 to 1.
    pub(crate) data_wait: Option<f64>,
    /// Estimated seconds until the end of the run.
    pub(crate) eta_s: f64,
    pub(crate) members: Vec<MemberLine>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct MemberLine {
    pub(crate) name: String,
    pub(crate) device: String,
    /// Measured over its compute and data time only.
    pub(crate) samples_per_second: f64,
    /// The member's share of the samples, 0 to 1.
    pub(crate) share: f64,
    /// Time spent waiting for samples, in milliseconds.
    pub(crate) data_ms: f64,
}

pub(crate) use run_record::Metric;

/// Maximum number of lines that may wait for a slow reader.
const WAITING_MAX: usize = 16_384;
/// How often progress is shown.
const PROGRESS_EVERY: Duration = Duration::from_millis(100);
/// How often an idle display checks the terminal's size.
const TICK: Duration = Duration::from_millis(500);
/// How long queued lines may take to drain at the end of the run.
const END_DEADLINE: Duration = Duration::from_secs(10);

/// The display, on a thread of its own: a paused terminal (Ctrl-S) or an unread pipe blocks nothing else. Lines that
/// find the queue full are dropped and counted, and the count is shown later.
pub(crate) struct Display {
    is_json: bool,
    lines: Option<SyncSender<DisplayMessage>>,
    thread: Option<JoinHandle<()>>,
    progress_shown: Option<Instant>,
    left_out: u64,
}

/// A message to the display thread.
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
    /// Starts the display thread.
    ///
    /// # Errors
    /// When the thread can't be started.
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

    pub(crate) fn begin(&mut self, info: &RunInfo) {
        self.put(DisplayMessage::Begin(info.clone()));
    }

    /// A training step was committed; shown at most every [`PROGRESS_EVERY`].
    pub(crate) fn progress(&mut self, progress: &Progress) {
        if self.progress_shown.is_none_or(|at| at.elapsed() >= PROGRESS_EVERY) {
            self.progress_now(progress);
        }
    }

    /// Shows progress at once, such as before a line that refers to it.
    pub(crate) fn progress_now(&mut self, progress: &Progress) {
        if self.is_json {
            return;
        }
        self.progress_shown = Some(Instant::now());
        if let Some(lines) = &self.lines {
            // May be dropped: the next one supersedes it.
            let _ = lines.try_send(DisplayMessage::Progress(Box::new(progress.clone())));
        }
    }

    pub(crate) fn metrics(&mut self, metrics: &[Metric]) {
        if self.is_json && !metrics.is_empty() {
            self.put(DisplayMessage::Metrics(metrics.to_vec()));
        }
    }

    /// An epoch was evaluated; `headline` holds (key, value) pairs.
    pub(crate) fn evaluated(&mut self, epoch: u64, step: u64, headline: &[(String, f64)]) {
        let line =
            headline.iter().map(|(key, value)| format!("{key} {value:.4}")).collect::<Vec<_>>().join("  ");
        self.put(DisplayMessage::Evaluated { epoch, step, line });
    }

    /// Reports an event for people: joins, losses, views, checkpoints, warnings.
    pub(crate) fn event(&mut self, event: &str, text: &str, details: &Value) {
        self.put(DisplayMessage::Event {
            event: event.to_owned(),
            text: text.to_owned(),
            details: details.clone(),
        });
    }

    /// Prints the final line, which says where the results are. If the run failed and standard output is a file, the
    /// reason also goes to standard error, like any error.
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

/// Prints a line for a command that displays no run.
pub(crate) fn say(form: OutputForm, event: &str, text: &str, details: &Value) {
    match form {
        OutputForm::Text => plain::print(text),
        OutputForm::Json => json::Json.event(event, text, details),
    }
}

impl DisplayMessage {
    /// Sanitises names and texts that come from peers. JSON does its own escaping.
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

/// The three output forms.
enum DisplayMode {
    /// Bars, redrawn in place.
    Bars(bars::Bars),
    /// Occasional plain lines.
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

/// Whether standard output is a terminal with a movable cursor.
fn is_drawable() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

fn end(text: &str, failed: bool, show: impl FnOnce()) {
    show();
    if failed && !std::io::stdout().is_terminal() && !is_one_file() {
        printable::error_line(format_args!("coordinator: {text}"));
    }
}

/// Whether standard output and standard error are the same file, so that a message needs printing only once.
fn is_one_file() -> bool {
    let of = |stat: rustix::fs::Stat| (stat.st_dev, stat.st_ino);
    let out = rustix::fs::fstat(std::io::stdout()).map(of);
    out.is_ok() && out == rustix::fs::fstat(std::io::stderr()).map(of)
}

/// Formats seconds for people: `42 s`, `3 min 05 s`, `2 h 07 min`.
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
