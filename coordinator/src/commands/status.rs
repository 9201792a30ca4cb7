//! The answer to `coordinator status`, from a running coordinator or from a run's record.

use std::collections::BTreeMap;
use std::path::Path;

use run_record::{EventRecord, RunRecord, RunStatus};
use serde_json::json;
use wire::convert::{DEVICE_BYTES_MAX, cut};
use wire::proto::EventStatus;

use crate::display::duration;

/// The report, in its wire format.
pub(crate) type StatusReport = wire::proto::StatusReply;

/// The state of a run that is running by its record, but whose coordinator doesn't answer.
pub(crate) const LOST: &str = "lost";
/// Number of recent events in a report.
const EVENTS: usize = 20;
/// Number of recent events in the text output.
const EVENTS_SHOWN: usize = 8;

/// Maximum length of a text in a report, in bytes: as much as a person reads at once.
const TEXT_BYTES_MAX: usize = 1 << 10;
/// Maximum number of metrics in a report: three for each of a thousand labels. Longer names, which are labels of the
/// data, are dropped.
const METRICS_MAX: usize = 4_096;
const METRIC_NAME_BYTES_MAX: usize = 256;
/// Maximum number of members in a report: as many as a view can have.
const MEMBERS_MAX: usize = wire::convert::MEMBERS_MAX;

/// Cuts a report to a size that its reader accepts ([`wire::MESSAGE_BYTES_MAX`], and tonic's 4 MiB).
pub(crate) fn bounded(mut report: StatusReport) -> StatusReport {
    let keeps = |name: &str| name.len() <= METRIC_NAME_BYTES_MAX;
    report.metrics.retain(|name, _| keeps(name));
    if report.metrics.len() > METRICS_MAX {
        // Metrics without a label first.
        let mut names: Vec<String> = report.metrics.keys().cloned().collect();
        names.sort_by_key(|name| (!is_headline(name), name.clone()));
        names.iter().skip(METRICS_MAX).for_each(|name| _ = report.metrics.remove(name));
    }
    report.members.truncate(MEMBERS_MAX);
    let members = report.members.iter_mut().flat_map(|member| [&mut member.name, &mut member.device]);
    for text in members {
        *text = cut(std::mem::take(text), DEVICE_BYTES_MAX);
    }
    let events = report.events.iter_mut().map(|event| &mut event.text);
    for text in events.chain([&mut report.waiting_for, &mut report.message]) {
        *text = cut(std::mem::take(text), TEXT_BYTES_MAX);
    }
    report
}

pub(crate) fn last_events(events: &[EventRecord]) -> Vec<EventStatus> {
    let last = &events[events.len().saturating_sub(EVENTS)..];
    let event = |event: &EventRecord| EventStatus {
        time: event.time,
        step: event.step,
        event: event.event.clone(),
        text: event.text.clone(),
        cost_seconds: event.cost_seconds,
        repeated: event.repeated,
    };
    last.iter().map(event).collect()
}

/// The report of a run without a coordinator, from its record.
pub(crate) fn of_record(record: &RunRecord, dir: &Path) -> StatusReport {
    let state = match record.status {
        RunStatus::Running => LOST,
        RunStatus::Completed => "completed",
        RunStatus::Interrupted => "interrupted",
        RunStatus::Failed => "failed",
    };
    StatusReport {
        run: record.run.clone(),
        directory: dir.display().to_string(),
        state: state.to_owned(),
        step: record.final_state.step,
        epoch: record.final_state.epoch,
        metrics: record.final_state.metrics.clone().into_iter().collect(),
        views: record.views,
        retries: record.retries,
        events: last_events(&record.events),
        message: record.message.clone(),
        now: crate::clock::unix_seconds(),
        ..StatusReport::default()
    }
}

/// Formats a report for people.
#[must_use]
pub(crate) fn to_text(report: &StatusReport) -> String {
    let mut text =
        format!("{}: {}\n  {}\n  {}\n", report.run, headline(report), report.directory, position(report));
    for (key, value) in metrics(report).iter().filter(|(key, _)| is_headline(key)) {
        text.push_str(&format!("  {key} {value:.4}\n"));
    }
    if !report.waiting_for.is_empty() {
        let since = report.waiting_seconds.map_or_else(String::new, |s| format!(", for {} now", duration(s)));
        text.push_str(&format!("  waiting for {}{since}\n", report.waiting_for));
    }
    if let Some(step) = report.newest_version {
        text.push_str(&format!("  newest version: step {step}\n"));
    }
    for member in &report.members {
        let does = match &*member.state {
            "joining" => "joining".to_owned(),
            _ => format!(
                "{:>3.0} % of the samples, {:.0} samples/s",
                member.share * 100.0,
                member.samples_per_second
            ),
        };
        text.push_str(&format!("  {:<12} {does} on {}\n", member.name, member.device));
    }
    text.push_str(&events(report));
    text
}

