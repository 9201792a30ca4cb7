//! Runs child processes with a deadline and bounded output.

use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

/// The output of a program that exited successfully before the deadline.
pub struct ChildOutput {
    /// Its standard output, up to the requested limit.
    pub bytes: Vec<u8>,
    /// Whether the output was truncated.
    pub is_cut: bool,
}

/// Runs a program in a folder and returns its standard output, up to `bytes_max` bytes; `None` when it can't be
/// started, fails, or exceeds the deadline, after which it is killed.
pub fn ask(
    program: &Path,
    arguments: &[&str],
    directory: &Path,
    bytes_max: usize,
    deadline: Duration,
) -> Option<ChildOutput> {
    let began = Instant::now();
    let mut child = Command::new(program)
        .args(arguments)
        .current_dir(directory)
        // Otherwise git writes to the index and may ask for a password.
        .env("GIT_OPTIONAL_LOCKS", "0")
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let said = read(&mut child, bytes_max, deadline);
    let ended_well = said.is_some() && ends_well(&mut child, began, deadline);
    // Killing a process that has already ended fails harmlessly.
    let _ = child.kill();
    let _ = child.wait();
    said.filter(|said| ended_well || said.is_cut)
}

fn read(child: &mut Child, bytes_max: usize, deadline: Duration) -> Option<ChildOutput> {
    let mut output = child.stdout.take()?;
    let (done, answer) = sync_channel(1);
    std::thread::Builder::new()
        .name("child-output".to_owned())
        .spawn(move || {
            let mut bytes = Vec::new();
            let read = output.by_ref().take(bytes_max as u64 + 1).read_to_end(&mut bytes);
            let is_cut = bytes.len() > bytes_max;
            bytes.truncate(bytes_max);
            // After the deadline nobody receives any more.
            let _ = done.send(read.ok().map(|_| ChildOutput { bytes, is_cut }));
        })
        .ok()?;
    answer.recv_timeout(deadline).ok().flatten()
}

fn ends_well(child: &mut Child, began: Instant, deadline: Duration) -> bool {
    while began.elapsed() < deadline {
        match child.try_wait() {
            Ok(Some(status)) => return status.success(),
            // Its output is closed: it is about to exit.
            Ok(None) => std::thread::sleep(Duration::from_millis(1)),
            Err(_) => return false,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str, bytes_max: usize, deadline: Duration) -> Option<ChildOutput> {
        ask(Path::new("sh"), &["-c", script], Path::new("."), bytes_max, deadline)
    }

    #[test]
    fn what_is_said_is_bounded_and_failures_say_nothing() {
        const LONG: Duration = Duration::from_secs(20);
        let said = sh("printf abc", 9, LONG).expect("it ends well");
        assert_eq!((said.bytes.as_slice(), said.is_cut), (&b"abc"[..], false));
        let said = sh("printf abcdef; cat /dev/zero", 4, LONG).expect("cut");
        assert_eq!((said.bytes.as_slice(), said.is_cut), (&b"abcd"[..], true));
        assert!(sh("printf abc; exit 3", 9, LONG).is_none());
        assert!(ask(Path::new("no-such-program"), &[], Path::new("."), 9, LONG).is_none());
    }

    #[test]
    fn a_program_that_hangs_is_killed() {
        let began = Instant::now();
        assert!(sh("sleep 60", 9, Duration::from_millis(100)).is_none());
        assert!(sh("exec >&-; sleep 60", 9, Duration::from_millis(100)).is_none());
        assert!(began.elapsed() < Duration::from_secs(20));
    }
}
