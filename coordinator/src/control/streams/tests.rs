use std::path::Path;

use protocol::ids::MemberId;
use protocol::messages::UploadKind;
use tokio_stream::pending;
use wire::proto::{Join, UploadFile, UploadFinish, from_worker};

use super::*;
use crate::checkpoints::uploads::{ManifestInfo, Signing, Uploads};

/// Short, so that tests which wait for a timeout finish soon.
const PATIENCE: StreamTimeouts = StreamTimeouts {
    join: Duration::from_millis(50),
    stall: Duration::from_millis(50),
    finish: Duration::from_millis(50),
};

type Chunks = Vec<Result<UploadChunk, Status>>;

fn uploads(dir: &Path) -> Uploads {
    let lineage = ManifestInfo { config_digest: "c".into(), dataset_digest: "d".into(), steps_per_epoch: 5 };
    Uploads::new(dir, lineage, Signing::default())
}

fn claim(uploads: &Uploads) -> Claim {
    uploads.expect_version(7, MemberId(1), None);
    uploads.claim(UploadKind::Version, 7, MemberId(1)).expect("it is expected")
}

fn part(part: Part) -> Result<UploadChunk, Status> {
    Ok(UploadChunk { part: Some(part) })
}

/// A file of three bytes.
fn file() -> Chunks {
    let begin = UploadFile { name: "model.safetensors".into(), size: 3 };
    vec![part(Part::File(begin)), part(Part::Bytes(b"abc".to_vec()))]
}

fn whole() -> Chunks {
    let finish = UploadFinish { model_digest: vec![1; 32], state_digest: vec![2; 32] };
    [file(), vec![part(Part::Finish(finish))]].concat()
}

/// Number of entries in the checkpoints folder, whatever their names.
fn left(uploads: &Uploads) -> usize {
    std::fs::read_dir(uploads.checkpoints()).map_or(0, Iterator::count)
}

#[tokio::test]
async fn a_whole_upload_is_a_version() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let uploads = uploads(dir.path());
    let chunks = tokio_stream::iter(whole()).chain(pending());
    // Real timeouts: a disk may be slow.
    let (written, digest) = receive(claim(&uploads), chunks, StreamTimeouts::default()).await.expect("whole");
    assert!(matches!(written, Some(VersionOutcome::InPlace(manifest)) if manifest.step == 7));
    assert_eq!(digest, [2; 32]);
    assert_eq!(left(&uploads), 1);
}

#[tokio::test]
async fn an_upload_that_stops_coming_is_given_up_and_leaves_nothing() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let uploads = uploads(dir.path());
    let claim = claim(&uploads);
    let ticket = claim.ticket();
    let chunks = tokio_stream::iter(file()).chain(pending());
    let why = receive(claim, chunks, PATIENCE).await.expect_err("nothing more comes");
    assert!(why.contains("nothing of the upload came"), "{why}");
    assert!(ticket.give_up(), "it can't be put in place any more");
    for _ in 0..500 {
        if left(&uploads) == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{} are left in {}", left(&uploads), uploads.checkpoints().display());
}

/// The driver learns of the disk's own error at once: the next due checkpoint is the next attempt.
#[tokio::test]
async fn a_disk_that_takes_no_version_says_so_at_once() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let uploads = uploads(dir.path());
    std::fs::write(uploads.checkpoints(), "in the way").expect("written");
    let nothing = pending::<Result<UploadChunk, Status>>();
    let why = receive(claim(&uploads), nothing, StreamTimeouts::default()).await;
    let why = why.expect_err("there is no such folder");
    assert!(why.contains("checkpoints"), "{why}");
}

#[tokio::test]
async fn a_disk_that_takes_nothing_for_too_long_is_waited_for_no_longer() {
    let (sender, _unread) = mpsc::channel(1);
    let why = pass_on(tokio_stream::iter(file()), sender, PATIENCE.stall).await.expect_err("nobody reads");
    assert!(why.contains("the disk took nothing"), "{why}");
}

#[tokio::test]
async fn a_writer_that_never_ends_is_given_up_unless_the_version_is_in_place() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let ticket = claim(&uploads(dir.path())).ticket();
    let never = Box::pin(std::future::pending::<()>());
    let why = settle(never, &ticket, PATIENCE.finish).await.expect_err("it never ends");
    assert!(why.contains("not durable within"), "{why}");
    assert!(!ticket.put_in_place());

    let ticket = claim(&uploads(dir.path())).ticket();
    assert!(ticket.put_in_place());
    let late = Box::pin(tokio::time::sleep(PATIENCE.finish + PATIENCE.finish / 2));
    settle(late, &ticket, PATIENCE.finish).await.expect("it was in place, and its writer says so");
}

#[tokio::test]
async fn a_download_that_nobody_takes_is_given_up() {
    let (sender, receiver) = mpsc::channel(1);
    let mut file = std::io::Cursor::new(vec![7; CHUNK_BYTES * 2 + 1]);
    let why = send(&mut file, &sender, PATIENCE).await.expect_err("nobody takes the second chunk");
    assert!(why.contains("nothing was taken"), "{why}");
    drop(receiver);
    send(&mut file, &sender, PATIENCE).await.expect("whoever went away isn't waited for");
}

#[tokio::test]
async fn a_stream_that_does_not_join_is_closed_and_one_that_did_stays() {
    let (driver_events, mut inbox) = mpsc::channel(8);
    listen(1, pending(), driver_events.clone(), inbox_room(), PATIENCE).await;
    let Some(DriverEvent::Disconnected { connection: 1, reason }) = inbox.recv().await else {
        panic!("no end of the stream");
    };
    assert!(reason.contains("did not join"), "{reason}");

    let join = from_worker::Message::Join(Join { fingerprint: vec![0; 32], ..Join::default() });
    let joined = tokio_stream::iter([Ok(FromWorker { message: Some(join) })]).chain(pending());
    let listening =
        timeout(PATIENCE.join * 4, listen(2, joined, driver_events, inbox_room(), PATIENCE)).await;
    assert!(listening.is_err(), "it stays for as long as it likes");
    assert!(matches!(inbox.recv().await, Some(DriverEvent::Message { connection: 2, .. })));
}

/// A flood waits in its own socket once its messages have used up the room.
#[tokio::test]
async fn what_waits_for_the_driver_is_bounded_in_bytes() {
    let sums = vec![1.0; 100_000];
    let key = Some(wire::proto::StepKey { view: 1, step: 1, phase: 1 });
    let ready = wire::proto::Ready { key, sums, ..Default::default() };
    let message = FromWorker { message: Some(from_worker::Message::Ready(ready)) };
    let bytes = wire::encoded_bytes(&message);
    let flood = tokio_stream::iter(std::iter::repeat_with(move || Ok(message.clone())));
    let (driver_events, mut inbox) = mpsc::channel(4_096);
    let listening = tokio::spawn(listen(1, flood, driver_events, inbox_room(), StreamTimeouts::default()));
    let most = INBOX_BYTES_MAX / bytes;
    let began = std::time::Instant::now();
    while inbox.len() < most {
        assert!(began.elapsed() < Duration::from_secs(60), "{} of {most} wait", inbox.len());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    tokio::time::sleep(PATIENCE.stall).await;
    assert!(inbox.len() <= most + 1, "{} wait where {most} have room", inbox.len());
    // Messages that the driver takes in make room for new ones.
    for _ in 0..3 * most {
        assert!(matches!(inbox.recv().await, Some(DriverEvent::Message { .. })));
    }
    listening.abort();
}
