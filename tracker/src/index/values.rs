//! Inserts metrics into the index, each once, and maintains the latest value of each key.

use std::collections::HashMap;

use rusqlite::{Connection, OptionalExtension, params};

/// A value to be inserted.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Sample {
    pub(super) step: i64,
    /// Milliseconds since 1970.
    pub(super) time_ms: i64,
    pub(super) value: f64,
    pub(super) epoch: Option<f64>,
    pub(super) samples: Option<i64>,
}

/// A key's newest value and the summary of its history.
#[derive(Clone, Copy, Debug)]
struct Latest {
    step: i64,
    time: i64,
    tie: i64,
    value: Option<f64>,
    count: i64,
    minimum: Option<f64>,
    maximum: Option<f64>,
}

/// Writes one run's values; [`Writer::close`] writes the summaries.
pub(super) struct Writer<'a> {
    connection: &'a Connection,
    run: i64,
    /// For runs of Bonfire the first value per key and step wins; of a client's values only exact duplicates are
    /// dropped.
    is_first_only: bool,
    keys: HashMap<String, (i64, Option<Latest>)>,
}

/// Maps floats to integers of the same order.
fn ordered_bits(value: f64) -> i64 {
    let bits = value.to_bits() as i64;
    bits ^ (((bits >> 63) as u64) >> 1) as i64
}

impl<'a> Writer<'a> {
    pub(super) fn new(connection: &'a Connection, run: i64, is_first_only: bool) -> Self {
        Self { connection, run, is_first_only, keys: HashMap::new() }
    }

    pub(super) fn add(&mut self, key: &str, sample: &Sample) -> rusqlite::Result<()> {
        if !self.keys.contains_key(key) {
            let id = key_id(self.connection, key)?;
            self.keys.insert(key.to_owned(), (id, latest(self.connection, self.run, id)?));
        }
        let Some((id, latest)) = self.keys.get_mut(key) else { return Ok(()) };
        // A step later than all previous ones is new without a lookup.
        let may_be_known = latest.is_some_and(|latest| sample.step <= latest.step);
        if self.is_first_only && may_be_known {
            let known = "SELECT 1 FROM metrics WHERE run = ? AND key = ? AND step = ? LIMIT 1";
            let mut known = self.connection.prepare_cached(known)?;
            if known.exists(params![self.run, *id, sample.step])? {
                return Ok(());
            }
        }
        let tie = if self.is_first_only { 0 } else { ordered_bits(sample.value) };
        let value = (!sample.value.is_nan()).then_some(sample.value);
        let mut insert = self
            .connection
            .prepare_cached("INSERT OR IGNORE INTO metrics VALUES (?, ?, ?, ?, ?, ?, ?, ?)")?;
        let (step, time) = (sample.step, sample.time_ms);
        let new =
            insert.execute(params![self.run, *id, step, time, tie, value, sample.epoch, sample.samples])?;
        if new == 0 {
            return Ok(());
        }
        let fresh = Latest { step, time, tie, value, count: 1, minimum: value, maximum: value };
        *latest = Some(latest.map_or(fresh, |before| before.with(&fresh)));
        Ok(())
    }

    pub(super) fn close(self) -> rusqlite::Result<()> {
        let mut write = self
            .connection
            .prepare_cached("INSERT OR REPLACE INTO latest VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)")?;
        for (id, latest) in self.keys.into_values() {
            let Some(l) = latest else { continue };
            write.execute(params![
                self.run, id, l.step, l.time, l.tie, l.value, l.count, l.minimum, l.maximum
            ])?;
        }
        Ok(())
    }
}

impl Latest {
    fn with(self, new: &Self) -> Self {
        let is_newer = (new.step, new.time, new.tie) >= (self.step, self.time, self.tie);
        let newest = if is_newer { *new } else { self };
        let either = |a: Option<f64>, b: Option<f64>, pick: fn(f64, f64) -> f64| match (a, b) {
            (Some(a), Some(b)) => Some(pick(a, b)),
            (a, b) => a.or(b),
        };
        Self {
            count: self.count + 1,
            minimum: either(self.minimum, new.minimum, f64::min),
            maximum: either(self.maximum, new.maximum, f64::max),
            ..newest
        }
    }
}

