//! Chaos on real processes: real coordinators and workers, real signals and sockets, on this machine.
//!
//! A quiet run of one worker gives the expected digest; the same configuration then runs with several workers while a
//! seeded sequence of faults is injected, and must complete with that digest. The seed fixes the faults and the pauses
//! between them; at which moment of the run each fault hits depends on the machine, so a failing seed may have to be
//! run more than once to fail again. This module starts processes and reads clocks, and drives no state machine of
//! `protocol`: it only sees the programs from outside, and reads the journal that they leave.

mod chaos_run;
mod commits;
mod fault;
mod growth;
mod inject;
mod outcome;
mod processes;
mod proxy;
mod restart_times;
mod test_folder;
mod usage;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};

pub use fault::kinds_of_faults;
pub use outcome::{Failure, Survived, by_kind, kinds_of_evidence};
pub use processes::listening;
pub use restart_times::restart_times;
pub use usage::Usage;

use test_folder::{SmallModel, TestFolder};

/// The programs under test.
#[derive(Clone, Debug)]
pub struct Programs {
    coordinator: PathBuf,
    worker: PathBuf,
}

impl Programs {
    /// Finds `coordinator` and `worker` in a folder.
    ///
    /// # Errors
    /// When one of them doesn't exist.
    pub fn within(dir: &Path) -> anyhow::Result<Self> {
        let find = |name: &str| {
            let path = dir.join(name);
            ensure!(path.is_file(), "there is no {}: build it (cargo build --release)", path.display());
            path.canonicalize().with_context(|| format!("{} can't be resolved", path.display()))
        };
        Ok(Self { coordinator: find("coordinator")?, worker: find("worker")? })
    }

    /// The programs next to the running executable.
    ///
    /// # Errors
    /// As [`Programs::within`].
    pub fn beside_own() -> anyhow::Result<Self> {
        let own = std::env::current_exe().context("the own path can't be had")?;
        Self::within(own.parent().context("the own path has no folder")?)
    }
}

/// Runs seeds one after the other and caches the quiet runs' digests.
#[derive(Debug)]
pub struct ChaosRuns {
    programs: Programs,
    quiet: BTreeMap<SmallModel, String>,
    keep: bool,
}

impl ChaosRuns {
    /// Uses these programs; `keep` also keeps the folders of successful runs.
    #[must_use]
    pub fn new(programs: Programs, keep: bool) -> Self {
        Self { programs, quiet: BTreeMap::new(), keep }
    }

    /// Runs one seed: a run into which faults are injected for at most `strikes`, and which must then complete.
    ///
    /// # Errors
    /// When the run doesn't complete in time, ends with a nonzero exit code, or with another digest than the quiet
    /// run; and when this machine fails, for example to start a process.
    pub fn survive(&mut self, seed: u64, strikes: Duration) -> Result<Survived, Box<Failure>> {
        let small = SmallModel::of_seed(seed);
        let digest = self.digest(small).map_err(|why| Failure::before_strikes(seed, strikes, &why))?;
        let mut place = TestFolder::new(&self.programs, small)
            .map_err(|why| Failure::before_strikes(seed, strikes, &why))?;
        let outcome = chaos_run::run(&mut place, seed, strikes, &digest);
        if self.keep || outcome.is_err() {
            place.keep();
        }
        outcome
    }

    fn digest(&mut self, small: SmallModel) -> anyhow::Result<String> {
        if let Some(known) = self.quiet.get(&small) {
            return Ok(known.clone());
        }
        let mut place = TestFolder::new(&self.programs, small)?;
        let digest = place.quiet().inspect_err(|_| place.keep()).context("the quiet run")?;
        self.quiet.insert(small, digest.clone());
        Ok(digest)
    }
}
