//! Connections and the obstacles of their packets: order is kept within a connection and direction, never between
//! two; a broken connection loses its messages in flight; a partition delays everything on its path.

use crate::incarnation::ConnectionKind;
use crate::plane::Plane;
use crate::random::Random;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Direction {
    /// To the coordinator.
    Up,
    /// To the worker.
    Down,
}

/// Both directions of one connection.
#[derive(Clone, Debug, Default)]
pub(crate) struct Link {
    /// Earliest arrival of a message sent now.
    up_floor: u64,
    down_floor: u64,
    cut_at: Option<u64>,
    is_closed: bool,
    /// The coordinator has noticed the end of the connection.
    pub(crate) is_noticed: bool,
}

impl Link {
    /// Arrival time of a message sent now, not before `held` if that is given; `None` if the connection is broken.
    pub(crate) fn arrival(
        &mut self,
        way: Direction,
        (now, held): (u64, Option<u64>),
        random: &mut Random,
        latency_ms: u64,
    ) -> Option<u64> {
        let is_open = self.cut_at.is_none() && !(way == Direction::Up && self.is_closed);
        let floor = self.floor(way);
        *floor = (*floor).max(now + random.between(0, latency_ms)).max(held.unwrap_or(0));
        is_open.then_some(*floor)
    }

    /// Nothing arrives before `until`: packets are lost, and resent until they get through.
    pub(crate) fn hold(&mut self, way: Direction, until: u64) {
        let floor = self.floor(way);
        *floor = (*floor).max(until);
    }

    fn floor(&mut self, way: Direction) -> &mut u64 {
        match way {
            Direction::Up => &mut self.up_floor,
            Direction::Down => &mut self.down_floor,
        }
    }

    /// The worker has closed the connection: earlier messages still arrive.
    pub(crate) fn close(&mut self) {
        self.is_closed = true;
    }

    #[must_use]
    pub(crate) fn is_cut(&self) -> bool {
        self.cut_at.is_some()
    }

    /// Breaks the connection: what has not arrived by `at` never does. Returns false if it was broken already.
    pub(crate) fn cut(&mut self, at: u64) -> bool {
        let is_first = self.cut_at.is_none();
        self.cut_at = Some(self.cut_at.map_or(at, |earlier| earlier.min(at)));
        is_first
    }

    /// Whether a message that arrives at `now` was lost.
    #[must_use]
    pub(crate) fn is_lost(&self, now: u64) -> bool {
        self.cut_at.is_some_and(|cut| now > cut)
    }
}

/// A partition between one worker and the coordinator.
#[derive(Clone, Copy, Debug)]
struct Partition {
    worker: usize,
    which: ConnectionKind,
    up: bool,
    down: bool,
    until: u64,
}

/// The partitions of an incarnation.
#[derive(Clone, Debug, Default)]
pub(crate) struct Partitions(Vec<Partition>);

impl Partitions {
    pub(crate) fn add(&mut self, worker: usize, which: ConnectionKind, (up, down): (bool, bool), until: u64) {
        self.0.push(Partition { worker, which, up, down, until });
    }

    /// Until when no message passes in this direction.
    #[must_use]
    pub(crate) fn held_until(&self, now: u64, worker: usize, plane: Plane, way: Direction) -> Option<u64> {
        let holds = |cut: &&Partition| {
            let is_way = if way == Direction::Up { cut.up } else { cut.down };
            cut.worker == worker && cut.until > now && is_way && cut.which.planes().contains(&plane)
        };
        self.0.iter().filter(holds).map(|cut| cut.until).max()
    }

    /// Until when no connection can be established, and no transfer that waits for answers can proceed.
    #[must_use]
    pub(crate) fn blocked_until(&self, now: u64, worker: usize, plane: Plane) -> Option<u64> {
        [Direction::Up, Direction::Down]
            .into_iter()
            .filter_map(|way| self.held_until(now, worker, plane, way))
            .max()
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }
}
