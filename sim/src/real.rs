//! Chaos on real processes: real coordinators and workers, real signals and sockets, on this machine.
//!
//! A quiet run of one worker says which digest is right; the same configuration then runs with several workers while
//! a seeded sequence of faults strikes, and must complete with that digest. The seed fixes the faults and their
//! pauses; which moment of the run they meet is the machine's, so a seed that fails may have to be tried more than
//! once. This module starts processes and reads clocks, and drives no machine of `protocol`: it knows the programs
//! from outside alone, and reads the journal that they leave.

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
    /// `coordinator` and `worker` in a folder.
    ///
    /// # Errors
    /// When one of them is not there.
    pub fn within(dir: &Path) -> anyhow::Result<Self> {
        let find = |name: &str| {
            let path = dir.join(name);
            ensure!(path.is_file(), "there is no {}: build it (cargo build --release)", path.display());
            path.canonicalize().with_context(|| format!("{} can't be resolved", path.display()))
        };
        Ok(Self { coordinator: find("coordinator")?, worker: find("worker")? })
    }

    /// Those beside the program that runs.
    ///
    /// # Errors
    /// As [`Programs::within`].
    pub fn beside_own() -> anyhow::Result<Self> {
        let own = std::env::current_exe().context("the own path can't be had")?;
        Self::within(own.parent().context("the own path has no folder")?)
    }
}

/// Runs seeds one after the other and remembers the quiet runs' digests.
#[derive(Debug)]
pub struct ChaosRuns {
    programs: Programs,
    quiet: BTreeMap<SmallModel, String>,
    keep: bool,
}

impl ChaosRuns {
    /// With these programs; `keep` keeps the folders of runs that went well too.
    #[must_use]
    pub fn new(programs: Programs, keep: bool) -> Self {
        Self { programs, quiet: BTreeMap::new(), keep }
    }

    /// One seed: a run under faults that strike for at most `strikes`, then must complete.
    ///
    /// # Errors
    /// When the run didn't complete in time, ended with another exit code than 0, or with another digest than the
    /// quiet run; and when this machine couldn't do what was asked, such as start a process.
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
