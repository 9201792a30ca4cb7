//! A metric's history: in pages, and downsampled for a chart without hiding a peak.

use run_record::number;
use rusqlite::{OptionalExtension, Row, params};
use serde::Serialize;

use super::{IndexError, Reader};

/// A point's key within its history: step, time, and the tie-breaker for points of equal step and time.
pub(crate) type PointKey = (i64, i64, i64);

/// One value of a metric.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Point {
    /// The step; clients may log negative ones.
    pub step: i64,
    /// When it was recorded, in milliseconds since 1970.
    pub time_ms: i64,
    /// The value; not always finite.
    pub value: f64,
    /// The epoch, from 0, with its fraction; a client's metrics have none.
    pub epoch: Option<f64>,
    /// Samples counted so far; a client's metrics have none.
    pub samples: Option<i64>,
    /// Breaks ties between a client's points of equal step and time.
    tie: i64,
}

/// A metric's points, column by column: all of them, or the minimum and maximum of each bucket of steps.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
pub struct Series {
    /// The metric's key.
    pub key: String,
    /// The total number of points.
    pub count: i64,
    /// Whether points were left out.
    pub is_thinned: bool,
    /// Steps, ascending.
    pub step: Vec<i64>,
    /// Milliseconds since 1970.
    pub time_ms: Vec<i64>,
    /// Values; NaN and the infinities are words in JSON.
    #[serde(serialize_with = "number::serialize_list")]
    pub value: Vec<f64>,
    /// Epochs; empty for a client's metrics.
    pub epoch: Vec<f64>,
    /// Samples; empty for a client's metrics.
    pub samples: Vec<i64>,
}

/// A page of a metric's history.
#[derive(Clone, PartialEq, Debug)]
pub struct HistoryPage {
    /// The points, by step, time and value.
    pub points: Vec<Point>,
    /// The token of the next page, if there is one.
    pub next: Option<String>,
}

/// Lower limit of points per chart: fewer don't show a curve.
pub const POINTS_MIN: usize = 8;

/// Upper limit of points per chart: no screen shows more.
pub const POINTS_MAX: usize = 20_000;

const COLUMNS: &str = "step, time, value, epoch, samples, tie";

impl Point {
    fn read(row: &Row) -> rusqlite::Result<Self> {
        Ok(Self {
            step: row.get(0)?,
            time_ms: row.get(1)?,
            value: row.get::<_, Option<f64>>(2)?.unwrap_or(f64::NAN),
            epoch: row.get(3)?,
            samples: row.get(4)?,
            tie: row.get(5)?,
        })
    }

    fn place(&self) -> PointKey {
        (self.step, self.time_ms, self.tie)
    }
}

impl Series {
    fn of(key: &str, count: i64, points: &[Point]) -> Self {
        Self {
            key: key.to_owned(),
            count,
            is_thinned: (points.len() as i64) < count,
            step: points.iter().map(|point| point.step).collect(),
            time_ms: points.iter().map(|point| point.time_ms).collect(),
            value: points.iter().map(|point| point.value).collect(),
            epoch: points.iter().filter_map(|point| point.epoch).collect(),
            samples: points.iter().filter_map(|point| point.samples).collect(),
        }
    }
}

impl Reader {
    /// A page of a metric's history, by step. `token` is the previous page's `next`, or empty. An unknown run or key
    /// has no points; `Ok(None)` means that the token is invalid.
    ///
    /// # Errors
    /// When SQLite fails.
    pub fn history(
        &self,
        run: &str,
        key: &str,
        limit: usize,
        token: &str,
    ) -> Result<Option<HistoryPage>, IndexError> {
        let after = match token {
            "" => Some((i64::MIN, i64::MIN, i64::MIN)),
            token => parse_token(token),
        };
        let Some(after) = after else { return Ok(None) };
        let mut points = match self.ids(run, key)? {
            Some((run, key, _)) => self.after(run, key, after, limit.saturating_add(1), token.is_empty())?,
            None => Vec::new(),
        };
        let is_more = points.len() > limit;
        points.truncate(limit);
        let next = points.last().filter(|_| is_more).map(|last| {
            let (step, time, tie) = last.place();
            format!("{step}:{time}:{tie}")
        });
        Ok(Some(HistoryPage { points, next }))
    }

