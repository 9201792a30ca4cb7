//! The embedded tracker over HTTP: by itself, and beside a run, which it never harms.

use std::path::{Path, PathBuf};

use configs::Config;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tracker::server::{AccessToken, Tracker};
use wire::token;

use crate::cli::ServeArgs;
use crate::prepare::Refusal;
use crate::record::Recorder;

/// In a run's folder, while the tracker is served beside the run.
const ADDRESS: &str = "tracker-address";

/// The sink that this is.
const EMBEDDED: &str = "embedded";

/// `coordinator tracker serve`: until Ctrl-C.
pub(crate) async fn serve(args: &ServeArgs) -> Result<(), Refusal> {
    if !token::is_loopback(args.listen.ip()) && args.token_file.is_none() {
        return Err(Refusal::config(format!(
            "--listen {} is reached from other machines: pass --token-file with a token that requests must carry (and \
             mind that nothing is encrypted)",
            args.listen
        )));
    }
    if !args.dir.is_dir() {
        return Err(Refusal::config(format!("--dir {}: there is no such folder", args.dir.display())));
    }
    let access = args.token_file.as_deref().map(access_token).transpose()?;
    let listener = TcpListener::bind(args.listen).await;
    let listener = listener.map_err(|why| Refusal::config(format!("--listen {}: {why}", args.listen)))?;
    let address = listener.local_addr().map_err(Refusal::failed)?;
    let tracker = Tracker::open(&args.dir, access, |remark| eprintln!("tracker: {remark}"));
    let tracker = tracker.map_err(Refusal::failed)?;
    println!("tracker of {} at http://{address}; Ctrl-C ends it", args.dir.display());
    tracker::server::serve(listener, tracker, stopped()).await.map_err(Refusal::failed)
}

fn access_token(path: &Path) -> Result<AccessToken, Refusal> {
    let at = |why: &dyn std::fmt::Display| Refusal::config(format!("--token-file {}: {why}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|why| at(&why))?;
    AccessToken::parse(&text).map_err(|why| at(&why))
}

/// SIGINT or SIGTERM.
async fn stopped() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut interrupt), Ok(mut terminate)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

/// The tracker beside a run.
pub(crate) struct Hosted {
    /// Ends it when it is sent to, or dropped.
    end: Option<oneshot::Sender<()>>,
    address: PathBuf,
}

impl Hosted {
    /// Ends it; what it still answers goes on in its own task.
    pub(crate) async fn end(self) {
        if self.end.is_some() {
            let _ = tokio::fs::remove_file(&self.address).await;
        }
    }
}

/// Serves the folder of runs in a task of its own while a run goes on, if the configuration wants it. What goes wrong is
/// said, and training goes on.
pub(crate) fn host(config: &Config, run_dir: &Path, recorder: &mut Recorder) -> Hosted {
    let address = run_dir.join(ADDRESS);
    let is_wanted = config.tracker.sinks.iter().any(|sink| sink == EMBEDDED);
    let mut hosted = Hosted { end: None, address };
    let Some(runs) = run_dir.parent().filter(|_| is_wanted && !config.tracker.listen.is_empty()) else {
        return hosted;
    };
    match start(&config.tracker.listen, runs, &hosted.address) {
        Ok((url, end)) => {
            recorder.line(&format!("tracker at {url}"));
            hosted.end = Some(end);
        }
        Err(why) => recorder.line(&format!("no tracker beside this run: {why}")),
    }
    hosted
}

fn start(listen: &str, runs: &Path, address: &Path) -> Result<(String, oneshot::Sender<()>), String> {
    let listener =
        std::net::TcpListener::bind(listen).map_err(|why| format!("tracker.listen = {listen:?}: {why}"))?;
    let ready = listener.set_nonblocking(true).and_then(|()| TcpListener::from_std(listener));
    let listener = ready.map_err(|why| why.to_string())?;
    let url = listener.local_addr().map(|at| format!("http://{at}")).map_err(|why| why.to_string())?;
    store::write_file(address, format!("{url}\n").as_bytes()).map_err(|why| why.to_string())?;
    let (end, ended) = oneshot::channel();
    let runs = runs.to_owned();
    tokio::spawn(async move {
        // SQLite may wait for a slow disk: not on a thread that others need.
        let opening = tokio::task::spawn_blocking(move || {
            Tracker::open(&runs, None, |remark| tracing::warn!("tracker: {remark}"))
        });
        let served = match opening.await {
            Ok(Ok(tracker)) => {
                let ended = async move { drop(ended.await) };
                tracker::server::serve(listener, tracker, ended).await.map_err(|why| why.to_string())
            }
            Ok(Err(why)) => Err(why.to_string()),
            Err(why) => Err(why.to_string()),
        };
        if let Err(why) = served {
            tracing::warn!("the tracker ended, training goes on: {why}");
        }
    });
    Ok((url, end))
}
