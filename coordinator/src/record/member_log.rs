//! The members listed in run.json. Members come and go without bound: run.json keeps the newest.

use std::collections::BTreeMap;

use protocol::ids::MemberId;
use run_record::MemberRecord;

/// Maximum number of members in run.json, including the current ones, of which a run has far fewer.
pub(super) const MEMBERS_MAX: usize = 1_000;

/// Index from member to its line in the record.
#[derive(Default)]
pub(super) struct MemberLog {
    lines: BTreeMap<MemberId, usize>,
}

impl MemberLog {
    /// A member's line, if the record still has it.
    pub(super) fn line(&self, member: MemberId) -> Option<usize> {
        self.lines.get(&member).copied()
    }

    /// All members with their lines, in order of joining.
    pub(super) fn lines(&self) -> impl Iterator<Item = (MemberId, usize)> {
        self.lines.iter().map(|(member, line)| (*member, *line))
    }

    /// Adds a member. The oldest departed one may have to make room, which `left_out` counts.
    pub(super) fn join(
        &mut self,
        members: &mut Vec<MemberRecord>,
        left_out: &mut u64,
        member: MemberId,
        record: MemberRecord,
    ) {
        while members.len() >= MEMBERS_MAX
            && let Some(oldest) = self.oldest_gone(members)
        {
            members.remove(oldest);
            *left_out += 1;
            self.lines.retain(|_, line| *line != oldest);
            for line in self.lines.values_mut().filter(|line| **line > oldest) {
                *line -= 1;
            }
        }
        self.lines.insert(member, members.len());
        members.push(record);
    }

    /// The oldest line of a member that left, or of one from an earlier start whose departure was never seen.
    fn oldest_gone(&self, members: &[MemberRecord]) -> Option<usize> {
        let is_here = |line: usize| self.lines.values().any(|own| *own == line);
        (0..members.len()).find(|line| members[*line].left_step.is_some() || !is_here(*line))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_come_and_go_and_those_who_stay_are_named() {
        let record = |name: u64| MemberRecord {
            name: name.to_string(),
            device: "cpu".to_owned(),
            fingerprint: String::new(),
            joined_step: name,
            left_step: None,
            reason: None,
            machine: None,
        };
        // From an earlier start of the run.
        let (mut members, mut left_out) = (vec![record(0)], 0);
        let mut log = MemberLog::default();
        for name in 1..=5_000 {
            log.join(&mut members, &mut left_out, MemberId(name), record(name));
            if name != 7 {
                let line = log.line(MemberId(name)).expect("it has just joined");
                members[line].left_step = Some(name);
            }
        }
        assert_eq!(members.len(), MEMBERS_MAX);
        assert_eq!(left_out, 5_001 - MEMBERS_MAX as u64);
        let here = log.line(MemberId(7)).expect("it is still here");
        assert_eq!(members[here].name, "7");
        let last = log.line(MemberId(5_000)).expect("the newest");
        assert_eq!((last, members[last].name.as_str()), (MEMBERS_MAX - 1, "5000"));
        assert_eq!((log.line(MemberId(8)), log.lines.len()), (None, MEMBERS_MAX));
    }
}