fn key_id(connection: &Connection, key: &str) -> rusqlite::Result<i64> {
    let mut find = connection.prepare_cached("SELECT id FROM keys WHERE name = ?")?;
    if let Some(id) = find.query_row([key], |row| row.get(0)).optional()? {
        return Ok(id);
    }
    connection.execute("INSERT INTO keys(name) VALUES (?)", [key])?;
    Ok(connection.last_insert_rowid())
}

fn latest(connection: &Connection, run: i64, key: i64) -> rusqlite::Result<Option<Latest>> {
    let text = "SELECT step, time, tie, value, count, minimum, maximum FROM latest WHERE run = ? AND key = ?";
    connection
        .prepare_cached(text)?
        .query_row([run, key], |row| {
            Ok(Latest {
                step: row.get(0)?,
                time: row.get(1)?,
                tie: row.get(2)?,
                value: row.get(3)?,
                count: row.get(4)?,
                minimum: row.get(5)?,
                maximum: row.get(6)?,
            })
        })
        .optional()
}

/// Parses a `metrics.jsonl` line in the exact format that this program writes, without building a JSON tree; `None` for
/// any other format.
pub(super) fn read_line(line: &str) -> Option<(&str, Sample)> {
    let (step, rest) = line.strip_prefix("{\"step\":")?.split_once(",\"epoch\":")?;
    let (epoch, rest) = rest.split_once(",\"samples\":")?;
    let (samples, rest) = rest.split_once(",\"time\":")?;
    let (time, rest) = rest.split_once(",\"key\":\"")?;
    let (key, value) = rest.split_once("\",\"value\":")?;
    if key.contains(['\\', '"']) {
        return None;
    }
    let value = value.strip_suffix('}')?;
    let value = match value.strip_prefix('"') {
        Some(word) => run_record::number::from_word(word.strip_suffix('"')?)?,
        // Rust also parses words such as "inf", which JSON lacks: allow no letter except the exponent's.
        None if value.bytes().all(|b| b.is_ascii_digit() || b"+-.eE".contains(&b)) => value.parse().ok()?,
        None => return None,
    };
    let sample = Sample {
        step: step.parse().ok()?,
        time_ms: milliseconds(time.parse().ok()?),
        value,
        epoch: Some(epoch.parse().ok()?),
        samples: Some(samples.parse().ok()?),
    };
    Some((key, sample))
}

/// Converts seconds to milliseconds since 1970.
pub(super) fn milliseconds(seconds: f64) -> i64 {
    (seconds * 1e3).round() as i64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use run_record::Metric;

    proptest! {
        /// The fast parser agrees with the careful one, to the last bit.
        #[test]
        fn lines_are_read_as_the_file_reads_them(step in 0..i64::MAX as u64, key in "\\PC{0,12}", bits: u64) {
            let value = f64::from_bits(bits);
            let metric = Metric { step, epoch: 0.5, samples: 7, time: 1.25, key, value };
            let line = metric.to_json_line();
            let plain = !metric.key.contains(['\\', '"']);
            match read_line(&line) {
                Some((key, sample)) => {
                    prop_assert!(plain);
                    prop_assert_eq!(key, metric.key.as_str());
                    prop_assert!(sample.value.to_bits() == bits || value.is_nan() && sample.value.is_nan());
                    prop_assert_eq!((sample.step as u64, sample.time_ms), (step, 1250));
                }
                None => prop_assert!(!plain),
            }
        }

        #[test]
        fn any_line_is_read_or_refused(line in "\\PC{0,80}") {
            let _ = read_line(&line);
        }

        #[test]
        fn the_order_of_floats_is_kept(a: f64, b: f64) {
            prop_assert_eq!(a.total_cmp(&b), ordered_bits(a).cmp(&ordered_bits(b)));
        }
    }
}
