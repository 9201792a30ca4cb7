//! The journal's writer thread: a write that hangs delays the run, but not status requests.

use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};

use protocol::journal::Record;
use tokio::sync::mpsc;
use tracing::error;

use crate::checkpoints::journal_file::JournalFile;

/// The state machine requests the next append after the previous one has finished: there is never more than one.
const APPENDS_MAX: usize = 1;

/// Only a bug ends the thread.
const ENDED: &str = "the journal's thread has ended";

/// The result of an append.
pub(crate) type Appended = Result<(), String>;

/// Appends records in order, off the driver's thread. Nothing waits for the thread when the process ends, even if a
/// write hangs.
pub(crate) struct JournalWriter {
    appends: SyncSender<(Record, bool)>,
    /// `None` once the thread has ended.
    appended: Option<mpsc::Receiver<Appended>>,
}

impl JournalWriter {
    /// Starts the thread; it ends when the writer is dropped.
    ///
    /// # Errors
    /// When the thread can't be started.
    pub(crate) fn start(mut journal: JournalFile) -> std::io::Result<Self> {
        let (appends, inbox) = sync_channel::<(Record, bool)>(APPENDS_MAX);
        let (outbox, appended) = mpsc::channel(APPENDS_MAX);
        std::thread::Builder::new().name("journal".to_owned()).spawn(move || {
            for (record, durable) in inbox {
                let result = journal.append(&record, durable).map_err(|reason| reason.to_string());
                if let Err(reason) = &result {
                    error!(%reason, "the journal can't be written");
                }
                // The channel has room for each result; a driver that is gone needs none.
                if outbox.blocking_send(result).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { appends, appended: Some(appended) })
    }

    /// Begins an append, whose result [`JournalWriter::appended`] returns. Never blocks.
    ///
    /// # Panics
    /// When the previous append has not finished: the state machine requests one at a time.
    ///
    /// # Errors
    /// When the thread has ended.
    pub(crate) fn append(&self, record: Record, durable: bool) -> Appended {
        self.appends.try_send((record, durable)).map_err(|refused| match refused {
            TrySendError::Full(_) => panic!("two appends at once"),
            TrySendError::Disconnected(_) => ENDED.to_owned(),
        })
    }

    /// Waits for the result of the pending append. Cancel safe.
    pub(crate) async fn appended(&mut self) -> Appended {
        let Some(appended) = &mut self.appended else { return std::future::pending().await };
        match appended.recv().await {
            Some(result) => result,
            None => {
                self.appended = None;
                Err(ENDED.to_owned())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn records_are_written_in_order_and_each_is_answered() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("journal");
        let (journal, _, _) = JournalFile::open(&path).expect("a new journal");
        let mut writer = JournalWriter::start(journal).expect("a thread");
        let records: Vec<Record> = (0..50).map(|n| Record::Stop { reason: n.to_string() }).collect();
        for (number, record) in records.iter().enumerate() {
            writer.append(record.clone(), number % 7 == 0).expect("begun");
            assert_eq!(writer.appended().await, Ok(()));
            // The record has reached the operating system by now.
            let (_, written, _) = JournalFile::open(&path).expect("whole");
            assert_eq!(written, records[..=number]);
        }
    }
}
