//! A data plane socket, plain or under TLS: blocking, read by one thread and written by another.
//!
//! Both threads share rustls' connection. Its lock is held while bytes are encrypted or decrypted, never while waiting
//! for a socket: the reader reads from the socket into a buffer of its own and then takes the lock, the writer encrypts
//! under the lock and then writes to the socket, in the order of encryption. So a peer that accepts nothing blocks only
//! the writer, and a peer that sends nothing only the reader.

use std::io::{ErrorKind, IoSlice, Read, Result, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, Connection, ServerConfig, ServerConnection};

use crate::tls::TlsError;

/// Ciphertext bytes per read: four records.
const ARRIVED_BYTES: usize = 64 << 10;
/// Maximum bytes encrypted under one lock: some 50 microseconds.
const SEALED_BYTES_MAX: usize = 128 << 10;
/// Label of the exported key material (RFC 5705) that binds the handshake's proofs to the TLS session.
const BINDING_LABEL: &[u8] = b"EXPORTER-bonfire-data-plane";

/// A socket; clones share it.
#[derive(Clone, Debug)]
pub struct DataStream {
    socket: Arc<TcpStream>,
    tls: Option<Arc<Session>>,
}

/// The state of a TLS session shared by its threads.
struct Session {
    connection: Mutex<Connection>,
    /// Used by the reader.
    arrived: Mutex<ReceivedCiphertext>,
    /// Used by the writer.
    sealed: Mutex<OutgoingCiphertext>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.write_str("Session")
    }
}

/// Ciphertext from the socket that isn't decrypted yet.
struct ReceivedCiphertext {
    bytes: Box<[u8]>,
    from: usize,
    to: usize,
}

#[derive(Default)]
struct OutgoingCiphertext {
    bytes: Vec<u8>,
    /// A record was truncated: nothing after it could be decrypted.
    is_broken: bool,
}

impl DataStream {
    /// A plaintext connection.
    #[must_use]
    pub fn plain(socket: TcpStream) -> Self {
        Self { socket: Arc::new(socket), tls: None }
    }

    /// Connects as a TLS client; the handshake must finish within `deadline`.
    ///
    /// # Errors
    /// When `config` doesn't trust the server, the handshake fails, or it takes too long.
    pub fn connect(
        socket: TcpStream,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
        deadline: Duration,
    ) -> std::result::Result<Self, TlsError> {
        let connection = ClientConnection::new(config, name).map_err(TlsError::of)?;
        Self::agree(socket, connection.into(), deadline)
    }

    /// Accepts as a TLS server; the handshake must finish within `deadline`.
    ///
    /// # Errors
    /// When the handshake fails or takes too long.
    pub fn accept(
        socket: TcpStream,
        config: Arc<ServerConfig>,
        deadline: Duration,
    ) -> std::result::Result<Self, TlsError> {
        let connection = ServerConnection::new(config).map_err(TlsError::of)?;
        Self::agree(socket, connection.into(), deadline)
    }

    fn agree(
        socket: TcpStream,
        mut connection: Connection,
        deadline: Duration,
    ) -> std::result::Result<Self, TlsError> {
        connection.set_buffer_limit(Some(SEALED_BYTES_MAX));
        let until = Instant::now() + deadline;
        let left = || match until.saturating_duration_since(Instant::now()) {
            Duration::ZERO => Err(late(deadline)),
            left => Ok(left),
        };
        let mut arrived = ReceivedCiphertext { bytes: vec![0; ARRIVED_BYTES].into(), from: 0, to: 0 };
        while connection.is_handshaking() || connection.wants_write() {
            if connection.wants_write() {
                socket.set_write_timeout(Some(left()?))?;
                send(&mut connection, &socket).map_err(|why| in_time(why, deadline))?;
                continue;
            }
            socket.set_read_timeout(Some(left()?))?;
            match arrived.fill(&socket) {
                Ok(0) => return Err(TlsError::of_io(ErrorKind::UnexpectedEof.into())),
                Ok(_) => {}
                Err(why) => return Err(in_time(why, deadline)),
            }
            while arrived.from < arrived.to && connection.is_handshaking() {
                if let Err(why) = arrived.feed(&mut connection) {
                    // Send the alert with the reason to the other side.
                    let _ = send(&mut connection, &socket);
                    return Err(TlsError::of_io(why));
                }
            }
        }
        socket.set_read_timeout(None)?;
        socket.set_write_timeout(None)?;
        let session = Session {
            connection: Mutex::new(connection),
            arrived: Mutex::new(arrived),
            sealed: Mutex::default(),
        };
        Ok(Self { socket: Arc::new(socket), tls: Some(Arc::new(session)) })
    }

    /// Key material that only the two ends of this TLS session know; zeros for a plain socket. Proofs cover it, so
    /// that a proof relayed from one session into another is invalid.
    ///
    /// # Errors
    /// Never after a completed handshake.
    pub fn binding(&self) -> Result<[u8; 32]> {
        let Some(session) = &self.tls else { return Ok([0; 32]) };
        let exported = lock(&session.connection).export_keying_material([0; 32], BINDING_LABEL, None);
        exported.map_err(std::io::Error::other)
    }

