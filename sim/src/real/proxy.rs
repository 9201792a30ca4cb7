//! A TCP proxy on 127.0.0.1 between one guest and the coordinator's control port, which can lose what passes.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;

use super::fault::Lost;

/// How often threads look whether something has changed.
const LOOK: Duration = Duration::from_millis(5);

#[derive(Debug, Default)]
struct State {
    stop_up: AtomicBool,
    stop_down: AtomicBool,
    cut: AtomicBool,
    closed: AtomicBool,
}

/// The proxy; dropped, it closes its port and all connections.
#[derive(Debug)]
pub(super) struct Proxy {
    address: SocketAddr,
    state: Arc<State>,
}

impl Proxy {
    /// Before the coordinator whose address stands in a file; it is read at each connection, as a coordinator that
    /// was started again may listen elsewhere.
    pub(super) fn new(address_file: &Path) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").context("the proxy has no port")?;
        listener.set_nonblocking(true).context("the proxy's port")?;
        let address = listener.local_addr().context("the proxy's port")?;
        let state = Arc::new(State::default());
        let (shared, file) = (Arc::clone(&state), address_file.to_owned());
        std::thread::spawn(move || accept(&listener, &shared, &file));
        Ok(Self { address, state })
    }

    /// What the guest takes for the coordinator's control address.
    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(super) fn lose(&self, lost: Lost) {
        let of = |which: &[Lost]| which.contains(&lost);
        self.state.stop_up.store(of(&[Lost::Both, Lost::ToCoordinator]), Ordering::Relaxed);
        self.state.stop_down.store(of(&[Lost::Both, Lost::FromCoordinator]), Ordering::Relaxed);
        self.state.cut.store(of(&[Lost::Cut]), Ordering::Relaxed);
    }

    /// Everything passes again; what was held back first, as TCP would deliver it late.
    pub(super) fn heal(&self) {
        for flag in [&self.state.stop_up, &self.state.stop_down, &self.state.cut] {
            flag.store(false, Ordering::Relaxed);
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.state.closed.store(true, Ordering::Relaxed);
    }
}

fn accept(listener: &TcpListener, state: &Arc<State>, address_file: &PathBuf) {
    while !state.closed.load(Ordering::Relaxed) {
        match listener.accept() {
            // A connection that is dropped here was refused.
            Ok((guest, _)) if !state.cut.load(Ordering::Relaxed) => {
                // Without a coordinator the guest finds its connection closed.
                let _ = connect(guest, state, address_file);
            }
            Ok(_) => {}
            Err(_) => std::thread::sleep(LOOK),
        }
    }
}

fn connect(guest: TcpStream, state: &Arc<State>, address_file: &PathBuf) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(address_file)?;
    let address: SocketAddr = text.trim().trim_start_matches("http://").parse()?;
    let coordinator = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
    for stream in [&guest, &coordinator] {
        stream.set_nonblocking(false)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(LOOK))?;
        stream.set_write_timeout(Some(Duration::from_secs(10)))?;
    }
    let (up_from, up_to) = (guest.try_clone()?, coordinator.try_clone()?);
    let shared = Arc::clone(state);
    std::thread::spawn(move || pump(up_from, up_to, &shared, |state| &state.stop_up));
    let shared = Arc::clone(state);
    std::thread::spawn(move || pump(coordinator, guest, &shared, |state| &state.stop_down));
    Ok(())
}

/// Passes bytes on until an end closes, or the connection is cut.
fn pump(mut from: TcpStream, mut to: TcpStream, state: &State, stop: fn(&State) -> &AtomicBool) {
    let mut buffer = [0; 16 << 10];
    while !state.cut.load(Ordering::Relaxed) && !state.closed.load(Ordering::Relaxed) {
        if stop(state).load(Ordering::Relaxed) {
            std::thread::sleep(LOOK);
            continue;
        }
        match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => {
                if to.write_all(&buffer[..count]).is_err() {
                    break;
                }
            }
            Err(why) if matches!(why.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(_) => break,
        }
    }
    // Either may be closed already.
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_passes_holds_back_and_cuts() {
        let server = TcpListener::bind("127.0.0.1:0").expect("a port");
        let file = tempfile::NamedTempFile::new().expect("a file");
        let address = server.local_addr().expect("an address");
        std::fs::write(file.path(), format!("http://{address}\n")).expect("written");
        let proxy = Proxy::new(file.path()).expect("a proxy");
        let mut guest = TcpStream::connect(proxy.address).expect("connected");
        let (mut peer, _) = server.accept().expect("through the proxy");
        let mut byte = [0];

        guest.write_all(b"a").expect("written");
        peer.read_exact(&mut byte).expect("passed on");

        proxy.lose(Lost::ToCoordinator);
        std::thread::sleep(4 * LOOK);
        peer.set_read_timeout(Some(20 * LOOK)).expect("a timeout");
        guest.write_all(b"b").expect("written");
        assert!(peer.read_exact(&mut byte).is_err(), "held back");
        peer.write_all(b"c").expect("written");
        guest.read_exact(&mut byte).expect("the other way is open");

        proxy.heal();
        peer.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
        peer.read_exact(&mut byte).expect("late, not lost");
        assert_eq!(&byte, b"b");

        proxy.lose(Lost::Cut);
        assert_eq!(peer.read(&mut byte).expect("an end"), 0);
    }
}
