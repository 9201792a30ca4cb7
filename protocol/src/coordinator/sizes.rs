//! Sizes of the machine's collections, for checks against unbounded growth.

use super::machine::{Coordinator, State};

impl Coordinator {
    /// The size of each collection, with its name. What grows with the run's history grows by a commit, a checkpoint
    /// or an evaluation; everything else is bounded by the numbers of members and of remembered former members.
    #[must_use]
    pub fn sizes(&self) -> Vec<(&'static str, usize)> {
        let (members, streams) = self.roster.sizes();
        let mut sizes = vec![
            ("members", members),
            ("control streams", streams),
            ("workers that are expected back", self.disconnected.len()),
            ("workers' troubles", self.penalties.len()),
            ("kept parts of a step", self.kept.sets.len()),
            ("failed first versions", self.first_version_failed.len()),
            ("records on their way", self.journal_queue.len()),
            ("outputs", self.outputs_waiting()),
        ];
        match &self.state {
            State::Stepping(step) => {
                sizes.push(("members that have computed", step.computed.len()));
                sizes.push(("members that are ready", step.ready_count()));
            }
            State::Closing(closing) => sizes.push(("checks of the last state", closing.checks().count())),
            _ => {}
        }
        sizes.extend(self.uploads.sizes());
        sizes.extend(self.history.sizes());
        sizes
    }
}
