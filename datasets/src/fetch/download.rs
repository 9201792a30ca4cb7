//! Downloads one file over HTTP: resumes interrupted transfers, retries with exponential backoff, and verifies the file
//! before giving it its final name.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ureq::http::header::{CONTENT_LENGTH, CONTENT_RANGE, ETAG, HeaderMap, HeaderName, RANGE, RETRY_AFTER};

use super::catalog::PublicFile;
use crate::digest::md5_of_file;
use crate::registry::{Progress, RegistryError};
use crate::sandboxed_folder::SandboxedFolder;

/// First backoff; each later one is twice as long.
const PAUSE_MIN: Duration = Duration::from_millis(250);
/// Longest backoff, even if the server asks for more.
const PAUSE_MAX: Duration = Duration::from_secs(30);
const CHUNK_BYTES: usize = 1 << 16;

/// Limits on time and attempts.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct RetryPolicy {
    /// Limit for one file, attempts and backoffs included.
    pub deadline: Duration,
    /// Time without a byte after which a connection counts as cut.
    pub stall: Duration,
    /// Consecutive attempts without progress.
    pub tries: u32,
}

/// A downloaded file, verified if its hash is known.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fetched {
    /// Path of the file.
    pub path: PathBuf,
    /// Size in bytes.
    pub bytes: u64,
    /// MD5 in hexadecimal.
    pub md5: String,
    /// Whether the table has an MD5, and the file matches it.
    pub is_checked: bool,
    /// Whether the file existed before.
    pub was_there: bool,
}

/// Downloads a file of the table into a folder. Incomplete data are kept in `NAME.part`; a later call resumes them if
/// the table has an MD5 to verify the result. An existing file is verified, never replaced.
///
/// # Errors
/// If no address delivers the file in time, or the contents don't match the table.
pub fn fetch(
    file: &PublicFile,
    folder: &Path,
    patience: RetryPolicy,
    progress: &dyn Progress,
) -> Result<Fetched, RegistryError> {
    let path = folder.join(&file.path);
    if path.symlink_metadata().is_ok() {
        return check_present(file, path);
    }
    std::fs::create_dir_all(folder).map_err(RegistryError::at(folder))?;
    // Never write through a symlink in the folder.
    SandboxedFolder::open(folder).and_then(|below| below.folder_of(&file.path).map(drop))?;
    let mut part = PartialDownload::open(&path, file.md5.is_some())?;
    let mut line = Line { file, ends: Instant::now() + patience.deadline, patience, progress };
    let mut failure = None;
    for address in &file.addresses {
        match line.download(address, &mut part) {
            Ok((bytes, md5)) => {
                part.finish(&path)?;
                let is_checked = file.md5.is_some();
                return Ok(Fetched { path, bytes, md5, is_checked, was_there: false });
            }
            // A local failure such as a full disk: another address won't help.
            Err(error @ (RegistryError::Io { .. } | RegistryError::Store(_))) => return Err(error),
            Err(error) => failure = Some(error),
        }
        if file.md5.is_none() {
            // Without an MD5, mixing the files of two servers would go unnoticed.
            part.clear()?;
        }
    }
    part.tidy();
    Err(failure.unwrap_or_else(|| RegistryError::wrong(&path, "the table has no address for it")))
}

/// Verifies a file that exists already.
fn check_present(file: &PublicFile, path: PathBuf) -> Result<Fetched, RegistryError> {
    let bytes = std::fs::metadata(&path).map_err(RegistryError::at(&path))?.len();
    let md5 = md5_of_file(&path)?;
    match &file.md5 {
        Some(expected) if *expected != md5 => Err(RegistryError::wrong(
            &path,
            format!(
                "there is another file: its MD5 is {md5}, the table has {expected}; move it away or choose another --to"
            ),
        )),
        expected => Ok(Fetched { is_checked: expected.is_some(), path, bytes, md5, was_there: true }),
    }
}

/// The incomplete download, locked by this process.
struct PartialDownload {
    path: PathBuf,
    file: File,
    bytes: u64,
}

