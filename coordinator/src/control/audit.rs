//! `RUN_DIR/audit.jsonl`, the audit log: joins, refusals, stops, checkpoint requests, tokens created and revoked. It
//! holds one JSON object a line, never a token's value. Its size is bounded, and so are the lines a minute that
//! unauthenticated clients can cause.

use std::fs::File;
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant, SystemTime};

use datasets::registry::utc;
use serde_json::{Map, Value};
use tracing::warn;

use crate::control::access::Caller;

const FILE: &str = "audit.jsonl";
/// The older half of the log: together the two files bound its size.
const OLDER: &str = "audit.1.jsonl";

/// Maximum size of each of the two files: about fifty thousand lines.
const FILE_BYTES_MAX: u64 = 8 << 20;

/// Maximum length of a field: a peer may choose any name.
const FIELD_CHARS_MAX: usize = 200;

/// Lines that may be queued for the disk.
const WAITING_MAX: usize = 1_024;

/// Refusals logged on lines of their own each minute; the rest are counted.
const REFUSALS_MAX: u32 = 60;
const MINUTE: Duration = Duration::from_secs(60);

/// Handle to the audit log. A disk that hangs blocks no caller: lines that find the queue full are dropped with a
/// warning.
#[derive(Clone, Debug)]
pub(crate) struct Audit {
    lines: SyncSender<Line>,
}

struct Line {
    event: &'static str,
    fields: Map<String, Value>,
}

impl Audit {
    /// Opens the log of the run in this folder and starts the thread that writes it.
    ///
    /// # Errors
    /// When the thread can't be started.
    pub(crate) fn start(dir: &Path) -> std::io::Result<Self> {
        let (lines, inbox) = sync_channel(WAITING_MAX);
        let dir = dir.to_owned();
        std::thread::Builder::new().name("audit".to_owned()).spawn(move || keep(&dir, &inbox))?;
        Ok(Self { lines })
    }

    /// Logs an event with the time, the token's name and role, the peer's address and further fields.
    pub(crate) fn record(
        &self,
        event: &'static str,
        who: Option<&Caller>,
        peer: Option<SocketAddr>,
        more: &[(&str, &str)],
    ) {
        let mut fields = Map::new();
        if let Some(who) = who {
            fields.insert("token".to_owned(), field(&who.name));
            fields.insert("role".to_owned(), field(&who.role()));
        }
        if let Some(peer) = peer {
            fields.insert("peer".to_owned(), shown(peer));
        }
        fields.extend(more.iter().map(|(key, value)| ((*key).to_owned(), field(value))));
        if let Err(TrySendError::Full(_)) = self.lines.try_send(Line { event, fields }) {
            warn!(event, "the audit log can't be written fast enough");
        }
    }
}

/// Text without control characters, cut to [`FIELD_CHARS_MAX`].
fn field(text: &str) -> Value {
    let plain = text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c });
    plain.take(FIELD_CHARS_MAX).collect::<String>().into()
}

fn keep(dir: &Path, inbox: &Receiver<Line>) {
    let mut refusals = Refusals { since: Instant::now(), count: 0 };
    loop {
        match inbox.recv_timeout(MINUTE) {
            Ok(line) => {
                if let Some(left_out) = refusals.begin(Instant::now()) {
                    append(dir, "refused", left_out_fields(left_out));
                }
                if line.event != "refused" || refusals.has_room() {
                    append(dir, line.event, line.fields);
                }
            }
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {
                if let Some(left_out) = refusals.begin(Instant::now()) {
                    append(dir, "refused", left_out_fields(left_out));
                }
            }
            Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => return,
        }
    }
}

fn left_out_fields(count: u32) -> Map<String, Value> {
    Map::from_iter([("count".to_owned(), count.into())])
}

/// Refusals of the current minute.
struct Refusals {
    since: Instant,
    count: u32,
}

impl Refusals {
    /// Begins the next minute when it is due; returns how many refusals of the last minute were only counted, if any.
    fn begin(&mut self, now: Instant) -> Option<u32> {
        if now.duration_since(self.since) < MINUTE {
            return None;
        }
        let left_out = self.count.saturating_sub(REFUSALS_MAX);
        *self = Self { since: now, count: 0 };
        (left_out > 0).then_some(left_out)
    }

