//! Serves the embedded tracker over HTTP, standalone or alongside a run, which it never disturbs.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::time::Duration;

use bounded_http::Limits;
use configs::Config;
use run_record::RunRecord;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tracker::server::{AccessToken, Tracker};
use wire::token;

use crate::cli::ServeArgs;
use crate::control::certificates;
use crate::control::pages::{self, PageAccess, RunPages};
use crate::display;
use crate::files;
use crate::record::Recorder;
use crate::run::prepare::StartError;
use crate::signals;

/// File with the tracker's address, in a run's folder while the tracker is served alongside.
const ADDRESS: &str = "tracker-address";

/// Maximum number of queued remarks of the tracker; all of them are in the log.
const REMARKS_MAX: usize = 64;

/// How long the end of a run waits for its tracker, which gives open requests three seconds.
const END_MAX: Duration = Duration::from_secs(5);

/// The name of this sink in `tracker.sinks`.
const EMBEDDED: &str = "embedded";

/// Runs `coordinator tracker serve`, until Ctrl-C.
pub(crate) fn serve(args: &ServeArgs) -> Result<(), StartError> {
    let runtime = runtime().map_err(StartError::failed)?;
    let served = runtime.block_on(serve_until_stopped(args));
    // Threads that still wait for a disk have no work left.
    runtime.shutdown_background();
    served
}

async fn serve_until_stopped(args: &ServeArgs) -> Result<(), StartError> {
    if !token::is_loopback(args.listen.ip()) && args.token_file.is_none() {
        return Err(StartError::config(format!(
            "--listen {} is reached from other machines: pass --token-file with a token that requests must carry",
            args.listen
        )));
    }
    check_folder(&args.dir)?;
    let token = args.token_file.as_deref().map(access_token).transpose()?;
    let listener = TcpListener::bind(args.listen).await;
    let listener = listener.map_err(|why| {
        let free = SocketAddr::new(args.listen.ip(), 0);
        StartError::config(format!(
            "--listen {}: {why}; --listen {free} takes a port that is free",
            args.listen
        ))
    })?;
    let address = listener.local_addr().map_err(StartError::failed)?;
    let door = pages::of_folder(&args.security, address, token, &args.dir)?;
    let remark = |remark: &str| printable::error_line(format_args!("tracker: {remark}"));
    let tracker = Tracker::open(&args.dir, Some(door.access.clone()), remark).map_err(StartError::failed)?;
    let (scheme, dir) = (door.scheme(), args.dir.display());
    display::print(&format!("tracker of {dir} at {scheme}://{address}; Ctrl-C ends it"));
    if scheme == "https" && args.security.tls_cert.is_none() {
        display::print(&format!("its certificate is of an authority of its own: {dir}/.tracker/tls/ca.pem"));
    }
    if scheme == "http" && !token::is_loopback(address.ip()) {
        printable::error_line(format_args!("coordinator: {}", certificates::INSECURE_PAGES));
    }
    let (limits, end) = (files::of_tracker(), signals::told_to_end());
    tracker::server::serve(listener, door.establish(), tracker, limits, end).await;
    Ok(())
}

/// Maximum number of blocking threads of a tracker: four query the index at once, the others read and write files.
const DISK_THREADS_MAX: usize = 16;

/// The tracker's runtime: one thread for everything short, and blocking threads for disk access.
fn runtime() -> std::io::Result<Runtime> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.thread_name("tracker").max_blocking_threads(DISK_THREADS_MAX).enable_all().build()
}

/// Checks that the folder holds runs, or may.
fn check_folder(dir: &Path) -> Result<(), StartError> {
    let shown = dir.display();
    let wrong = if !dir.exists() {
        "there is no such folder; give the one that holds the runs (run.dir, \"runs\" if nothing is said)"
            .to_owned()
    } else if !dir.is_dir() {
        "this is a file; give the folder that holds the runs".to_owned()
    } else if dir.join(RunRecord::FILE).is_file() {
        let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        format!("this is a single run; give the folder that holds it: --dir {}", parent.display())
    } else {
        return Ok(());
    };
    Err(StartError::config(format!("--dir {shown}: {wrong}")))
}