impl PartialDownload {
    fn open(whole: &Path, may_continue: bool) -> Result<Self, RegistryError> {
        let mut name = whole.file_name().unwrap_or_default().to_owned();
        name.push(".part");
        let path = whole.with_file_name(name);
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).read(true).write(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::custom_flags(
            &mut options,
            rustix::fs::OFlags::NOFOLLOW.bits() as i32,
        );
        let file = options.open(&path);
        let file = file.map_err(RegistryError::at(&path))?;
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => {
                return Err(RegistryError::wrong(
                    &path,
                    "another process is fetching this file; wait for it",
                ));
            }
            Err(TryLockError::Error(why)) => return Err(RegistryError::at(&path)(why)),
            Ok(()) => {}
        }
        let bytes = file.metadata().map_err(RegistryError::at(&path))?.len();
        let mut part = Self { path, file, bytes };
        if !may_continue {
            part.clear()?;
        }
        Ok(part)
    }

    fn clear(&mut self) -> Result<(), RegistryError> {
        self.file.set_len(0).map_err(RegistryError::at(&self.path))?;
        self.bytes = 0;
        Ok(())
    }

    fn append(&mut self, chunk: &[u8]) -> Result<(), RegistryError> {
        let written = self.file.seek(SeekFrom::Start(self.bytes)).and_then(|_| self.file.write_all(chunk));
        written.map_err(RegistryError::at(&self.path))?;
        self.bytes += chunk.len() as u64;
        Ok(())
    }

    /// Renames the file to its final name, which didn't exist when the download began.
    fn finish(&self, whole: &Path) -> Result<(), RegistryError> {
        self.file.sync_all().map_err(RegistryError::at(&self.path))?;
        std::fs::rename(&self.path, whole).map_err(RegistryError::at(whole))
    }

    /// Removes an empty partial file: there is nothing to resume.
    fn tidy(&self) {
        if self.bytes == 0 {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Why an attempt failed.
enum DownloadError {
    /// Retryable, after the delay that the server asked for.
    Cut { why: String, wait: Option<Duration> },
    /// Permanent.
    Refused(String),
    /// A local failure.
    Here(RegistryError),
}

impl From<RegistryError> for DownloadError {
    fn from(error: RegistryError) -> Self {
        Self::Here(error)
    }
}

impl DownloadError {
    fn cut(why: impl Into<String>) -> Self {
        Self::Cut { why: why.into(), wait: None }
    }
}

/// The download of one file.
struct Line<'a> {
    file: &'a PublicFile,
    ends: Instant,
    patience: RetryPolicy,
    progress: &'a dyn Progress,
}

impl Line<'_> {
    /// Retries one address until the file is complete and verified; returns its size and MD5.
    fn download(
        &mut self,
        address: &str,
        part: &mut PartialDownload,
    ) -> Result<(u64, String), RegistryError> {
        let wrong = |problem: String| RegistryError::Wrong { place: address.to_owned(), problem };
        let (mut in_vain, mut pause, mut furthest) = (0, PAUSE_MIN, part.bytes);
        let mut etag = None;
        // Whether some bytes predate this attempt: a hash mismatch may then be due to half of an older file.
        let mut is_patched = part.bytes > 0;
        loop {
            is_patched &= part.bytes > 0;
            let ended = match self.attempt(address, part, &mut etag) {
                Ok(()) => match self.check(part)? {
                    Ok(found) => return Ok(found),
                    Err(_) if is_patched => {
                        part.clear()?;
                        (is_patched, furthest) = (false, 0);
                        continue;
                    }
                    Err(problem) => {
                        part.clear()?;
                        return Err(wrong(format!("{problem}; it was not kept")));
                    }
                },
                Err(ended) => ended,
            };
            let (why, wait) = match ended {
                DownloadError::Here(error) => return Err(error),
                DownloadError::Refused(problem) => return Err(wrong(problem)),
                DownloadError::Cut { why, wait } => (why, wait),
            };
            if part.bytes > furthest {
                (in_vain, pause, furthest) = (0, PAUSE_MIN, part.bytes);
            } else {
                in_vain += 1;
            }
            let wait = wait.unwrap_or(pause).min(PAUSE_MAX);
            pause = (pause * 2).min(PAUSE_MAX);
            let is_late = Instant::now() + wait >= self.ends;
            if in_vain >= self.patience.tries || is_late {
                let gave_up = if is_late {
                    format!("not whole after {}", configs::Span(self.patience.deadline))
                } else {
                    format!("{in_vain} tries in a row brought nothing")
                };
                let kept = if part.bytes > 0 && self.file.md5.is_some() {
                    format!("; {} bytes are kept in {}", part.bytes, part.path.display())
                } else {
                    String::new()
                };
                return Err(RegistryError::Unreachable {
                    place: address.to_owned(),
                    problem: format!("{why}; {gave_up}{kept}; the same command tries again"),
                });
            }
            std::thread::sleep(wait);
            is_patched |= part.bytes > 0;
        }
    }

    /// Makes one request: resumes the partial file if the server can, else restarts.
    fn attempt(
        &self,
        address: &str,
        part: &mut PartialDownload,
        etag: &mut Option<String>,
    ) -> Result<(), DownloadError> {
        if self.file.bytes.is_some_and(|bytes| part.bytes > bytes) {
            part.clear()?;
        }
        if self.file.bytes.is_some_and(|bytes| part.bytes == bytes && bytes > 0) {
            return Ok(());
        }
        let agent = self.agent();
        let mut request = agent.get(address).header("Accept-Encoding", "identity");
        if part.bytes > 0 {
            request = request.header(RANGE, format!("bytes={}-", part.bytes));
        }
        let response = request.call().map_err(|why| DownloadError::cut(why.to_string()))?;
        let (head, body) = response.into_parts();
        let total = match head.status.as_u16() {
            200 => {
                part.clear()?;
                number(&head.headers, CONTENT_LENGTH)
            }
            206 => match content_range(&head.headers) {
                Some((start, total)) if start == part.bytes && is_same(etag, &head.headers) => total,
                // The range doesn't match, or the file has changed on the server: request the whole file.
                _ => {
                    part.clear()?;
                    *etag = None;
                    return Err(DownloadError::cut("the server's answer does not fit what was asked for"));
                }
            },
            416 => {
                part.clear()?;
                return Err(DownloadError::cut("the server has fewer bytes than are here already"));
            }
            status @ (408 | 425 | 429 | 500..) => {
                let wait = number(&head.headers, RETRY_AFTER).map(Duration::from_secs);
                return Err(DownloadError::Cut { why: format!("the server answered {status}"), wait });
            }
            status => {
                let way_out = "is the address still right? `--table FILE` can name another";
                return Err(DownloadError::Refused(format!("the server answered {status}; {way_out}")));
            }
        };
        *etag = header(&head.headers, ETAG).map(str::to_owned);
        if let (Some(expected), Some(total)) = (self.file.bytes, total)
            && expected != total
        {
            part.clear()?;
            return Err(DownloadError::Refused(format!(
                "the file there has {total} bytes, the table has {expected}"
            )));
        }
        self.progress.begin(1, total.or(self.file.bytes).unwrap_or(0));
        self.progress.bytes(part.bytes);
        self.receive(body.into_reader(), part, total.or(self.file.bytes))
    }

    /// Reads the response body.
    fn receive(
        &self,
        mut body: impl Read,
        part: &mut PartialDownload,
        total: Option<u64>,
    ) -> Result<(), DownloadError> {
        let mut chunk = vec![0; CHUNK_BYTES];
        let of = total.map_or_else(String::new, |total| format!(" of {total}"));
        loop {
            let read = match body.read(&mut chunk) {
                Ok(0) => break,
                Ok(read) => read,
                Err(why) => {
                    return Err(DownloadError::cut(format!("cut after {}{of} bytes ({why})", part.bytes)));
                }
            };
            part.append(&chunk[..read])?;
            self.progress.bytes(read as u64);
            if total.is_some_and(|total| part.bytes > total) {
                part.clear()?;
                return Err(DownloadError::Refused(format!(
                    "the server sent more than {}",
                    of.trim_start_matches(" of ")
                )));
            }
        }
        if total.is_some_and(|total| part.bytes < total) {
            return Err(DownloadError::cut(format!("cut after {}{of} bytes", part.bytes)));
        }
        Ok(())
    }

    /// The size and MD5 of the download, or why it is wrong.
    fn check(&self, part: &PartialDownload) -> Result<Result<(u64, String), String>, RegistryError> {
        let md5 = md5_of_file(&part.path)?;
        Ok(match &self.file.md5 {
            Some(expected) if *expected != md5 => {
                Err(format!("what came has the MD5 {md5} and {} bytes, the table has {expected}", part.bytes))
            }
            _ => Ok((part.bytes, md5)),
        })
    }

    fn agent(&self) -> ureq::Agent {
        let left = self.ends.saturating_duration_since(Instant::now());
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(left))
            .timeout_connect(Some(self.patience.stall.min(left)))
            .timeout_recv_response(Some(self.patience.stall.min(left)))
            .timeout_per_read(Some(self.patience.stall.min(left)))
            .user_agent(concat!("bonfire-datasets/", env!("CARGO_PKG_VERSION")))
            .build();
        config.new_agent()
    }
}

