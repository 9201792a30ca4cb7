//! Measures the cost of faults on one machine: real processes, with the journal as the clock of steps.

use std::process::Child;
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::process::Signal;

use super::commits::{Commits, JournalEntry, commit_after_view, last_view};
use super::test_folder::{SmallModel, TestFolder};
use super::{Programs, processes};

/// Local workers of the runs.
const WORKERS: usize = 3;
/// Time for a run to get going before a fault is injected.
const CALM: Duration = Duration::from_millis(1_500);
/// Timeout of every wait.
const LIMIT: Duration = Duration::from_secs(60);

/// A table, line by line: median and maximum of `repetitions` for each fault and model.
///
/// # Errors
/// When processes can't be started, or a run doesn't recover from a fault within a minute.
pub fn restart_times(programs: &Programs, repetitions: usize) -> anyhow::Result<Vec<String>> {
    let mut lines =
        vec![format!("{:8} {:52} {:>9} {:>9} {:>9}", "model", "what (times in ms)", "median", "worst", "of")];
    for small in [SmallModel::Mlp, SmallModel::Large] {
        let mut folder = TestFolder::new(programs, small)?;
        let measured = measure(&mut folder, repetitions).map_err(|why| {
            folder.keep();
            why.context(format!("{}, in {}\n{}", small.name(), folder.path().display(), folder.tail(20)))
        })?;
        for (what, mut times) in measured {
            times.sort();
            let ms = |at: usize| times.get(at).map_or(f64::NAN, |time| time.as_secs_f64() * 1_000.0);
            let (median, worst) = (ms(times.len() / 2), ms(times.len().saturating_sub(1)));
            lines.push(format!("{:8} {what:52} {median:9.1} {worst:9.1} {:9}", small.name(), times.len()));
        }
    }
    Ok(lines)
}

/// A coordinator that is restarted repeatedly.
struct RestartBench<'a> {
    folder: &'a mut TestFolder,
    coordinator: Child,
    commits: Commits,
}

impl Drop for RestartBench<'_> {
    fn drop(&mut self) {
        processes::kill_all(self.folder.path());
        // Killed above.
        let _ = self.coordinator.kill();
        let _ = self.coordinator.wait();
    }
}

fn start(folder: &TestFolder, resume: bool) -> anyhow::Result<Child> {
    let workers = WORKERS.to_string();
    // More epochs than the measurements take; the benchmark kills the run.
    let mut arguments =
        vec!["--local-workers", &workers, "--set", "train.epochs=1000000", "--set", "checkpoint.every=1m"];
    if resume {
        arguments.push("--resume");
    }
    folder.coordinator(&arguments)
}

fn measure(
    folder: &mut TestFolder,
    repetitions: usize,
) -> anyhow::Result<Vec<(&'static str, Vec<Duration>)>> {
    let coordinator = start(folder, false)?;
    let commits = Commits::new(folder.run_dir().join("journal"));
    let mut bench = RestartBench { folder, coordinator, commits };
    let (mut killed, mut restarted, mut ready, mut joined, mut left) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
    bench.settle(WORKERS)?;
    let steps = bench.steps()?;
    for _ in 0..repetitions {
        bench.settle(WORKERS)?;
        killed.push(bench.kill_worker()?);
    }
    for _ in 0..repetitions {
        bench.settle(WORKERS)?;
        let (take, commit) = bench.kill_coordinator()?;
        ready.push(take);
        restarted.push(commit);
    }
    for number in 0..repetitions {
        bench.settle(WORKERS)?;
        let (enter, leave) = bench.visit(number)?;
        joined.push(enter);
        left.push(leave);
    }
    Ok(vec![
        ("a quiet step, commit to commit", steps),
        ("SIGKILL of a worker to the next view's first commit", killed),
        ("SIGKILL of the coordinator to its next term", ready),
        ("SIGKILL of the coordinator to the next commit", restarted),
        ("a join: longest pause between commits", joined),
        ("a leave (SIGTERM): pause between commits", left),
    ])
}

