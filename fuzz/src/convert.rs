//! Fuzzes protobuf control messages of both sides.

use prost::Message;
use wire::convert::{from_worker_in, from_worker_out, to_worker_in, to_worker_out};
use wire::{proto, worker_report};

/// The first byte selects the sender. An accepted message must survive being encoded and decoded again.
pub fn run(data: &[u8]) {
    let Some((side, data)) = data.split_first() else { return };
    if side % 2 == 0 {
        let Ok(mut message) = proto::FromWorker::decode(data) else { return };
        let _ = worker_report::take(&mut message);
        let Ok(read) = from_worker_in(message) else { return };
        let said = from_worker_out(read).encode_to_vec();
        let again = proto::FromWorker::decode(&said[..]).expect("what was said");
        let again = from_worker_in(again).expect("what was said");
        assert_eq!(from_worker_out(again).encode_to_vec(), said);
    } else {
        let Ok(message) = proto::ToWorker::decode(data) else { return };
        let Ok(read) = to_worker_in(message) else { return };
        let said = to_worker_out(read).encode_to_vec();
        let again = proto::ToWorker::decode(&said[..]).expect("what was said");
        let again = to_worker_in(again).expect("what was said");
        assert_eq!(to_worker_out(again).encode_to_vec(), said);
    }
}
