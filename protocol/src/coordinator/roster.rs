//! Who is there: the members in the order of their arrival, their leases and their ranks.

use std::collections::BTreeMap;

use super::penalties::Penalty;
use crate::Millis;
use crate::ids::{MemberId, RunId, ViewId};
use crate::messages::{Held, Join};

/// Longer names are cut: a peer must not fill the log.
const NAME_CHARS_MAX: usize = 64;

/// A worker that was admitted.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Member {
    pub(super) id: MemberId,
    pub(super) connection: u64,
    pub(super) name: String,
    pub(super) slot: Option<u32>,
    /// Who comes with the same is the same process.
    pub(super) instance: u64,
    pub(super) joined_at: Millis,
    pub(super) heard_at: Millis,
    pub(super) fingerprint: [u8; 32],
    /// Version of its task's schema.
    pub(super) schema: u32,
    /// Elements of its model, once that is ready.
    pub(super) elements: Option<u64>,
    /// What it said at Join that it still holds, until that is looked at.
    pub(super) claim: Option<Held>,
    /// The committed state in its memory.
    pub(super) holds: Option<u64>,
    /// The state that it was told to load, or to reach by a recovered commit, and hasn't reached.
    pub(super) ordered: Option<u64>,
    /// The step whose recovered commit it was told to apply, until it has.
    pub(super) recovers: Option<u64>,
    /// Why it wants to leave.
    pub(super) leaving: Option<String>,
    /// What it has cost the others so far.
    pub(super) penalty: Penalty,
    /// Whether it is kept waiting for that.
    pub(super) is_barred: bool,
    /// The view that it works in.
    pub(super) view: Option<ViewId>,
    /// How often its data connection broke since the last commit.
    pub(super) edge_failures: u32,
    /// Whether it is to open its data connection again.
    pub(super) edge_is_broken: bool,
    /// Uploads of a state, a version or exports that came to nothing.
    pub(super) failed_uploads: u32,
    /// Samples a second, averaged over its steps; 0 before the first.
    pub(super) speed: f64,
}

impl Member {
    /// Ready to work once it holds the right state.
    pub(super) fn is_available(&self) -> bool {
        self.elements.is_some() && !self.is_barred && self.leaving.is_none()
    }

    /// Whether it can upload this state.
    pub(super) fn can_show(&self, step: u64) -> bool {
        self.elements.is_some() && !self.is_barred && self.ordered.is_none() && self.holds == Some(step)
    }

    /// Whether it has not finished a step yet.
    pub(super) fn is_newcomer(&self) -> bool {
        self.speed == 0.0
    }

    /// Whether it can enter a view that goes on from this state.
    pub(super) fn can_enter(&self, step: u64) -> bool {
        self.leaving.is_none() && self.can_show(step)
    }
}

/// Names in a line for people.
const NAMES_SHOWN_MAX: usize = 8;

/// The first of many names.
pub(super) fn some_of(names: &[&str]) -> String {
    let more = names.len().saturating_sub(NAMES_SHOWN_MAX);
    let shown = names[..names.len() - more].join(", ");
    if more == 0 { shown } else { format!("{shown} and {more} more") }
}

/// The members: a thousand of them say something in every step, so none is looked for in a list.
#[derive(Debug, Default)]
pub(super) struct Roster {
    /// Ids grow, so that their order is that of arrival.
    members: BTreeMap<MemberId, Member>,
    connections: BTreeMap<u64, MemberId>,
    /// No member has been silent since before that.
    heard_since: Option<Millis>,
}

impl Roster {
    pub(super) fn len(&self) -> usize {
        self.members.len()
    }

    /// Of members and of control streams.
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

    /// Admits a worker; its name, made unique.
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

    /// In rank order: by slot, those without one behind, then by arrival.
    pub(super) fn ranks(&self) -> Vec<&Member> {
        let mut ranks: Vec<&Member> = self.members.values().collect();
        ranks.sort_by_key(|member| member.slot.unwrap_or(u32::MAX)); // Stable: arrival breaks ties.
        ranks
    }

    pub(super) fn get_mut(&mut self, id: MemberId) -> Option<&mut Member> {
        self.members.get_mut(&id)
    }

    /// Those that could work, in rank order.
    pub(super) fn available(&self) -> impl Iterator<Item = &Member> {
        self.ranks().into_iter().filter(|member| member.is_available())
    }

    /// Who of some is to upload something: whoever has failed least often, the first in rank order of those.
    pub(super) fn uploader(&self, is_fit: impl Fn(&Member) -> bool) -> Option<(MemberId, u64)> {
        let fit = self.ranks().into_iter().filter(|member| is_fit(member));
        fit.min_by_key(|member| member.failed_uploads).map(|member| (member.id, member.connection))
    }

    /// An upload of a member has come to nothing: another one is asked before it.
    pub(super) fn note_failed_upload(&mut self, id: MemberId) {
        if let Some(member) = self.get_mut(id) {
            member.failed_uploads = member.failed_uploads.saturating_add(1);
        }
    }

    /// The numerics fingerprint that all share.
    pub(super) fn shared_fingerprint(&self) -> Option<[u8; 32]> {
        let first = self.members.values().next()?.fingerprint;
        self.members.values().all(|member| member.fingerprint == first).then_some(first)
    }

    /// A time that no member has been silent from; at times an older one than it could be.
    pub(super) fn heard_since(&self) -> Option<Millis> {
        self.heard_since.filter(|_| !self.members.is_empty())
    }

    /// Everybody is taken to have been heard so much later, but not later than now.
    pub(super) fn extend_leases(&mut self, now: Millis, late_ms: u64) {
        let later = |heard: Millis| heard.saturating_add(late_ms).min(now);
        self.members.values_mut().for_each(|member| member.heard_at = later(member.heard_at));
        self.heard_since = self.heard_since.map(later);
    }

    /// This process was paused for so long, in which nobody could get ready.
    pub(super) fn forgive_pause(&mut self, now: Millis, late_ms: u64) {
        self.extend_leases(now, now);
        for member in self.members.values_mut() {
            member.joined_at = member.joined_at.saturating_add(late_ms).min(now);
        }
    }

    /// The member that has been silent for longest.
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
        // One of so many numbers is free, as each member takes one name.
        (2..self.members.len() + 3).map(|n| format!("{base}-{n}")).find(|name| !taken(name)).unwrap_or(base)
    }
}
