//! TCP proxies on another loopback address between one guest and a coordinator's ports, which can drop traffic.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;

use super::fault::{LostDirection, Plane};
use super::processes::listening;

/// The polling interval of the threads.
const LOOK: Duration = Duration::from_millis(5);

/// The state of one plane's traffic.
#[derive(Debug, Default)]
struct State {
    stop_up: AtomicBool,
    stop_down: AtomicBool,
    cut: AtomicBool,
    closed: AtomicBool,
}

impl State {
    fn lose(&self, lost: LostDirection) {
        let of = |which: &[LostDirection]| which.contains(&lost);
        self.stop_up.store(of(&[LostDirection::Both, LostDirection::ToCoordinator]), Ordering::Relaxed);
        self.stop_down.store(of(&[LostDirection::Both, LostDirection::FromCoordinator]), Ordering::Relaxed);
        self.cut.store(of(&[LostDirection::Cut]), Ordering::Relaxed);
    }

    fn heal(&self) {
        for flag in [&self.stop_up, &self.stop_down, &self.cut] {
            flag.store(false, Ordering::Relaxed);
        }
    }
}

/// The proxies of one guest, on an address of its own; when dropped, they close their ports and all connections.
#[derive(Debug)]
pub(super) struct Proxy {
    address: SocketAddr,
    control: Arc<State>,
    data: Arc<State>,
}

impl Proxy {
    /// Creates the proxy with this number for a run's coordinators. Their address is looked up for each connection to
    /// the control port, as a restarted coordinator may listen elsewhere; a guest connects there before it connects to
    /// the data plane, which has the same port on the proxy's address.
    pub(super) fn new(run_dir: &Path, number: usize) -> anyhow::Result<Self> {
        let [high, low] = [number / 250, number % 250].map(|part| u8::try_from(part).unwrap_or(u8::MAX));
        let host = Ipv4Addr::new(127, 0, 1 + high, 2 + low);
        let listener = TcpListener::bind((host, 0)).context("the proxy has no port")?;
        listener.set_nonblocking(true).context("the proxy's port")?;
        let address = listener.local_addr().context("the proxy's port")?;
        let (control, data) = (Arc::new(State::default()), Arc::new(State::default()));
        let mut doors =
            PortProxies { host, run_dir: run_dir.to_owned(), data: Arc::clone(&data), open: BTreeSet::new() };
        let shared = Arc::clone(&control);
        std::thread::spawn(move || accept(&listener, &shared, move || doors.control()));
        Ok(Self { address, control, data })
    }

    /// The URL that the guest takes for the coordinator's control address.
    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(super) fn lose(&self, plane: Plane, lost: LostDirection) {
        self.states(plane).for_each(|state| state.lose(lost));
    }

    /// Lets everything pass again; held-back data goes first, as TCP would deliver it late.
    pub(super) fn heal(&self) {
        self.states(Plane::Whole).for_each(State::heal);
    }

    fn states(&self, plane: Plane) -> impl Iterator<Item = &State> {
        let control = Some(&*self.control).filter(|_| plane != Plane::Data);
        let data = Some(&*self.data).filter(|_| plane != Plane::Control);
        control.into_iter().chain(data)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.states(Plane::Whole).for_each(|state| state.closed.store(true, Ordering::Relaxed));
    }
}

/// Proxies for the ports of a coordinator other than its control port.
struct PortProxies {
    host: Ipv4Addr,
    run_dir: PathBuf,
    data: Arc<State>,
    open: BTreeSet<u16>,
}

impl PortProxies {
    /// The current coordinator's control address; proxies for its other ports are opened.
    fn control(&mut self) -> Option<SocketAddr> {
        let read = |name: &str| std::fs::read_to_string(self.run_dir.join(name)).ok();
        let address: SocketAddr = read("address")?.trim().trim_start_matches("http://").parse().ok()?;
        let pid: u32 = read("lock")?.trim().parse().ok()?;
        for port in listening(pid).into_iter().filter(|port| *port != address.port()) {
            let is_new = self.open.insert(port);
            // If the port is taken on this address, this guest's connectivity is incomplete: it reports that and waits.
            if is_new && let Ok(listener) = TcpListener::bind((self.host, port)) {
                let state = Arc::clone(&self.data);
                let beyond = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
                if listener.set_nonblocking(true).is_ok() {
                    std::thread::spawn(move || accept(&listener, &state, move || Some(beyond)));
                }
            }
        }
        Some(address)
    }
}

fn accept(listener: &TcpListener, state: &Arc<State>, mut beyond: impl FnMut() -> Option<SocketAddr>) {
    while !state.closed.load(Ordering::Relaxed) {
        match listener.accept() {
            // Dropping a connection here refuses it.
            Ok((guest, _)) if !state.cut.load(Ordering::Relaxed) => {
                if let Some(address) = beyond() {
                    // Without a coordinator the guest's connection is closed.
                    let _ = connect(guest, state, address);
                }
            }
            Ok(_) => {}
            Err(_) => std::thread::sleep(LOOK),
        }
    }
}

fn connect(guest: TcpStream, state: &Arc<State>, address: SocketAddr) -> anyhow::Result<()> {
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

/// Forwards bytes until an end closes, or the connection is cut.
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

    /// This process as the coordinator of a run: a control port and a data port.
    fn run_of_own() -> (tempfile::TempDir, [TcpListener; 2]) {
        let ports = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("a port"));
        let dir = tempfile::tempdir().expect("a folder");
        let address = ports[0].local_addr().expect("an address");
        std::fs::write(dir.path().join("address"), format!("http://{address}\n")).expect("written");
        std::fs::write(dir.path().join("lock"), std::process::id().to_string()).expect("written");
        (dir, ports)
    }

    #[test]
    fn it_passes_holds_back_and_cuts_one_plane_or_both() {
        let (dir, [control, data]) = run_of_own();
        let proxy = Proxy::new(dir.path(), 0).expect("a proxy");
        let mut guest = TcpStream::connect(proxy.address).expect("connected");
        let (mut peer, _) = control.accept().expect("through the proxy");
        let port = data.local_addr().expect("an address").port();
        let mut edge = TcpStream::connect((proxy.address.ip(), port)).expect("connected");
        let (mut beyond, _) = data.accept().expect("through the door");
        let mut byte = [0];

        guest.write_all(b"a").expect("written");
        peer.read_exact(&mut byte).expect("passed on");
        edge.write_all(b"a").expect("written");
        beyond.read_exact(&mut byte).expect("passed on");

        proxy.lose(Plane::Control, LostDirection::ToCoordinator);
        peer.set_read_timeout(Some(20 * LOOK)).expect("a timeout");
        // A byte that arrives while the thread is about to read is still forwarded.
        let held = (0..10).find(|next| {
            guest.write_all(&[*next]).expect("written");
            peer.read_exact(&mut byte).is_err()
        });
        let held = held.expect("the next ones are held back");
        peer.write_all(b"c").expect("written");
        guest.read_exact(&mut byte).expect("the other way is open");
        edge.write_all(b"d").expect("written");
        beyond.read_exact(&mut byte).expect("and so is the other plane");

        proxy.heal();
        peer.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
        peer.read_exact(&mut byte).expect("late, not lost");
        assert_eq!(byte, [held]);

        proxy.lose(Plane::Data, LostDirection::Cut);
        assert_eq!(beyond.read(&mut byte).expect("an end"), 0);
        guest.write_all(b"e").expect("written");
        peer.read_exact(&mut byte).expect("passed on");
        proxy.lose(Plane::Whole, LostDirection::Cut);
        assert_eq!(peer.read(&mut byte).expect("an end"), 0);
    }
}
