//! Loom models of the coordinator's hand-written synchronisation: runs every interleaving, and panics with the one that
//! led to a deadlock or a failed assertion.
//!
//! The modules are the coordinator's own. They import their locks from `crate::sync`, which is std's there and loom's
//! here.
#![allow(dead_code, reason = "the modules are whole, and the models use a part")]

#[path = "../../coordinator/src/reduction/gate.rs"]
mod gate;
#[path = "../../coordinator/src/reduction/pool.rs"]
mod pool;
#[path = "../../coordinator/src/checkpoints/upload_stage.rs"]
mod upload_stage;

/// Stands in for `coordinator/src/sync.rs`.
mod sync {
    pub(crate) use loom::sync::{Condvar, Mutex, MutexGuard};
    pub(crate) use std::sync::PoisonError;
    pub(crate) mod atomic {
        pub(crate) use loom::sync::atomic::{AtomicU8, Ordering};
    }
}

use loom::sync::Arc;
use loom::thread;
use protocol::ids::{Phase, StepKey, ViewId};
use protocol::reducer::WINDOW;

use gate::Gate;
use pool::Pool;
use upload_stage::UploadStage;

type Model = (&'static str, fn());

const MODELS: [Model; 4] = [
    ("readers pass the gate once they are admitted", readers_pass),
    ("a new view frees whoever waits at the gate", a_view_frees),
    ("an upload is put in place or given up, never both", one_end_of_an_upload),
    ("a pool keeps no more than its bound", a_pool_is_bounded),
];

fn main() {
    for (name, model) in MODELS {
        loom::model(model);
        println!("{name}: ok");
    }
}

fn key(view: u64, step: u64) -> StepKey {
    StepKey { view: ViewId(view), step, phase: Phase::Train }
}

/// Two connections run ahead of the reducer by different distances. A missed wake-up would block a reader for ever.
fn readers_pass() {
    let gate = Arc::new(Gate::default());
    gate.expect(key(1, 1));
    let readers = [WINDOW, WINDOW + 1].map(|slice| {
        let gate = gate.clone();
        thread::spawn(move || gate.wait(key(1, 1), slice))
    });
    gate.set(key(1, 1), 1);
    gate.set(key(1, 1), 2);
    for reader in readers {
        assert_eq!(reader.join().expect("it passed"), Ok(()));
    }
}

/// The reader's slice is stale then, and the reducer drops it.
fn a_view_frees() {
    let gate = Arc::new(Gate::default());
    gate.expect(key(1, 1));
    let reader = {
        let gate = gate.clone();
        thread::spawn(move || gate.wait(key(1, 1), WINDOW + 7))
    };
    gate.set(key(1, 1), 0);
    gate.expect(key(2, 1));
    gate.set(key(2, 1), 0);
    assert_eq!(reader.join().expect("it passed"), Ok(()));
}

/// A deadline passes just as the disk finishes.
fn one_end_of_an_upload() {
    let stage = Arc::new(UploadStage::default());
    let putting = {
        let stage = stage.clone();
        thread::spawn(move || stage.put_in_place())
    };
    let is_given_up = stage.give_up();
    let is_in_place = putting.join().expect("it ended");
    assert_ne!(is_given_up, is_in_place);
    assert_eq!(stage.give_up(), is_given_up, "what has ended stays so");
}

/// A view begins while readers still return buffers of the previous one.
fn a_pool_is_bounded() {
    let pool = Arc::new(Pool::default());
    pool.bound(2);
    let reader = {
        let pool = pool.clone();
        thread::spawn(move || {
            let buffer = pool.take(1);
            pool.give([buffer, vec![0.0]]);
        })
    };
    pool.give([vec![0.0], vec![0.0]]);
    pool.bound(1);
    reader.join().expect("it gave");
    assert!(pool.take(1).capacity() > 0);
    assert_eq!(pool.take(0).capacity(), 0, "one rested at most");
}
