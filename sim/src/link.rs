//! Connections and what keeps packets from them: order is kept within a connection and direction, never between
//! two; a broken connection loses what was on its way; a partition holds everything back that it is in the way of.

use crate::incarnation::ConnectionKind;
use crate::network::Plane;
use crate::random::Random;

/// To whom.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Direction {
    /// To the coordinator.
    Up,
    /// To the worker.
    Down,
}

/// One connection's both directions.
#[derive(Clone, Debug, Default)]
pub(crate) struct Link {
    /// Nothing that is sent now arrives before.
    up_floor: u64,
    down_floor: u64,
    cut_at: Option<u64>,
    is_closed: bool,
    /// The coordinator has noticed its end.
    pub(crate) is_noticed: bool,
}

impl Link {
    /// When something sent now arrives; `None` if the connection is broken. Held back until `held`, if by something.
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

    /// Nothing arrives before `until`: packets are lost, and sent again until they get through.
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

    /// Its worker has closed it: what it sent before still arrives.
    pub(crate) fn close(&mut self) {
        self.is_closed = true;
    }

    /// Whether it was cut.
    #[must_use]
    pub(crate) fn is_cut(&self) -> bool {
        self.cut_at.is_some()
    }

    /// Breaks: what has not arrived by `at` never does. False if it was broken already.
    pub(crate) fn cut(&mut self, at: u64) -> bool {
        let is_first = self.cut_at.is_none();
        self.cut_at = Some(self.cut_at.map_or(at, |earlier| earlier.min(at)));
        is_first
    }

    /// Whether something that arrives at `now` was lost.
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

/// The partitions of a life.
#[derive(Clone, Debug, Default)]
pub(crate) struct Partitions(Vec<Partition>);

impl Partitions {
    pub(crate) fn add(&mut self, worker: usize, which: ConnectionKind, (up, down): (bool, bool), until: u64) {
        self.0.push(Partition { worker, which, up, down, until });
    }

    /// Until when nothing goes this way.
    #[must_use]
    pub(crate) fn held_until(&self, now: u64, worker: usize, plane: Plane, way: Direction) -> Option<u64> {
        let holds = |cut: &&Partition| {
            let is_way = if way == Direction::Up { cut.up } else { cut.down };
            cut.worker == worker && cut.until > now && is_way && cut.which.planes().contains(&plane)
        };
        self.0.iter().filter(holds).map(|cut| cut.until).max()
    }

    /// Until when no connection can be made, nor anything be transferred that waits for answers.
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
