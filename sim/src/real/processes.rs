//! The processes of one folder, found by their command lines, and signals to them.

use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};

/// A process whose command line names the folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) pid: u32,
    /// A worker, else a coordinator.
    pub(super) is_worker: bool,
    /// `--name`; empty if there is none.
    pub(super) name: String,
}

/// All processes of the folder, by process id. Everything started here has a path of the folder on its command line,
/// and so do the workers that a coordinator starts: their token file lies there.
pub(super) fn of_folder(folder: &Path) -> Vec<Found> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let folder = format!("{}/", folder.display());
    let mut found: Vec<Found> = entries
        .flatten()
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            // Processes end while they are looked at; a zombie's command line is empty.
            parse(pid, &std::fs::read(entry.path().join("cmdline")).ok()?, &folder)
        })
        .collect();
    found.sort_by_key(|found| found.pid);
    found
}

fn parse(pid: u32, cmdline: &[u8], folder: &str) -> Option<Found> {
    let text = String::from_utf8_lossy(cmdline);
    let arguments: Vec<&str> = text.split('\0').collect();
    let program = Path::new(arguments.first()?).file_name()?.to_str()?;
    let is_ours = arguments.iter().skip(1).any(|argument| argument.starts_with(folder));
    if !is_ours || !matches!(program, "worker" | "coordinator") {
        return None;
    }
    let name = arguments.iter().skip_while(|argument| **argument != "--name").nth(1).copied();
    Some(Found { pid, is_worker: program == "worker", name: name.unwrap_or_default().to_owned() })
}

/// Sends a signal to a process of the folder; whether it was there.
pub(super) fn signal(folder: &Path, pid: u32, signal: Signal) -> bool {
    // Ids are given again: what is not of this folder is never touched.
    of_folder(folder).iter().any(|found| found.pid == pid) && send(pid, signal)
}

fn send(pid: u32, signal: Signal) -> bool {
    i32::try_from(pid).ok().and_then(Pid::from_raw).is_some_and(|pid| kill_process(pid, signal).is_ok())
}

/// Kills all of the folder, until nothing is left or a second has passed.
pub(super) fn kill_all(folder: &Path) {
    for _ in 0..100 {
        let found = of_folder(folder);
        if found.is_empty() {
            return;
        }
        // Coordinators first: they would start workers again.
        for process in found.iter().filter(|p| !p.is_worker).chain(found.iter().filter(|p| p.is_worker)) {
            send(process.pid, Signal::KILL);
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_programs_of_the_folder_are_found() {
        let check = |cmdline: &str, expected: Option<(bool, &str)>| {
            let found = parse(7, cmdline.replace(' ', "\0").as_bytes(), "/tmp/x/");
            assert_eq!(found.as_ref().map(|f| (f.is_worker, f.name.as_str())), expected, "{cmdline}");
        };
        check("/b/worker --token-file /tmp/x/bonfire/1 --name worker-0", Some((true, "worker-0")));
        check("/b/coordinator --config /tmp/x/run.toml --resume", Some((false, "")));
        check("/b/worker --token-file /tmp/xy/bonfire/1 --name worker-0", None);
        check("tail -f /tmp/x/out", None);
        check("", None);
    }
}
