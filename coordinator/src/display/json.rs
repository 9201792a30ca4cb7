//! JSON output for scripts: a line for each metric (as in metrics.jsonl) and event.

use serde_json::{Value, json};

use super::Metric;

pub(crate) struct Json;

impl Json {
    pub(crate) fn metrics(&mut self, metrics: &[Metric]) {
        for metric in metrics {
            printable::print_json(metric.to_json_line());
        }
    }

    pub(crate) fn event(&mut self, event: &str, text: &str, details: &Value) {
        let mut line = json!({ "event": event, "text": text });
        if let (Value::Object(line), Value::Object(details)) = (&mut line, details) {
            line.extend(details.iter().map(|(key, value)| (key.clone(), value.clone())));
        }
        printable::print_json(line);
    }
}