impl RestartBench<'_> {
    /// Waits until the given number of members have worked for a while.
    fn settle(&mut self, members: usize) -> anyhow::Result<()> {
        let what = format!("{members} members that work");
        loop {
            self.commits.until(&what, LIMIT, |seen| {
                let (view, count) = last_view(seen)?;
                let works =
                    matches!(seen.last(), Some((_, JournalEntry::Commit { view: of })) if *of == view);
                (count == members && works).then_some(())
            })?;
            let before = last_view(&self.commits.seen);
            self.commits.pause(CALM)?;
            // Shares may have changed meanwhile, but no member has joined or left.
            if last_view(&self.commits.seen).map(|v| v.1) == before.map(|v| v.1) {
                self.forget_all_but(1_000);
                return Ok(());
            }
        }
    }

    /// Forgets old commits; the views stay.
    fn forget_all_but(&mut self, kept: usize) {
        let mut left = self.commits.seen.len();
        self.commits.seen.retain(|(_, seen)| {
            left -= 1;
            left < kept || matches!(seen, JournalEntry::View { .. })
        });
    }

    fn view(&self) -> anyhow::Result<u64> {
        Ok(last_view(&self.commits.seen).context("the run has no view")?.0)
    }

    /// Pauses between commits of an undisturbed run.
    fn steps(&mut self) -> anyhow::Result<Vec<Duration>> {
        let before = Instant::now();
        self.commits.pause(4 * CALM)?;
        let commits: Vec<Instant> =
            self.commits.seen.iter().map(|(at, _)| *at).filter(|at| *at > before).collect();
        Ok(commits.windows(2).map(|pair| pair[1] - pair[0]).collect())
    }

    fn kill_worker(&mut self) -> anyhow::Result<Duration> {
        let workers = self.folder.workers();
        let pid = workers.last().context("there is no worker to kill")?.pid;
        let view = self.view()?;
        let at = Instant::now();
        processes::signal(self.folder.path(), pid, Signal::KILL);
        let (commit, _) = self
            .commits
            .until("a commit after a worker's death", LIMIT, |seen| commit_after_view(seen, view))?;
        Ok(commit - at)
    }

    /// The times to the next term and to its first commit.
    fn kill_coordinator(&mut self) -> anyhow::Result<(Duration, Duration)> {
        let at = Instant::now();
        self.coordinator.kill().context("the coordinator can't be killed")?;
        self.coordinator.wait().context("the coordinator can't be waited for")?;
        self.coordinator = start(self.folder, true)?;
        let (term, commit) = self.commits.until("a commit after the coordinator's death", LIMIT, |seen| {
            let mut after = seen.iter().skip_while(|(when, seen)| *when < at || *seen != JournalEntry::Term);
            let term = after.next()?.0;
            let commit = after.find(|(_, seen)| matches!(seen, JournalEntry::Commit { .. }))?.0;
            Some((term, commit))
        })?;
        Ok((term - at, commit - at))
    }

    /// A guest joins and leaves: returns the pauses of both.
    fn visit(&mut self, number: usize) -> anyhow::Result<(Duration, Duration)> {
        let file = self.folder.run_dir().join("address");
        let url =
            std::fs::read_to_string(&file).with_context(|| format!("{} can't be read", file.display()))?;
        let pid = self.folder.guest(&format!("guest-{number}"), url.trim())?;
        let enter = self.pause_to(WORKERS + 1)?;
        self.settle(WORKERS + 1)?;
        processes::signal(self.folder.path(), pid, Signal::TERM);
        let leave = self.pause_to(WORKERS)?;
        self.folder.bury();
        Ok((enter, leave))
    }

    /// The longest pause between commits from now to the first of the next view with this many members: while the run
    /// pauses for the change, or runs more slowly because of it.
    fn pause_to(&mut self, members: usize) -> anyhow::Result<Duration> {
        let (from, began) = (self.view()?, Instant::now());
        self.commits.until("a change of members", LIMIT, |seen| {
            let (mut view, mut before, mut longest) = (None, None, Duration::ZERO);
            for (at, seen) in seen {
                match seen {
                    JournalEntry::View { id, members: count } if *id > from && *count == members => {
                        view = Some(*id);
                    }
                    JournalEntry::Commit { view: of } => {
                        let pause = before.map_or(Duration::ZERO, |before| *at - before);
                        longest = longest.max(if *at >= began { pause } else { Duration::ZERO });
                        if Some(*of) == view {
                            return Some(longest);
                        }
                        before = Some(*at);
                    }
                    _ => {}
                }
            }
            None
        })
    }
}