    /// A metric's points for a chart: all if there are at most `max`; otherwise the minimum, the maximum and the first
    /// NaN of each of equally wide buckets of steps, and in any case the first and the last point. `max` is clamped to
    /// [`POINTS_MIN`] and [`POINTS_MAX`].
    ///
    /// # Errors
    /// When SQLite fails.
    pub fn points(&self, run: &str, key: &str, max: usize) -> Result<Series, IndexError> {
        let max = max.clamp(POINTS_MIN, POINTS_MAX);
        let Some((run, id, count)) = self.ids(run, key)? else {
            return Ok(Series { key: key.to_owned(), ..Series::default() });
        };
        let read = || -> rusqlite::Result<Vec<Point>> {
            let ends = "SELECT min(step), max(step) FROM metrics WHERE run = ? AND key = ?";
            let (first, last) =
                self.connection.query_row(ends, [run, id], |row| Ok((row.get(0)?, row.get(1)?)))?;
            let text =
                format!("SELECT {COLUMNS} FROM metrics WHERE run = ? AND key = ? ORDER BY step, time, tie");
            let mut find = self.connection.prepare_cached(&text)?;
            let mut rows = find.query([run, id])?;
            let mut thinner = Thinner::new(first, last, if count <= max as i64 { None } else { Some(max) });
            while let Some(row) = rows.next()? {
                thinner.push(Point::read(row)?);
            }
            Ok(thinner.finish())
        };
        let points = self.sql(read())?;
        Ok(Series::of(key, count, &points))
    }

    /// At most `limit` points after `place`, and the key of the last one: for following a run.
    pub(crate) fn news(
        &self,
        run: &str,
        key: &str,
        place: Option<PointKey>,
        limit: usize,
    ) -> Result<(Series, Option<PointKey>), IndexError> {
        let Some((run, id, count)) = self.ids(run, key)? else { return Ok((Series::default(), place)) };
        let after = place.unwrap_or((i64::MIN, i64::MIN, i64::MIN));
        let points = self.after(run, id, after, limit, place.is_none())?;
        let last = points.last().map(Point::place).or(place);
        Ok((Series { is_thinned: false, ..Series::of(key, count, &points) }, last))
    }

    /// The key of each metric's newest point in a run, by metric.
    pub(crate) fn places(&self, run: i64) -> Result<Vec<(String, PointKey)>, IndexError> {
        let text =
            "SELECT k.name, l.step, l.time, l.tie FROM latest l JOIN keys k ON k.id = l.key WHERE l.run = ?";
        let read = || -> rusqlite::Result<Vec<(String, PointKey)>> {
            let mut find = self.connection.prepare_cached(text)?;
            find.query_map([run], |row| Ok((row.get(0)?, (row.get(1)?, row.get(2)?, row.get(3)?))))?.collect()
        };
        self.sql(read())
    }

    fn after(
        &self,
        run: i64,
        key: i64,
        (step, time, tie): PointKey,
        limit: usize,
        is_first: bool,
    ) -> Result<Vec<Point>, IndexError> {
        let sign = if is_first { ">=" } else { ">" };
        let text = format!(
            "SELECT {COLUMNS} FROM metrics WHERE run = ? AND key = ? AND step >= ?3
             AND (step, time, tie) {sign} (?3, ?4, ?5) ORDER BY step, time, tie LIMIT ?6"
        );
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let read = || -> rusqlite::Result<Vec<Point>> {
            let mut find = self.connection.prepare_cached(&text)?;
            find.query_map(params![run, key, step, time, tie, limit], Point::read)?.collect()
        };
        self.sql(read())
    }

    /// The run's row, the key's id and the number of points; `None` if the run has no such metric.
    fn ids(&self, run: &str, key: &str) -> Result<Option<PointKey>, IndexError> {
        let text = "SELECT l.run, l.key, l.count FROM latest l
                    WHERE l.run = (SELECT id FROM runs WHERE uuid = ?) AND l.key = (SELECT id FROM keys WHERE name = ?)";
        let find = || -> rusqlite::Result<Option<PointKey>> {
            let mut find = self.connection.prepare_cached(text)?;
            find.query_row([run, key], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).optional()
        };
        self.sql(find())
    }
}

