//! The current members' identities, which their data connections and uploads must prove.
//!
//! A member gets a key with its Welcome; the key ends with its membership. A client that knows the run's token but no
//! member's key can join like any worker, and can't act in a member's name.

use std::collections::BTreeMap;
use std::net::{Shutdown, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use protocol::ids::{MemberId, MemberKey};
use wire::handshake::HandshakeError;
use wire::identity::{self, Identity};
use wire::proto::UploadBegin;
use wire::stream::DataStream;

use crate::control::audit::Audit;

/// Distinct refusals kept until the driver takes them; further ones are only counted.
const REFUSALS_MAX: usize = 16;

/// Shared by the driver, which admits members, and the threads that authenticate connections.
#[derive(Clone, Default)]
pub(crate) struct Identities {
    state: Arc<Mutex<State>>,
    /// Refusals are also logged here.
    audit: Option<Audit>,
}

#[derive(Default)]
struct State {
    members: BTreeMap<MemberId, Member>,
    /// Refusal counts by text, since the driver last took them.
    refusals: BTreeMap<String, u64>,
    refused_others: u64,
}

struct Member {
    identity: Identity,
    /// The newest data connection and its number: a member has only one.
    connection: Option<(u64, DataStream)>,
}

/// The outcome of registering an authenticated connection.
pub(crate) enum Registered {
    /// It is the member's newest connection; its predecessor must close when the reducer knows the new one.
    Newest {
        /// The predecessor, if any.
        before: Option<Superseded>,
    },
    /// A newer connection is registered already, or the member has left.
    TooLate,
}

/// A connection that a newer one of the same member has replaced. Dropping it closes it.
pub(crate) struct Superseded(DataStream);

impl Drop for Superseded {
    fn drop(&mut self) {
        // The socket may be closed already.
        let _ = self.0.socket().shutdown(Shutdown::Both);
    }
}

impl Identities {
    /// With the run's audit log.
    pub(crate) fn new(audit: Audit) -> Self {
        Self { state: Arc::default(), audit: Some(audit) }
    }

    /// Registers a new member whose token has this secret; returns the key to send to it.
    ///
    /// # Errors
    /// When the system's random source can't be read.
    pub(crate) fn issue(&self, member: MemberId, secret: [u8; 32]) -> std::io::Result<MemberKey> {
        let key = identity::random_key()?;
        let identity = Identity { secret, key: key.clone() };
        self.lock().members.insert(member, Member { identity, connection: None });
        Ok(key)
    }

    /// Ends a membership: the key proves nothing any more, and the data connection is closed.
    pub(crate) fn revoke(&self, member: MemberId) {
        let gone = self.lock().members.remove(&member);
        drop(gone.and_then(|member| member.connection).map(|(_, stream)| Superseded(stream)));
    }

    /// The identity that a client claiming to be this member must prove.
    pub(crate) fn of(&self, member: MemberId) -> Option<Identity> {
        self.lock().members.get(&member).map(|member| member.identity.clone())
    }

    /// Registers a connection that has proven to be this member's, replacing its previous one.
    pub(crate) fn enter(&self, member: MemberId, number: u64, stream: &DataStream) -> Registered {
        let mut state = self.lock();
        let Some(known) = state.members.get_mut(&member) else { return Registered::TooLate };
        if known.connection.as_ref().is_some_and(|(newest, _)| *newest > number) {
            return Registered::TooLate;
        }
        let before = known.connection.replace((number, stream.clone()));
        Registered::Newest { before: before.map(|(_, stream)| Superseded(stream)) }
    }

    /// Removes an ended connection of a member.
    pub(crate) fn leave(&self, member: MemberId, number: u64) {
        if let Some(known) = self.lock().members.get_mut(&member) {
            known.connection.take_if(|(newest, _)| *newest == number);
        }
    }

    /// Checks that an upload comes from the member that it names.
    ///
    /// # Errors
    /// With the reason when it doesn't.
    pub(crate) fn check_upload(&self, begin: &UploadBegin) -> Result<(), String> {
        let identity = self.of(MemberId(begin.member));
        let identity = identity.ok_or_else(|| HandshakeError::UnknownMember(begin.member).to_string())?;
        if identity::proves_upload(&identity.key, begin) {
            return Ok(());
        }
        Err(format!("the upload is not proven to be of the member {:#x} that it names", begin.member))
    }

    /// Records a refusal; returns whether to wake the driver for it.
    pub(crate) fn refuse(&self, peer: Option<SocketAddr>, what: &str, why: &HandshakeError) -> bool {
        if let Some(audit) = &self.audit {
            audit.record("refused", None, peer, &[("what", what), ("reason", reason(why))]);
        }
        let peer =
            peer.map_or_else(|| "an unknown address".to_owned(), |peer| peer.ip().to_canonical().to_string());
        let text = format!("{what} from {peer} was refused: {}", reason(why));
        let mut state = self.lock();
        let State { refusals, refused_others, .. } = &mut *state;
        let is_first = refusals.is_empty();
        if let Some(count) = refusals.get_mut(&text) {
            *count += 1;
        } else if refusals.len() < REFUSALS_MAX {
            refusals.insert(text, 1);
        } else {
            *refused_others += 1;
        }
        is_first
    }

    /// Takes the refusals since the last call, with their counts.
    pub(crate) fn take_refusals(&self) -> Vec<(String, u64)> {
        let mut state = self.lock();
        let others = std::mem::take(&mut state.refused_others);
        let mut refusals: Vec<(String, u64)> = std::mem::take(&mut state.refusals).into_iter().collect();
        if others > 0 {
            refusals.push(("data connections from many addresses were refused".to_owned(), others));
        }
        refusals
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The same text whatever id is guessed, so that a thousand guesses are one line with a count.
fn reason(why: &HandshakeError) -> &'static str {
    match why {
        HandshakeError::WrongToken => "it doesn't know the run's token",
        HandshakeError::UnknownMember(_) => {
            "it knows the run's token, and names a member that the run doesn't have"
        }
        HandshakeError::WrongMember(_) => {
            "it knows the run's token, but not the key of the member that it claims to be"
        }
        HandshakeError::OtherRun { .. } => "it belongs to another run",
        HandshakeError::OtherVersion { .. } => "it is of another release",
        HandshakeError::Foreign(_) => "it speaks another protocol",
        _ => "it did not say who it is",
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};

    use protocol::ids::RunId;

    use super::*;

    const MEMBER: MemberId = MemberId(7);
    const SECRET: [u8; 32] = [5; 32];

    fn pair() -> (TcpStream, DataStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let near = TcpStream::connect(listener.local_addr().expect("bound")).expect("connected");
        (near, DataStream::plain(listener.accept().expect("accepted").0))
    }

    /// Waits until the other end is closed.
    fn is_closed(mut near: TcpStream) -> bool {
        near.read(&mut [0]).is_ok_and(|read| read == 0)
    }

    #[test]
    fn a_member_has_one_data_connection_and_the_newest_is_it() {
        let identities = Identities::default();
        identities.issue(MEMBER, SECRET).expect("random");
        let [(first, far_first), (second, far_second), (late, far_late)] = [pair(), pair(), pair()];
        let newest = |entry| matches!(entry, Registered::Newest { .. });
        assert!(newest(identities.enter(MEMBER, 1, &far_first)));
        // Dropping the superseded connection closes it.
        assert!(newest(identities.enter(MEMBER, 3, &far_second)));
        assert!(is_closed(first));
        assert!(matches!(identities.enter(MEMBER, 2, &far_late), Registered::TooLate));
        identities.leave(MEMBER, 2);
        identities.revoke(MEMBER);
        assert!(is_closed(second));
        assert!(identities.of(MEMBER).is_none());
        assert!(matches!(identities.enter(MEMBER, 4, &far_late), Registered::TooLate));
        drop(late);
    }

    #[test]
    fn an_upload_is_taken_from_whose_it_is_while_that_is_a_member() {
        let identities = Identities::default();
        let key = identities.issue(MEMBER, SECRET).expect("random");
        let own = identity::upload_begin(RunId([1; 16]), (MEMBER, &key), 1, 5);
        assert_eq!(identities.check_upload(&own), Ok(()));
        let other = identity::upload_begin(RunId([1; 16]), (MEMBER, &MemberKey([0; 32])), 1, 5);
        assert!(identities.check_upload(&other).expect_err("not proven").contains("not proven"));
        identities.revoke(MEMBER);
        assert!(identities.check_upload(&own).expect_err("gone").contains("no member of the run"));
    }

    #[test]
    fn a_thousand_guesses_are_one_line_and_a_crowd_is_sixteen() {
        let identities = Identities::default();
        let local = Some(SocketAddr::from(([127, 0, 0, 1], 7)));
        let refuse =
            |peer, id| identities.refuse(peer, "a data connection", &HandshakeError::WrongMember(id));
        assert!(refuse(local, 0), "the driver is woken once");
        assert!((1..1_000).all(|id| !refuse(local, id)));
        let refusals = identities.take_refusals();
        let [(text, 1_000)] = &refusals[..] else { panic!("{refusals:?}") };
        assert!(text.contains("127.0.0.1") && text.contains("not the key"), "{text}");
        for host in 0..200 {
            refuse(Some(SocketAddr::from(([10, 0, 0, host], 7))), 0);
        }
        let refusals = identities.take_refusals();
        assert_eq!(refusals.len(), REFUSALS_MAX + 1);
        assert_eq!(refusals.iter().map(|(_, count)| count).sum::<u64>(), 200);
        assert!(identities.take_refusals().is_empty());
    }
}
