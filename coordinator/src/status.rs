//! The answer of `coordinator status`.

/// As it goes over the wire.
pub(crate) type StatusReport = wire::proto::StatusReply;

/// For people.
#[must_use]
pub(crate) fn to_text(report: &StatusReport) -> String {
    let mut text = format!(
        "{}: {}\n  {}\n  step {} of {}, epoch {}, {:.0} samples/s, {} left\n",
        report.run,
        report.state,
        report.directory,
        report.step,
        report.total_steps,
        report.epoch + 1,
        report.samples_per_second,
        crate::display::duration(report.eta_seconds),
    );
    let mut metrics: Vec<_> =
        report.metrics.iter().filter(|(key, _)| !key.contains("/p") && !key.contains("/r")).collect();
    metrics.sort_by(|a, b| a.0.cmp(b.0));
    for (key, value) in metrics {
        text.push_str(&format!("  {key} {value:.4}\n"));
    }
    if !report.waiting_for.is_empty() {
        text.push_str(&format!("  waiting for {}\n", report.waiting_for));
    }
    if let Some(step) = report.newest_version {
        text.push_str(&format!("  newest version: step {step}\n"));
    }
    for member in &report.members {
        text.push_str(&format!(
            "  {:<12} {:>3.0} % of the samples, {:.0} samples/s on {}\n",
            member.name,
            member.share * 100.0,
            member.samples_per_second,
            member.device
        ));
    }
    text
}

/// For scripts.
#[must_use]
pub(crate) fn to_json(report: &StatusReport) -> String {
    let metrics: std::collections::BTreeMap<_, _> = report.metrics.iter().collect();
    let members: Vec<_> = report
        .members
        .iter()
        .map(|m| {
            serde_json::json!({
                "name": m.name, "device": m.device, "share": m.share, "samples_per_second": m.samples_per_second,
            })
        })
        .collect();
    serde_json::json!({
        "run": report.run, "directory": report.directory, "state": report.state, "step": report.step,
        "total_steps": report.total_steps, "epoch": report.epoch, "samples_per_second": report.samples_per_second,
        "eta_seconds": report.eta_seconds, "metrics": metrics, "members": members, "views": report.views,
        "waiting_for": report.waiting_for, "newest_version": report.newest_version,
    })
    .to_string()
}
