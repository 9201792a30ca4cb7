//! Writes reduced frames to a member; one thread per connection.

use std::sync::mpsc::Receiver;

use protocol::ids::StepKey;
use protocol::reducer::ReducedFrame;
use tracing::debug;
use wire::frames::{FrameStream, Header, Kind, blocks, sums};
use wire::stream::DataStream;

/// Writes until the sender is dropped or the connection fails.
pub(super) fn write(mut frames: FrameStream<DataStream>, outbox: &Receiver<ReducedFrame>) {
    let mut tail = Vec::new();
    while let Ok(frame) = outbox.recv() {
        let written = match &frame {
            ReducedFrame::Sums(whole) => {
                sums::encode(&whole.sums, &whole.presence, &mut tail);
                frames.write(&header(Kind::ReducedSums, whole.key, 0, &tail, &[]), &tail, &[])
            }
            ReducedFrame::Slice(slice) => {
                blocks::encode(&slice.facts.hashes, &slice.facts.squares, &mut tail);
                let head = header(Kind::Slice, slice.key, slice.slice, &tail, &slice.values);
                frames.write(&head, &tail, &slice.values)
            }
        };
        if let Err(why) = written {
            // The reader of the same connection reports the loss; closing the socket makes sure that it notices.
            debug!(%why, "a slice can't be sent");
            let _ = frames.get_ref().shutdown();
            return;
        }
    }
}

fn header(kind: Kind, key: StepKey, slice: u32, tail: &[u8], body: &[f32]) -> Header {
    Header {
        kind,
        key,
        node_level: 0,
        node_index: 0,
        slice,
        tail_bytes: tail.len() as u32,
        floats: body.len() as u32,
    }
}
