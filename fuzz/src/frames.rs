//! Fuzzes frames of the data plane.

use std::time::Duration;

use wire::frames::{BODY_FLOATS_MAX, FrameStream, HEADER_BYTES, Header, blocks, checksum, sums};

/// Header bytes that the checksum covers.
const COVERED: usize = HEADER_BYTES - 8;

/// The first byte selects whether checksums are fixed up, because no mutation would find a valid one.
pub fn run(data: &[u8]) {
    let Some((mode, data)) = data.split_first() else { return };
    let data = if mode % 2 == 0 { data.to_vec() } else { with_checksums(data) };
    let mut read = 0;
    let mut stream = FrameStream::new(&data[..], "a peer".to_owned(), Duration::from_secs(1));
    let (mut tail, mut body) = (Vec::new(), Vec::new());
    while let Ok(header) = stream.read_header(&mut tail) {
        assert!(tail.len() == header.tail_bytes as usize && header.floats as usize <= BODY_FLOATS_MAX);
        let said = &data[read..read + HEADER_BYTES];
        assert_eq!(header.encode(&tail), said, "what was understood is what was said");
        let _ = sums::decode(&tail);
        let (mut hashes, mut squares) = (Vec::new(), Vec::new());
        for with_squares in [false, true] {
            let blocks = (header.floats as usize).div_ceil(65_536);
            let _ = blocks::decode(&tail, blocks, with_squares, &mut hashes, &mut squares);
        }
        body.clear();
        body.resize(header.floats as usize, 0.0);
        if stream.read_body(&mut body).is_err() {
            return;
        }
        read += HEADER_BYTES + tail.len() + 4 * body.len();
    }
}

fn with_checksums(mut data: &[u8]) -> Vec<u8> {
    let mut mended = Vec::new();
    while let Some((covered, rest)) = data.split_at_checked(COVERED) {
        let mut header = [0; HEADER_BYTES];
        header[..COVERED].copy_from_slice(covered);
        let Ok((decoded, _)) = Header::decode(&header) else { break };
        let Some((tail, rest)) = rest.split_at_checked(decoded.tail_bytes as usize) else { break };
        header[COVERED..].copy_from_slice(&checksum(covered, tail).to_le_bytes());
        mended.extend_from_slice(&header);
        mended.extend_from_slice(tail);
        let (body, rest) = rest.split_at(rest.len().min(decoded.floats as usize * 4));
        mended.extend_from_slice(body);
        data = rest;
    }
    mended.extend_from_slice(data);
    mended
}