    fn has_room(&mut self) -> bool {
        self.count = self.count.saturating_add(1);
        self.count <= REFUSALS_MAX
    }
}

/// Appends a line from a process other than the run's coordinator.
pub(crate) fn record(dir: &Path, event: &'static str, token: &str, role: &str) {
    append(
        dir,
        event,
        Map::from_iter([("token".to_owned(), field(token)), ("role".to_owned(), field(role))]),
    );
}

/// Logs a deletion or restoration in a folder of runs that no run serves.
pub(crate) fn note_change(
    dir: &Path,
    event: &'static str,
    token: &str,
    peer: Option<SocketAddr>,
    request: &str,
) {
    let mut fields =
        Map::from_iter([("token".to_owned(), field(token)), ("request".to_owned(), field(request))]);
    if let Some(peer) = peer {
        fields.insert("peer".to_owned(), shown(peer));
    }
    append(dir, event, fields);
}

fn shown(peer: SocketAddr) -> Value {
    peer.ip().to_canonical().to_string().into()
}

fn append(dir: &Path, event: &str, fields: Map<String, Value>) {
    let mut line = Map::from_iter([
        ("time".to_owned(), Value::from(utc(SystemTime::now()))),
        ("event".to_owned(), event.into()),
    ]);
    line.extend(fields);
    if let Err(why) = write(&dir.join(FILE), &dir.join(OLDER), &(Value::Object(line).to_string() + "\n")) {
        warn!(%why, event, "the audit log can't be written");
    }
}

fn write(path: &Path, older: &Path, line: &str) -> std::io::Result<()> {
    let open = || File::options().create(true).append(true).mode(0o600).open(path);
    let mut file = open()?;
    if file.metadata()?.len() + line.len() as u64 > FILE_BYTES_MAX {
        std::fs::rename(path, older)?;
        file = open()?;
    }
    file.write_all(line.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(dir: &Path) -> Vec<Value> {
        let text = std::fs::read_to_string(dir.join(FILE)).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).expect("a JSON object a line")).collect()
    }

    #[test]
    fn what_a_peer_calls_itself_is_text_and_bounded() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let (lines, inbox) = sync_channel(1);
        let audit = Audit { lines };
        let name = "\u{1b}[31mred\n".to_owned() + &"x".repeat(100_000);
        let peer = "[::ffff:10.0.0.1]:7".parse().ok();
        audit.record("joined", None, peer, &[("worker", &name)]);
        drop(audit);
        keep(dir.path(), &inbox);
        let line = &written(dir.path())[0];
        assert_eq!((&line["event"], &line["peer"]), (&"joined".into(), &"10.0.0.1".into()));
        let worker = line["worker"].as_str().expect("a name");
        assert!(worker.starts_with("\u{fffd}[31mred\u{fffd}x") && worker.chars().count() == FIELD_CHARS_MAX);
    }

    #[test]
    fn the_log_is_bounded() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let (path, older) = (dir.path().join(FILE), dir.path().join(OLDER));
        let long = "x".repeat(1 << 20) + "\n";
        for _ in 0..40 {
            write(&path, &older, &long).expect("written");
        }
        let size = |path: &Path| std::fs::metadata(path).expect("there").len();
        assert!(size(&path) <= FILE_BYTES_MAX && size(&older) <= FILE_BYTES_MAX);
    }

    #[test]
    fn refusals_of_a_minute_are_bounded_and_the_others_counted() {
        let began = Instant::now();
        let mut refusals = Refusals { since: began, count: 0 };
        let written = (0..1_000).filter(|_| refusals.has_room()).count();
        assert_eq!(written, REFUSALS_MAX as usize);
        assert_eq!(refusals.begin(began), None);
        assert_eq!(refusals.begin(began + MINUTE), Some(1_000 - REFUSALS_MAX));
        assert_eq!(refusals.begin(began + 2 * MINUTE), None);
    }
}
