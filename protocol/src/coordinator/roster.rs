//! The members in order of arrival, their leases and their ranks.

use std::collections::BTreeMap;

use super::penalties::Penalty;
use crate::Millis;
use crate::ids::{MemberId, RunId, ViewId};
use crate::messages::{Held, Join};

/// Longer names are truncated: a peer must not fill the log.
const NAME_CHARS_MAX: usize = 64;

#[derive(Clone, PartialEq, Debug)]
pub(super) struct Member {
    pub(super) id: MemberId,
    pub(super) connection: u64,
    pub(super) name: String,
    pub(super) slot: Option<u32>,
    /// A Join with the same instance comes from the same process.
    pub(super) instance: u64,
    pub(super) joined_at: Millis,
    pub(super) heard_at: Millis,
    pub(super) fingerprint: [u8; 32],
    /// Schema version of its task.
    pub(super) schema: u32,
    /// Elements of its model, once that is ready.
    pub(super) elements: Option<u64>,
    /// The state that it claimed to hold at Join, until the claim is examined.
    pub(super) claim: Option<Held>,
    /// The committed state in its memory.
    pub(super) holds: Option<u64>,
    /// The state that it was ordered to load, or to reach by a recovered commit, and hasn't reached.
    pub(super) ordered: Option<u64>,
    /// The step whose recovered commit it was ordered to apply, until it has.
    pub(super) recovers: Option<u64>,
    pub(super) leaving: Option<String>,
    pub(super) penalty: Penalty,
    /// Whether it is quarantined for its penalty.
    pub(super) is_barred: bool,
    /// The view in which it works.
    pub(super) view: Option<ViewId>,
    /// How often its data connection broke since the last commit.
    pub(super) edge_failures: u32,
    /// Whether it must reopen its data connection.
    pub(super) edge_is_broken: bool,
    /// Failed uploads of a state, a checkpoint or exports.
    pub(super) failed_uploads: u32,
    /// Samples per second, averaged over its steps; 0 before the first.
    pub(super) speed: f64,
}

impl Member {
    /// Whether it can work once it holds the right state.
    pub(super) fn is_available(&self) -> bool {
        self.elements.is_some() && !self.is_barred && self.leaving.is_none()
    }

    /// Whether it can upload this state.
    pub(super) fn can_show(&self, step: u64) -> bool {
        self.elements.is_some() && !self.is_barred && self.ordered.is_none() && self.holds == Some(step)
    }

    /// Whether it has not completed a step yet.
    pub(super) fn is_newcomer(&self) -> bool {
        self.speed == 0.0
    }

    /// Whether it can enter a view that continues from this state.
    pub(super) fn can_enter(&self, step: u64) -> bool {
        self.leaving.is_none() && self.can_show(step)
    }
}

/// Maximum number of names in a displayed line.
const NAMES_SHOWN_MAX: usize = 8;

/// The first few names, and how many more there are.
pub(super) fn some_of(names: &[&str]) -> String {
    let more = names.len().saturating_sub(NAMES_SHOWN_MAX);
    let shown = names[..names.len() - more].join(", ");
    if more == 0 { shown } else { format!("{shown} and {more} more") }
}

/// The members. A thousand of them send messages in every step, so none is looked up in a list.
#[derive(Debug, Default)]
pub(super) struct Roster {
    /// Ids grow, so their order is that of arrival.
    members: BTreeMap<MemberId, Member>,
    connections: BTreeMap<u64, MemberId>,
    /// No member has been silent since before this time.
    heard_since: Option<Millis>,
}

impl Roster {
    pub(super) fn len(&self) -> usize {
        self.members.len()
    }

