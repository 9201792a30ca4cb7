//! Bars on a terminal: one for the run, one for the epoch, a line for each worker.

use super::block::{Block, Colour, Line, Segment};
use super::{MemberLine, Progress, RunInfo, duration};
use crate::record::data_wait::shown;

/// Width of the label before a bar, in columns.
const LABEL: usize = 9;
/// Maximum length of a bar.
const BAR_MAX: usize = 28;
/// Minimum length of a readable bar.
const BAR_MIN: usize = 10;
/// On fewer columns, numbers appear without bars.
const BARS_FROM: usize = 36;
/// On fewer columns, labels are left out too.
const LABELS_FROM: usize = 24;

/// The terminal, and the last state shown.
pub(crate) struct Bars {
    block: Block,
    info: Option<RunInfo>,
    progress: Option<Progress>,
}

impl Bars {
    pub(crate) fn new() -> Self {
        Self { block: Block::of_stdout(), info: None, progress: None }
    }

    pub(crate) fn begin(&mut self, info: &RunInfo) {
        self.info = Some(info.clone());
        self.draw();
    }

    pub(crate) fn progress(&mut self, progress: &Progress) {
        self.progress = Some(progress.clone());
        self.draw();
    }

    /// Prints a line above the bars.
    pub(crate) fn line(&mut self, text: &str) {
        self.block.print_above(text);
        self.draw();
    }

    /// Redraws if the terminal was resized.
    pub(crate) fn tick(&mut self) {
        if self.block.is_resized() {
            self.draw();
        }
    }

    pub(crate) fn end(&mut self, text: &str) {
        self.info = None;
        self.block.print_above(text);
    }

    fn draw(&mut self) {
        let Some(info) = &self.info else { return };
        let progress = self.progress.as_ref();
        self.block.draw(|columns| lines(info, progress, columns));
    }
}

/// The lines to show, fitted to the columns.
fn lines(info: &RunInfo, progress: Option<&Progress>, columns: usize) -> Vec<Line> {
    let step = progress.map_or(info.first_step, |progress| progress.step);
    let counts = |at: u64, of: u64| (format!("{at}/{of}"), at as f64 / of.max(1) as f64);
    let mut run = Vec::new();
    if let Some(progress) = progress {
        run = vec![
            format!("{} left", duration(progress.eta_s)),
            format!("{:.0} samples/s", progress.samples_per_second),
            shown(progress.data_wait).trim().to_owned(),
        ];
    }
    let mut lines = vec![line("run", counts(step, info.total_steps), Colour::Yellow, &run, columns)];
    let Some(progress) = progress else { return lines };
    let in_epoch = progress.step.saturating_sub(progress.epoch * info.steps_per_epoch);
    let accuracy = progress.accuracy.map_or_else(String::new, |accuracy| format!("accuracy {accuracy:.3}"));
    let epoch = [format!("loss {:.4}", progress.loss), accuracy];
    let label = format!("epoch {}", progress.epoch + 1);
    lines.push(line(&label, counts(in_epoch, info.steps_per_epoch), Colour::Cyan, &epoch, columns));
    lines.extend(progress.members.iter().map(|member| member_line(member, columns)));
    lines
}

fn member_line(member: &MemberLine, columns: usize) -> Line {
    let share = (format!("{:>3.0} %", member.share * 100.0), member.share);
    let rest = [format!("{:.0} samples/s", member.samples_per_second), format!("on {}", member.device)];
    line(&member.name, share, Colour::Dim, &rest, columns)
}

/// A label, a bar, its number, and as many of the other texts as fit, in order of importance.
fn line(label: &str, (number, part): (String, f64), colour: Colour, rest: &[String], columns: usize) -> Line {
    let label = if columns < LABELS_FROM { String::new() } else { fitted(label) };
    let bar_min = if columns < BARS_FROM { 0 } else { BAR_MIN + 1 };
    let mut used = label.len() + number.len();
    let mut texts = String::new();
    for text in rest.iter().filter(|text| !text.is_empty()) {
        let width = 2 + text.chars().count();
        if used + bar_min + width <= columns {
            used += width;
            texts.push_str("  ");
            texts.push_str(text);
        }
    }
    let mut line = Line(vec![Segment::plain(label).in_colour(Colour::Bold)]);
    if bar_min > 0 {
        let length = columns.saturating_sub(used + 1).min(BAR_MAX);
        let filled = (part.clamp(0.0, 1.0) * length as f64).round() as usize;
        line.0.push(Segment::plain("━".repeat(filled)).in_colour(colour));
        line.0.push(Segment::plain("─".repeat(length - filled) + " ").in_colour(Colour::Dim));
    }
    line.0.push(Segment::plain(number + &texts));
    line
}

/// Right-aligned in [`LABEL`] columns, and cut to them.
fn fitted(label: &str) -> String {
    let label: String = label.chars().take(LABEL).collect();
    format!("{label:>LABEL$} ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown_on(columns: usize) -> Vec<String> {
        let info = RunInfo {
            name: "digits-1".to_owned(),
            total_steps: 12_000,
            steps_per_epoch: 230,
            batch: 64,
            first_step: 0,
            term: 1,
        };
        let member = MemberLine {
            name: "worker-from-far-away".to_owned(),
            device: "wgpu:0, NVIDIA H100 80GB HBM3".to_owned(),
            samples_per_second: 14_617.0,
            share: 0.52,
            data_ms: 0.1,
        };
        let progress = Progress {
            step: 3_000,
            epoch: 13,
            samples_per_second: 29_000.0,
            loss: 0.1234,
            accuracy: Some(0.951),
            data_wait: Some(0.003),
            eta_s: 185.0,
            members: vec![member],
        };
        lines(&info, Some(&progress), columns).iter().map(Line::text).collect()
    }

    #[test]
    fn lines_fit_and_say_first_what_matters_most() {
        for columns in 1..200 {
            for line in shown_on(columns) {
                let fits = columns < 20 || line.chars().count() <= columns;
                assert!(fits, "{columns} columns: {line:?}");
            }
        }
        let wide = shown_on(79);
        assert!(wide[0].contains("3000/12000  3 min 05 s left  29000 samples/s"), "{wide:?}");
        assert!(wide[1].contains("10/230  loss 0.1234  accuracy 0.951"), "{wide:?}");
        assert!(wide[2].starts_with("worker-fr ━"), "{wide:?}");
        let narrow = shown_on(39);
        assert!(narrow[0].contains('━') && narrow[0].contains("3000/12000"), "{narrow:?}");
        assert_eq!(shown_on(19)[0], "3000/12000");
    }
}
