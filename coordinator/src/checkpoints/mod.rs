//! What must last: the journal, the uploads that become checkpoints, and what is kept of them.

pub(crate) mod journal_file;
pub(crate) mod journal_writer;
pub(crate) mod rescue;
pub(crate) mod retention;
pub(crate) mod stall_watch;
pub(crate) mod upload_stage;
pub(crate) mod uploads;