fn parse_token(token: &str) -> Option<PointKey> {
    let mut numbers = token.splitn(3, ':').map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// Keeps the minimum, the maximum and the first NaN of each bucket of steps, in one pass over ordered points.
struct Thinner {
    first_step: i64,
    /// The number of buckets and the number of steps from the first to the last; `None` keeps all points.
    stretches: Option<(u64, u64)>,
    stretch: u64,
    /// Of the current bucket.
    least: Option<Point>,
    greatest: Option<Point>,
    nan: Option<Point>,
    newest: Option<Point>,
    kept: Vec<Point>,
}

impl Thinner {
    fn new(first_step: i64, last_step: i64, max: Option<usize>) -> Self {
        // Three per bucket, and both ends.
        let stretches =
            max.map(|max| ((max.saturating_sub(2) / 3).max(1) as u64, first_step.abs_diff(last_step)));
        let (least, greatest, nan, newest) = (None, None, None, None);
        Self { first_step, stretches, stretch: 0, least, greatest, nan, newest, kept: Vec::new() }
    }

    fn push(&mut self, point: Point) {
        let Some((count, length)) = self.stretches else { return self.kept.push(point) };
        let steps = self.first_step.abs_diff(point.step);
        let stretch = (u128::from(steps) * u128::from(count) / (u128::from(length) + 1)) as u64;
        if self.newest.is_none() {
            self.kept.push(point);
        }
        if stretch != self.stretch {
            self.flush();
            self.stretch = stretch;
        }
        self.newest = Some(point);
        if point.value.is_nan() {
            self.nan = self.nan.or(Some(point));
            return;
        }
        if self.least.is_none_or(|least| point.value < least.value) {
            self.least = Some(point);
        }
        if self.greatest.is_none_or(|greatest| point.value > greatest.value) {
            self.greatest = Some(point);
        }
    }

    fn flush(&mut self) {
        let mut points: Vec<Point> =
            [self.least.take(), self.greatest.take(), self.nan.take()].into_iter().flatten().collect();
        points.sort_by_key(Point::place);
        self.add(points);
    }

    /// Skips points that are already kept.
    fn add(&mut self, points: impl IntoIterator<Item = Point>) {
        for point in points {
            if self.kept.last().is_none_or(|last| last.place() < point.place()) {
                self.kept.push(point);
            }
        }
    }

    fn finish(mut self) -> Vec<Point> {
        self.flush();
        let newest = self.newest;
        self.add(newest);
        self.kept
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn thin(values: &[f64], max: usize) -> Vec<Point> {
        let point = |step: usize| Point {
            step: step as i64 * 3,
            time_ms: 0,
            value: values[step],
            epoch: None,
            samples: None,
            tie: 0,
        };
        let last = (values.len() as i64 - 1) * 3;
        let mut thinner = Thinner::new(0, last, (values.len() > max).then_some(max));
        (0..values.len()).map(point).for_each(|point| thinner.push(point));
        thinner.finish()
    }

    #[test]
    fn one_peak_among_many_stays() {
        let mut values = vec![1.0; 10_000];
        values[7_777] = 50.0;
        values[3_333] = f64::NAN;
        values[5_555] = f64::NEG_INFINITY;
        let kept = thin(&values, 100);
        assert!(kept.len() <= 100, "{}", kept.len());
        for step in [0, 7_777, 3_333, 5_555, 9_999] {
            assert!(kept.iter().any(|point| point.step == step * 3), "step {step}");
        }
    }

    #[test]
    fn the_extremes_of_a_million_stay_wherever_they_are() {
        const POINTS: usize = 1_000_000;
        let mut values: Vec<f64> = (0..POINTS).map(|step| (step as f64 / 500.0).sin()).collect();
        for (n, at) in [0, 1, 499_999, 777_777, POINTS - 2, POINTS - 1].into_iter().enumerate() {
            let before = values[at];
            for peak in [100.0 + n as f64, -100.0 - n as f64] {
                values[at] = peak;
                let kept = thin(&values, 800);
                assert!(kept.len() <= 800 && kept.iter().any(|point| point.value == peak), "{peak} at {at}");
            }
            values[at] = before;
        }
    }

    proptest! {
        #[test]
        fn thinning_is_honest(
            values in proptest::collection::vec(prop_oneof![8 => -9.0..9.0f64, 1 => Just(f64::NAN), 1 => Just(f64::INFINITY)], 1..200),
            max in POINTS_MIN..60usize,
        ) {
            let kept = thin(&values, max);
            prop_assert!(kept.len() <= max.max(values.len().min(max)));
            prop_assert_eq!(kept[0].step, 0);
            prop_assert_eq!(kept[kept.len() - 1].step, (values.len() as i64 - 1) * 3);
            prop_assert!(kept.windows(2).all(|pair| pair[0].step < pair[1].step), "in order, none twice");
            let range = |values: &mut dyn Iterator<Item = f64>| {
                values.filter(|v| !v.is_nan()).fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), v| (a.min(v), b.max(v)))
            };
            let all = range(&mut values.iter().copied());
            prop_assert_eq!(range(&mut kept.iter().map(|point| point.value)), all);
            prop_assert_eq!(values.iter().any(|v| v.is_nan()), kept.iter().any(|point| point.value.is_nan()));
            for point in &kept {
                let original = values[point.step as usize / 3];
                prop_assert!(original == point.value || original.is_nan() && point.value.is_nan());
            }
        }

        #[test]
        fn any_token_is_read_or_refused(token in "\\PC{0,20}") {
            let _ = parse_token(&token);
        }
    }
}