/// Whether a resumed response is of the same file, as far as its ETag shows.
fn is_same(etag: &Option<String>, headers: &HeaderMap) -> bool {
    match (etag, header(headers, ETAG)) {
        (Some(before), Some(now)) => before == now,
        _ => true,
    }
}

fn header(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

fn number(headers: &HeaderMap, name: HeaderName) -> Option<u64> {
    header(headers, name)?.trim().parse().ok()
}

/// First byte and total size from `bytes 5-9/10`; the size may be `*`.
fn content_range(headers: &HeaderMap) -> Option<(u64, Option<u64>)> {
    let text = header(headers, CONTENT_RANGE)?.trim().strip_prefix("bytes ")?;
    let (range, total) = text.split_once('/')?;
    let (start, _) = range.split_once('-')?;
    let total = match total.trim() {
        "*" => None,
        total => Some(total.parse().ok()?),
    };
    Some((start.trim().parse().ok()?, total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_or_not() {
        let check = |text: &str, expected: Option<(u64, Option<u64>)>| {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_RANGE, text.parse().expect("a header"));
            assert_eq!(content_range(&headers), expected, "{text:?}");
        };
        check("bytes 5-9/10", Some((5, Some(10))));
        check("bytes 5-9/*", Some((5, None)));
        for text in ["", "bytes */10", "bytes x-9/10", "items 5-9/10", "bytes 5-9", "bytes 5-9/x", "bytes 5"]
        {
            check(text, None);
        }
    }
}