    /// Numbers of members and of control streams.
    pub(super) fn sizes(&self) -> (usize, usize) {
        (self.members.len(), self.connections.len())
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Member> {
        self.members.values()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Member> {
        self.members.values_mut()
    }

    pub(super) fn by_connection(&mut self, connection: u64) -> Option<&mut Member> {
        let id = self.connections.get(&connection)?;
        self.members.get_mut(id)
    }

    pub(super) fn get(&self, id: MemberId) -> Option<&Member> {
        self.members.get(&id)
    }

    pub(super) fn name(&self, id: MemberId) -> String {
        self.get(id).map_or_else(|| format!("member {:#x}", id.0), |member| member.name.clone())
    }

    /// Admits a worker and returns its name, made unique.
    pub(super) fn add(
        &mut self,
        id: MemberId,
        connection: u64,
        join: &Join,
        (run, schema): (RunId, u32),
        now: Millis,
    ) -> String {
        let name = self.unique_name(&join.name);
        self.connections.insert(connection, id);
        self.heard_since = Some(self.heard_since.map_or(now, |since| since.min(now)));
        let member = Member {
            id,
            connection,
            name: name.clone(),
            slot: join.slot,
            instance: join.instance,
            joined_at: now,
            heard_at: now,
            fingerprint: join.fingerprint,
            schema,
            elements: None,
            claim: join.holds.clone().filter(|_| join.run == Some(run)),
            holds: None,
            ordered: None,
            recovers: None,
            leaving: None,
            penalty: Penalty::default(),
            is_barred: false,
            view: None,
            edge_failures: 0,
            edge_is_broken: false,
            failed_uploads: 0,
            speed: 0.0,
        };
        self.members.insert(id, member);
        name
    }

    pub(super) fn remove(&mut self, id: MemberId) -> Option<Member> {
        let member = self.members.remove(&id)?;
        self.connections.remove(&member.connection);
        Some(member)
    }

    /// In rank order: by slot, those without one last, then by arrival.
    pub(super) fn ranks(&self) -> Vec<&Member> {
        let mut ranks: Vec<&Member> = self.members.values().collect();
        ranks.sort_by_key(|member| member.slot.unwrap_or(u32::MAX)); // Stable: arrival breaks ties.
        ranks
    }

    pub(super) fn get_mut(&mut self, id: MemberId) -> Option<&mut Member> {
        self.members.get_mut(&id)
    }

    /// The members that could work, in rank order.
    pub(super) fn available(&self) -> impl Iterator<Item = &Member> {
        self.ranks().into_iter().filter(|member| member.is_available())
    }

    /// The best uploader among the fit: the fewest failed uploads, then the first in rank order.
    pub(super) fn uploader(&self, is_fit: impl Fn(&Member) -> bool) -> Option<(MemberId, u64)> {
        let fit = self.ranks().into_iter().filter(|member| is_fit(member));
        fit.min_by_key(|member| member.failed_uploads).map(|member| (member.id, member.connection))
    }

    /// Records a failed upload, so that another member is asked first.
    pub(super) fn note_failed_upload(&mut self, id: MemberId) {
        if let Some(member) = self.get_mut(id) {
            member.failed_uploads = member.failed_uploads.saturating_add(1);
        }
    }

    /// The numerics fingerprint, if all members share one.
    pub(super) fn shared_fingerprint(&self) -> Option<[u8; 32]> {
        let first = self.members.values().next()?.fingerprint;
        self.members.values().all(|member| member.fingerprint == first).then_some(first)
    }

    /// A lower bound on when any member was last heard from; it may be older than necessary.
    pub(super) fn heard_since(&self) -> Option<Millis> {
        self.heard_since.filter(|_| !self.members.is_empty())
    }

    /// Treats all members as heard from `late_ms` later, but not later than now.
    pub(super) fn extend_leases(&mut self, now: Millis, late_ms: u64) {
        let later = |heard: Millis| heard.saturating_add(late_ms).min(now);
        self.members.values_mut().for_each(|member| member.heard_at = later(member.heard_at));
        self.heard_since = self.heard_since.map(later);
    }

    /// This process was paused for `late_ms`, during which no member could get ready.
    pub(super) fn forgive_pause(&mut self, now: Millis, late_ms: u64) {
        self.extend_leases(now, now);
        for member in self.members.values_mut() {
            member.joined_at = member.joined_at.saturating_add(late_ms).min(now);
        }
    }

    /// The member that has been silent longest.
    pub(super) fn most_silent(&mut self) -> Option<&Member> {
        let member = self.members.values().min_by_key(|member| member.heard_at);
        self.heard_since = member.map(|member| member.heard_at);
        member
    }

    fn unique_name(&self, wanted: &str) -> String {
        let cut: String = wanted.chars().take(NAME_CHARS_MAX).collect();
        let base = if cut.is_empty() { "worker".to_owned() } else { cut };
        let taken = |name: &str| self.members.values().any(|member| member.name == name);
        if !taken(&base) {
            return base;
        }
        // Each member takes one name, so one of these numbers is free.
        (2..self.members.len() + 3).map(|n| format!("{base}-{n}")).find(|name| !taken(name)).unwrap_or(base)
    }
}
