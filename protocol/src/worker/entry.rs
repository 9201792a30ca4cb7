//! From Join to the first view.

use super::Output;
use super::machine::{Order, State, Worker};
use crate::messages::{FromWorker, Welcome};

impl Worker {
    pub(super) fn on_welcome(&mut self, welcome: Welcome) {
        if self.state != State::Joining {
            return self.refuse("a second Welcome");
        }
        self.member = Some(welcome.member);
        self.state = State::Preparing { order: None };
        self.put(Output::Prepare(Box::new(welcome)));
    }

    pub(super) fn on_order(&mut self, order: Order) {
        match &mut self.state {
            State::Preparing { order: slot @ None } => *slot = Some(order),
            State::Prepared => self.start_loading(order),
            _ => self.refuse("an order to load a state"),
        }
    }

    pub(super) fn on_prepared(&mut self) {
        match self.state {
            State::Preparing { order: Some(order) } => self.start_loading(order),
            State::Preparing { order: None } => self.state = State::Prepared,
            _ => {} // An answer that nobody waits for any more.
        }
    }

    fn start_loading(&mut self, order: Order) {
        self.state = State::Loading { order };
        self.put(match order {
            Order::Initialise => Output::Initialise,
            Order::Load(step) => Output::Load { step },
        });
    }

    pub(super) fn on_loaded(&mut self, step: u64, digest: [u8; 32], state_check: u64, elements: u64) {
        let State::Loading { .. } = self.state else { return };
        self.held = Some((step, state_check));
        self.state = State::Loaded;
        self.send(FromWorker::Loaded { step, digest, elements });
    }
}