    /// Sets the socket's read timeout.
    ///
    /// # Errors
    /// When the system refuses it.
    pub fn set_read_timeout(&self, timeout: Option<Duration>) -> Result<()> {
        self.socket.set_read_timeout(timeout)
    }

    /// Sets the socket's write timeout.
    ///
    /// # Errors
    /// When the system refuses it.
    pub fn set_write_timeout(&self, timeout: Option<Duration>) -> Result<()> {
        self.socket.set_write_timeout(timeout)
    }

    /// Shuts both directions down at once, for all clones.
    ///
    /// # Errors
    /// When it is already closed.
    pub fn shutdown(&self) -> Result<()> {
        self.socket.shutdown(Shutdown::Both)
    }

    /// The underlying socket.
    #[must_use]
    pub fn socket(&self) -> &TcpStream {
        &self.socket
    }
}

impl AsFd for DataStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Read for DataStream {
    fn read(&mut self, into: &mut [u8]) -> Result<usize> {
        match &self.tls {
            None => (&*self.socket).read(into),
            Some(session) => session.read(&self.socket, into),
        }
    }
}

impl Write for DataStream {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> Result<usize> {
        match &self.tls {
            None => (&*self.socket).write_vectored(parts),
            Some(session) => session.write(&self.socket, parts),
        }
    }

    /// Does nothing: [`write`](Self::write) returns only once the bytes are in the socket.
    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

impl Session {
    fn read(&self, socket: &TcpStream, into: &mut [u8]) -> Result<usize> {
        let mut arrived = lock(&self.arrived);
        loop {
            // The connection's lock is released with this statement, before waiting for the socket.
            let taken = take(&mut lock(&self.connection), &mut arrived, into)?;
            if taken > 0 || into.is_empty() {
                return Ok(taken);
            }
            match arrived.fill(socket) {
                // Frames have lengths, and connections need no closing message: EOF is EOF, with or without
                // close_notify.
                Ok(0) => return Ok(0),
                Ok(_) => {}
                Err(why) => return Err(why),
            }
        }
    }

    fn write(&self, mut socket: &TcpStream, parts: &[IoSlice<'_>]) -> Result<usize> {
        let mut sealed = lock(&self.sealed);
        if sealed.is_broken {
            return Err(ErrorKind::BrokenPipe.into());
        }
        sealed.bytes.clear();
        let taken = {
            let mut connection = lock(&self.connection);
            let taken = connection.writer().write_vectored(parts)?;
            while connection.wants_write() {
                connection.write_tls(&mut sealed.bytes)?;
            }
            taken
        };
        let written = socket.write_all(&sealed.bytes);
        sealed.is_broken = written.is_err();
        written.map(|()| taken)
    }
}

impl ReceivedCiphertext {
    /// Waits for more ciphertext. All previous bytes must have been decrypted.
    fn fill(&mut self, mut socket: &TcpStream) -> Result<usize> {
        let read = loop {
            match socket.read(&mut self.bytes) {
                Err(why) if why.kind() == ErrorKind::Interrupted => {}
                read => break read?,
            }
        };
        (self.from, self.to) = (0, read);
        Ok(read)
    }

    /// Feeds buffered bytes to the connection.
    fn feed(&mut self, connection: &mut Connection) -> Result<()> {
        self.from += connection.read_tls(&mut &self.bytes[self.from..self.to])?;
        connection
            .process_new_packets()
            .map(drop)
            .map_err(|why| std::io::Error::new(ErrorKind::InvalidData, why))
    }
}

/// Decrypts buffered ciphertext into `into`; returns 0 if there is no whole record yet.
fn take(connection: &mut Connection, arrived: &mut ReceivedCiphertext, into: &mut [u8]) -> Result<usize> {
    let mut taken = 0;
    loop {
        while taken < into.len() {
            match connection.reader().read(&mut into[taken..]) {
                Ok(0) => break,
                Ok(read) => taken += read,
                Err(why) if why.kind() == ErrorKind::WouldBlock => break,
                Err(why) => return Err(why),
            }
        }
        if taken == into.len() || arrived.from == arrived.to {
            return Ok(taken);
        }
        arrived.feed(connection)?;
    }
}

/// Sends all pending messages of the connection itself.
fn send(connection: &mut Connection, mut socket: &TcpStream) -> Result<()> {
    let mut bytes = Vec::new();
    while connection.wants_write() {
        connection.write_tls(&mut bytes)?;
    }
    socket.write_all(&bytes)
}

fn in_time(why: std::io::Error, deadline: Duration) -> TlsError {
    match why.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => late(deadline),
        _ => TlsError::of_io(why),
    }
}

fn late(deadline: Duration) -> TlsError {
    let what = format!("TLS was not agreed on within {deadline:?}");
    TlsError::Io(std::io::Error::new(ErrorKind::TimedOut, what))
}

/// Locks a mutex even after a panic of another thread, whose connection ends anyway.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
