//! Member identity: the key that Welcome gives to a member, and the proofs made with it.
//!
//! The run's token proves that a peer belongs to the run; it is the same for all. Member ids are easily guessed, as
//! they count from one. So everything done in a member's name, whether a data connection ([`crate::handshake`]) or an
//! upload, is proven with a key that only that member and its coordinator have.

use protocol::ids::{MemberId, MemberKey, RunId};

use crate::proto::UploadBegin;

/// A random key for a new member.
///
/// # Errors
/// When the system's random source can't be read.
pub fn random_key() -> std::io::Result<MemberKey> {
    crate::random_bytes().map(MemberKey)
}

/// A member's proof key on a data connection: derived from both secrets.
pub(crate) fn identity_key(secret: &[u8; 32], key: &MemberKey) -> [u8; 32] {
    *blake3::keyed_hash(secret, &key.0).as_bytes()
}

/// The secrets that a member proves on a data connection.
#[derive(Clone)]
pub struct Identity {
    /// Secret of the token with which it joined: [`Token::secret`](crate::token::Token::secret).
    pub secret: [u8; 32],
    /// The key that it was given on admission.
    pub key: MemberKey,
}

/// The proof in an upload's first message: it covers the upload's fields, so it is valid for no other upload.
#[must_use]
pub fn upload_proof(key: &MemberKey, begin: &UploadBegin) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_keyed(&key.0);
    hasher.update(b"bonfire upload");
    hasher.update(&begin.run);
    hasher.update(&begin.member.to_le_bytes());
    hasher.update(&begin.kind.to_le_bytes());
    hasher.update(&begin.step.to_le_bytes());
    *hasher.finalize().as_bytes()
}

/// Whether an upload's proof was made with this key.
#[must_use]
pub fn proves_upload(key: &MemberKey, begin: &UploadBegin) -> bool {
    let theirs = <[u8; 32]>::try_from(begin.proof.as_slice());
    // blake3::Hash compares in constant time.
    theirs.is_ok_and(|theirs| {
        blake3::Hash::from_bytes(theirs) == blake3::Hash::from_bytes(upload_proof(key, begin))
    })
}

/// An upload's first message, with its proof.
#[must_use]
pub fn upload_begin(run: RunId, (member, key): (MemberId, &MemberKey), kind: i32, step: u64) -> UploadBegin {
    let mut begin = UploadBegin { run: run.0.to_vec(), member: member.0, kind, step, proof: Vec::new() };
    begin.proof = upload_proof(key, &begin).to_vec();
    begin
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upload_is_proven_for_what_it_is_and_by_whose_it_is() {
        let (run, member) = (RunId([1; 16]), MemberId(7));
        let (key, other) = (MemberKey([2; 32]), MemberKey([3; 32]));
        let begin = upload_begin(run, (member, &key), 1, 40);
        assert!(proves_upload(&key, &begin));
        assert!(!proves_upload(&other, &begin));
        for changed in [
            UploadBegin { step: 41, ..begin.clone() },
            UploadBegin { kind: 2, ..begin.clone() },
            UploadBegin { member: 8, ..begin.clone() },
            UploadBegin { run: vec![9; 16], ..begin.clone() },
            UploadBegin { proof: Vec::new(), ..begin.clone() },
            UploadBegin { proof: vec![0; 32], ..begin },
        ] {
            assert!(!proves_upload(&key, &changed), "{changed:?}");
        }
    }

    #[test]
    fn a_key_is_in_no_log() {
        let key = random_key().expect("random");
        assert_ne!(key, random_key().expect("random"));
        assert_eq!(format!("{key:?}"), "MemberKey(...)");
    }
}
