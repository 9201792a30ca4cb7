//! The embedded tracker over HTTP: by itself, and beside a run, which it never harms.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use configs::Config;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tracker::RunRecord;
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
    check_folder(&args.dir)?;
    let access = args.token_file.as_deref().map(access_token).transpose()?;
    let listener = TcpListener::bind(args.listen).await;
    let listener = listener.map_err(|why| {
        let free = SocketAddr::new(args.listen.ip(), 0);
        Refusal::config(format!("--listen {}: {why}; --listen {free} takes a port that is free", args.listen))
    })?;
    let address = listener.local_addr().map_err(Refusal::failed)?;
    let tracker = Tracker::open(&args.dir, access, |remark| eprintln!("tracker: {remark}"));
    let tracker = tracker.map_err(Refusal::failed)?;
    println!("tracker of {} at http://{address}; Ctrl-C ends it", args.dir.display());
    tracker::server::serve(listener, tracker, stopped()).await.map_err(Refusal::failed)
}

/// The folder is one that holds runs, or may.
fn check_folder(dir: &Path) -> Result<(), Refusal> {
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
    Err(Refusal::config(format!("--dir {shown}: {wrong}")))
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