fn access_token(path: &Path) -> Result<AccessToken, StartError> {
    let at =
        |why: &dyn std::fmt::Display| StartError::config(format!("--token-file {}: {why}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|why| at(&why))?;
    AccessToken::parse(&text).map_err(|why| at(&why))
}

/// The tracker served alongside a run.
pub(crate) struct HostedTracker {
    /// Stops the tracker when dropped.
    end: Option<oneshot::Sender<()>>,
    /// Closes when the tracker has stopped.
    ended: Option<oneshot::Receiver<()>>,
    address: PathBuf,
    /// Remarks for people, such as about a damaged index.
    said: Option<Receiver<String>>,
}

impl HostedTracker {
    /// Takes the receiver of its remarks.
    pub(crate) fn said(&mut self) -> Option<Receiver<String>> {
        self.said.take()
    }

    /// Stops the tracker; open streams get a moment for their last event.
    pub(crate) async fn end(self) {
        let Some(ended) = self.ended else { return };
        drop(self.end);
        if tokio::time::timeout(END_MAX, ended).await.is_err() {
            tracing::warn!("the tracker doesn't end, most likely for a slow disk: it isn't waited for");
        }
        let _ = tokio::fs::remove_file(&self.address).await;
    }
}

/// Serves the folder of runs on a thread of its own during a run, if configured. Errors are reported, and training goes
/// on.
pub(crate) fn host(
    config: &Config,
    run_dir: &Path,
    (pages, connections): (&RunPages, usize),
    recorder: &mut Recorder,
) -> HostedTracker {
    let address = run_dir.join(ADDRESS);
    let is_wanted = config.tracker.sinks.iter().any(|sink| sink == EMBEDDED);
    let mut hosted = HostedTracker { end: None, ended: None, address, said: None };
    let Some(runs) = run_dir.parent().filter(|_| is_wanted && !config.tracker.listen.is_empty()) else {
        return hosted;
    };
    let (say, said) = mpsc::sync_channel(REMARKS_MAX);
    match start((&config.tracker.listen, pages, connections), runs, &hosted.address, say) {
        Ok((url, end, ended)) => {
            let how = if url.starts_with("https") { " (asks for a token: /?token=TOKEN once)" } else { "" };
            recorder.line(&format!("tracker at {url}{how}"));
            (hosted.end, hosted.ended, hosted.said) = (Some(end), Some(ended), Some(said));
        }
        Err(why) => recorder.line(&format!("no tracker beside this run: {why}")),
    }
    hosted
}

/// The URL, the sender that stops the tracker when dropped, and the receiver that closes when it has stopped.
type StartedTracker = (String, oneshot::Sender<()>, oneshot::Receiver<()>);

fn start(
    (listen, pages, connections): (&str, &RunPages, usize),
    runs: &Path,
    address: &Path,
    say: SyncSender<String>,
) -> Result<StartedTracker, String> {
    let listener =
        std::net::TcpListener::bind(listen).map_err(|why| format!("tracker.listen = {listen:?}: {why}"))?;
    listener.set_nonblocking(true).map_err(|why| why.to_string())?;
    let at = listener.local_addr().map_err(|why| why.to_string())?;
    let door = pages.door(at).map_err(|why| format!("tracker.listen = {listen:?}: {}", why.message))?;
    let url = format!("{}://{}", door.scheme(), SocketAddr::new(certificates::outward(at.ip()), at.port()));
    store::write_file(address, format!("{url}\n").as_bytes()).map_err(|why| why.to_string())?;
    let (end, ended) = oneshot::channel();
    let (alive, is_over) = oneshot::channel::<()>();
    let (runs, runtime) = (runs.to_owned(), runtime().map_err(|why| why.to_string())?);
    let serve = move || {
        let say = move |remark: &str| {
            tracing::warn!("tracker: {remark}");
            // If the queue is full, the remark is still in the log.
            let _ = say.try_send(format!("tracker: {remark}"));
        };
        if let Err(why) = serve_beside(&runtime, (listener, door, connections), &runs, say.clone(), ended) {
            say(&format!("it ended, training goes on: {why}"));
        }
        drop(alive);
        runtime.shutdown_background();
    };
    // On its own thread: neither a slow disk nor many visitors may block a thread that the run needs.
    std::thread::Builder::new().name("tracker".to_owned()).spawn(serve).map_err(|why| why.to_string())?;
    Ok((url, end, is_over))
}

fn serve_beside(
    runtime: &Runtime,
    (listener, door, connections): (std::net::TcpListener, PageAccess, usize),
    runs: &Path,
    say: impl Fn(&str) + Send + Sync + 'static,
    ended: oneshot::Receiver<()>,
) -> Result<(), String> {
    let tracker = Tracker::open(runs, Some(door.access.clone()), say).map_err(|why| why.to_string())?;
    runtime.block_on(async move {
        let listener = TcpListener::from_std(listener).map_err(|why| why.to_string())?;
        let ended = async move { drop(ended.await) };
        tracker::server::serve(listener, door.establish(), tracker, Limits::of(connections), ended).await;
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_holds_no_runs_is_told_apart() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let run = dir.path().join("digits-1");
        std::fs::create_dir(&run).expect("made");
        std::fs::write(run.join(RunRecord::FILE), "{}").expect("written");
        assert!(check_folder(dir.path()).is_ok());
        for (wrong, said) in [
            (run.clone(), format!("--dir {}", dir.path().display())),
            (run.join(RunRecord::FILE), "this is a file".to_owned()),
            (dir.path().join("runz"), "no such folder".to_owned()),
        ] {
            let why = check_folder(&wrong).expect_err("refused").message;
            assert!(why.contains(&said) && why.contains("give the"), "{why}");
        }
    }
}
