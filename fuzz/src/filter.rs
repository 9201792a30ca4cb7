//! Fuzzes the filter and order strings of searches.

use tracker::filter::{FieldValue, Filter, Order};

/// The first line is the filter; the rest is a value to match it against.
pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (filter, value) = text.split_once('\n').unwrap_or((text, "a value"));
    if let Ok(read) = Filter::parse(filter) {
        for clause in &read.clauses {
            let number = value.parse().unwrap_or(0.5);
            for found in [FieldValue::Nothing, FieldValue::Number(number), FieldValue::Text(value)] {
                let _ = clause.holds(found);
            }
        }
    }
    for refused in [Filter::parse(filter).err(), Order::parse(filter).err()].into_iter().flatten() {
        assert!(refused.at <= filter.chars().count() + 1, "{refused:?}");
        let _ = refused.to_string();
    }
}
