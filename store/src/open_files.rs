//! The process's limit on open files.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// More are never needed, and some child programs scan every descriptor that they might have inherited.
const WANTED: u64 = 65_536;

/// Raises the soft limit on open files: shells start processes with 1,024, which busy ports could use up. Returns the
/// limit now in force.
pub fn raise_open_files() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    // `None` means unlimited.
    let current = limit.current.unwrap_or(u64::MAX);
    let wanted = limit.maximum.unwrap_or(u64::MAX).min(WANTED);
    if current >= wanted {
        return current;
    }
    match setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: limit.maximum }) {
        Ok(()) => wanted,
        Err(_) => current,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_raised_once_and_then_stays() {
        let raised = raise_open_files();
        let hard = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
        assert!(raised >= hard.min(WANTED), "{raised} of {hard}");
        assert_eq!(raise_open_files(), raised);
    }
}
