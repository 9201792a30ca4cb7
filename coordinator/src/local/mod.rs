//! Worker processes of this machine: how they are started, started again and tried out.

pub(crate) mod launch;
pub(crate) mod slots;
pub(crate) mod supervise;
pub(crate) mod task_check;
