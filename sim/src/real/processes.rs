//! Finds the processes of one folder by their working directory, and signals them.

use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};

/// A process that works in the folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FoundProcess {
    pub(super) pid: u32,
    /// Whether it is a worker; otherwise a coordinator.
    pub(super) is_worker: bool,
    /// The value of `--name`; empty if there is none.
    pub(super) name: String,
}

/// All processes of the folder, by process id: everything started here has it as working directory, and so do the
/// workers that a coordinator starts.
pub(super) fn of_folder(folder: &Path) -> Vec<FoundProcess> {
    let (Ok(entries), Ok(folder)) = (std::fs::read_dir("/proc"), folder.canonicalize()) else {
        return Vec::new();
    };
    let mut found: Vec<FoundProcess> = entries
        .flatten()
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            // Processes may end while they are being inspected.
            let is_ours = std::fs::read_link(entry.path().join("cwd")).ok()? == folder;
            let cmdline = std::fs::read(entry.path().join("cmdline")).ok()?;
            if is_ours { parse(pid, &cmdline) } else { None }
        })
        .collect();
    found.sort_by_key(|found| found.pid);
    found
}

/// `None` if it is neither a coordinator nor a worker, or is a zombie, whose command line is empty.
fn parse(pid: u32, cmdline: &[u8]) -> Option<FoundProcess> {
    let text = String::from_utf8_lossy(cmdline);
    let arguments: Vec<&str> = text.split('\0').collect();
    let program = Path::new(arguments.first()?).file_name()?.to_str()?;
    if !matches!(program, "worker" | "coordinator") {
        return None;
    }
    let name = arguments.iter().skip_while(|argument| **argument != "--name").nth(1).copied();
    Some(FoundProcess { pid, is_worker: program == "worker", name: name.unwrap_or_default().to_owned() })
}

/// The ports of 127.0.0.1 on which a process listens (proc(5), /proc/PID/net/tcp: 0A is LISTEN).
#[must_use]
pub fn listening(pid: u32) -> Vec<u16> {
    // The process may end while it is being inspected.
    let files = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let sockets: Vec<String> = files
        .filter_map(|file| Some(std::fs::read_link(file.path()).ok()?.to_string_lossy().into_owned()))
        .collect();
    let table = std::fs::read_to_string(format!("/proc/{pid}/net/tcp")).unwrap_or_default();
    let port = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (address, port) = fields.get(1)?.split_once(':')?;
        let is_its = sockets.contains(&format!("socket:[{}]", fields.get(9)?));
        (address == "0100007F" && fields.get(3) == Some(&"0A") && is_its)
            .then(|| u16::from_str_radix(port, 16).ok())?
    };
    table.lines().filter_map(port).collect()
}

/// Sends a signal to a process of the folder; returns whether it existed.
pub(super) fn signal(folder: &Path, pid: u32, signal: Signal) -> bool {
    // Process ids are reused: never touch a process of another folder.
    of_folder(folder).iter().any(|found| found.pid == pid) && send(pid, signal)
}

fn send(pid: u32, signal: Signal) -> bool {
    i32::try_from(pid).ok().and_then(Pid::from_raw).is_some_and(|pid| kill_process(pid, signal).is_ok())
}

/// Kills all processes of the folder, until none is left or a second has passed.
pub(super) fn kill_all(folder: &Path) {
    for _ in 0..100 {
        let found = of_folder(folder);
        if found.is_empty() {
            return;
        }
        // Coordinators first: they would restart workers.
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
    fn coordinators_and_workers_are_told_by_their_command_lines() {
        let check = |cmdline: &str, expected: Option<(bool, &str)>| {
            let found = parse(7, cmdline.replace(' ', "\0").as_bytes());
            assert_eq!(found.as_ref().map(|f| (f.is_worker, f.name.as_str())), expected, "{cmdline}");
        };
        check("/b/worker --slot 0 --name worker-0", Some((true, "worker-0")));
        check("/b/coordinator --config run.toml --resume", Some((false, "")));
        check("tail -f worker", None);
        check("", None);
    }

    #[test]
    fn processes_of_other_folders_are_not_found() {
        let folder = tempfile::tempdir().expect("a folder");
        // A program named like one under test that waits until it is killed.
        let program = folder.path().join("worker");
        std::fs::copy("/bin/sleep", &program).expect("copied");
        let start = |dir: &Path| {
            std::process::Command::new(&program).arg("60").current_dir(dir).spawn().expect("started")
        };
        let (mut inside, mut outside) = (start(folder.path()), start(Path::new("/")));
        let found: Vec<u32> = of_folder(folder.path()).iter().map(|found| found.pid).collect();
        kill_all(folder.path());
        let is_outside_alive = outside.try_wait().expect("asked").is_none();
        outside.kill().expect("killed");
        for child in [&mut inside, &mut outside] {
            child.wait().expect("waited for");
        }
        assert_eq!(found, [inside.id()]);
        assert!(is_outside_alive);
    }
}