fn headline(report: &StatusReport) -> String {
    let state = match &*report.state {
        LOST => "no coordinator answers; it was running when its record was written",
        "interrupted" => "interrupted; --resume goes on",
        state => state,
    };
    let message = if report.message.is_empty() { String::new() } else { format!(" ({})", report.message) };
    match report.term {
        0 => format!("{state}{message}"),
        term => {
            let terms = if term > 1 { format!(", term {term}") } else { String::new() };
            format!("{state} since {}{terms}", duration(report.now - report.started))
        }
    }
}

fn position(report: &StatusReport) -> String {
    if report.total_steps == 0 {
        return format!("step {}", report.step);
    }
    let reached = format!("step {} of {}, epoch {}", report.step, report.total_steps, report.epoch + 1);
    // Unknown before the first steps.
    if report.samples_per_second > 0.0 && report.eta_seconds.is_finite() {
        let left = duration(report.eta_seconds);
        format!("{reached}, {:.0} samples/s, {left} left", report.samples_per_second)
    } else {
        reached
    }
}

fn metrics(report: &StatusReport) -> BTreeMap<&String, &f64> {
    report.metrics.iter().collect()
}

/// Excludes the many metrics of single classes, such as `validation/recall/3`.
fn is_headline(key: &str) -> bool {
    key.matches('/').count() == 1
}

/// The recent events: when, after which step, and at what cost.
fn events(report: &StatusReport) -> String {
    let shown = &report.events[report.events.len().saturating_sub(EVENTS_SHOWN)..];
    let line = |event: &EventStatus| {
        // A hold's text says it already.
        let cost = event.cost_seconds.filter(|_| event.event != "hold").map_or_else(String::new, cost);
        let times =
            if event.repeated > 0 { format!("  [{} times]", event.repeated + 1) } else { String::new() };
        let ago = duration(report.now - event.time);
        format!("    {ago:>10} ago  step {:<7} {}{cost}{times}\n", event.step, event.text)
    };
    let lines: String = shown.iter().map(line).collect();
    if lines.is_empty() { lines } else { format!("  what happened last:\n{lines}") }
}

fn cost(seconds: f64) -> String {
    if seconds < 1.0 { format!("  [{:.0} ms]", seconds * 1_000.0) } else { format!("  [{seconds:.1} s]") }
}

/// Formats a report for scripts, with the same keys whatever its source.
#[must_use]
pub(crate) fn to_json(report: &StatusReport) -> String {
    let members: Vec<_> = report
        .members
        .iter()
        .map(|m| {
            json!({
                "name": m.name, "device": m.device, "share": m.share, "samples_per_second": m.samples_per_second,
                "state": m.state,
            })
        })
        .collect();
    let events: Vec<_> = report
        .events
        .iter()
        .map(|e| {
            json!({
                "time": e.time, "step": e.step, "event": e.event, "text": e.text, "cost_seconds": e.cost_seconds,
                "repeated": e.repeated,
            })
        })
        .collect();
    json!({
        "run": report.run, "directory": report.directory, "state": report.state, "message": report.message,
        "step": report.step, "total_steps": report.total_steps, "epoch": report.epoch,
        "samples_per_second": report.samples_per_second, "eta_seconds": report.eta_seconds,
        "metrics": metrics(report), "members": members, "views": report.views, "retries": report.retries,
        "term": report.term, "started": report.started, "now": report.now, "waiting_for": report.waiting_for,
        "waiting_seconds": report.waiting_seconds, "newest_version": report.newest_version, "events": events,
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use wire::proto::MemberStatus;

    use super::*;

    #[test]
    fn an_answer_fits_whatever_happened() {
        let long = "x".repeat(1 << 20);
        let words = "x".repeat(2_000);
        let member = MemberStatus { name: words.clone(), device: words, ..MemberStatus::default() };
        let event = EventStatus { text: long.clone(), ..EventStatus::default() };
        let named = |key: usize| (format!("validation/recall/{key}"), 0.5);
        let mut metrics: std::collections::HashMap<_, _> = (0..20_000).map(named).collect();
        metrics.extend([("validation/loss".to_owned(), 1.0), (long.clone(), 1.0)]);
        let report = bounded(StatusReport {
            metrics,
            members: vec![member; 5_000],
            waiting_for: long.clone(),
            events: vec![event; EVENTS],
            message: long,
            ..StatusReport::default()
        });
        let bytes = wire::encoded_bytes(&report);
        assert!(bytes < 4 << 20, "{bytes} bytes");
        assert_eq!(report.metrics.len(), METRICS_MAX);
        assert!(report.metrics.contains_key("validation/loss"));
        assert!(report.waiting_for.ends_with("..."));
    }
}
