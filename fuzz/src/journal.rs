//! Fuzzes the journal, a file that a crash, a disk or a person may have changed.

use protocol::history::History;
use protocol::journal::{decode, encode};
use xxhash_rust::xxh3::xxh3_64;

/// The first byte selects whether the rest is a file, or records (a two-byte length and the payload) to frame with
/// valid checksums, because no mutation would find one.
pub fn run(data: &[u8]) {
    let Some((mode, data)) = data.split_first() else { return };
    let file = if mode % 2 == 0 { data.to_vec() } else { framed(data) };
    let Ok(decoded) = decode(&file) else { return };
    assert!(decoded.good_bytes <= file.len());
    assert_eq!(decoded.torn.is_some(), decoded.good_bytes < file.len());
    let again: Vec<u8> = decoded.records.iter().flat_map(encode).collect();
    assert_eq!(again, file[..decoded.good_bytes], "what was understood is what was said");
    let Ok(mut history) = History::replay(&decoded.records) else { return };
    let versions: Vec<_> = history.versions().collect();
    for (step, digest) in versions {
        let _ = history.resume_from(step, digest);
        let _ = history.fall_back_to(step, digest);
        let _ = (history.applied(step), history.is_evaluated(step));
    }
    let _ = (history.proven_step(), history.orphans(), history.last_step(), history.is_completed());
}

fn framed(mut data: &[u8]) -> Vec<u8> {
    let mut file = Vec::new();
    while let Some((length, rest)) = data.split_first_chunk::<2>() {
        let (payload, rest) = rest.split_at(rest.len().min(usize::from(u16::from_le_bytes(*length))));
        let length = (payload.len() as u32).to_le_bytes();
        file.extend_from_slice(&length);
        file.extend_from_slice(&(xxh3_64(&length) as u32 | 1).to_le_bytes());
        file.extend_from_slice(&xxh3_64(payload).to_le_bytes());
        file.extend_from_slice(payload);
        data = rest;
    }
    file
}
