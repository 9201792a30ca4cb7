//! Side-by-side comparison of runs.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::{IndexError, MetricNow, Reader, RunSummary};
use crate::clients::documents::Pairs;

/// A comparison of runs: the lists in each row are in the runs' order.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Comparison {
    /// The runs.
    pub runs: Vec<RunSummary>,
    /// Parameters that any of the runs has, by key.
    pub params: Vec<ParamRow>,
    /// Metrics that any of the runs has, by key.
    pub metrics: Vec<MetricRow>,
}

/// A parameter across the runs.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct ParamRow {
    /// The parameter's key.
    pub key: String,
    /// Whether the runs differ in it.
    pub differs: bool,
    /// Its values; null for a run without it.
    pub values: Vec<Option<String>>,
}

/// A metric across the runs.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct MetricRow {
    /// The metric's key.
    pub key: String,
    /// Whether a lower value is better.
    pub lower_is_better: bool,
    /// Its newest values; null for a run without it.
    pub values: Vec<Option<MetricNow>>,
}

impl Reader {
    /// Compares runs, in the order of their ids; unknown ids are left out.
    ///
    /// # Errors
    /// When SQLite fails.
    pub fn compare(&self, ids: &[&str]) -> Result<Comparison, IndexError> {
        let mut runs = Vec::new();
        for id in ids {
            runs.extend(self.run(id)?);
        }
        let configs: Vec<&Pairs> = runs.iter().map(|run| &run.config).collect();
        let params = params(&configs);
        let mut metrics: Vec<BTreeMap<String, MetricNow>> = Vec::new();
        for run in &runs {
            metrics.push(run.latest.iter().map(|metric| (metric.key.clone(), metric.clone())).collect());
        }
        let keys: BTreeSet<&String> = metrics.iter().flat_map(BTreeMap::keys).collect();
        let row = |key: &&String| MetricRow {
            key: (*key).clone(),
            lower_is_better: run_record::keys::lower_is_better(key),
            values: metrics.iter().map(|of_run| of_run.get(*key).cloned()).collect(),
        };
        let metrics = keys.iter().map(row).collect();
        Ok(Comparison { params, metrics, runs: runs.into_iter().map(|run| run.summary).collect() })
    }
}

fn params(configs: &[&Pairs]) -> Vec<ParamRow> {
    let keys: BTreeSet<&String> = configs.iter().flat_map(|config| config.keys()).collect();
    let row = |key: &String| {
        let values: Vec<Option<String>> = configs.iter().map(|config| config.get(key).cloned()).collect();
        ParamRow { key: key.clone(), differs: values.windows(2).any(|pair| pair[0] != pair[1]), values }
    };
    keys.into_iter().map(row).collect()
}
