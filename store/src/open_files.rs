//! How many files this process may have open.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// More are never needed, and some programs that are started from here look at each that they might have inherited.
const WANTED: u64 = 65_536;

/// Raises the limit of open files to what this process may give itself: shells start it with 1,024, which crowded ports could
/// use up. Says how many it is now.
pub fn raise_open_files() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    // No number says that there is no limit.
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
