//! The command `fetch` against a local HTTP server with scripted misbehaviour.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use md5::{Digest, Md5};

/// Response behaviour.
#[derive(Clone, Copy)]
enum Manner {
    /// Answers the request correctly.
    Whole,
    /// Closes the connection after this many bytes of the body.
    CutAfter(usize),
    /// Stalls after this many bytes of the body.
    StallAfter(usize),
    /// Ignores ranges and sends the whole body.
    NoRange,
    /// Ignores ranges, and closes the connection after this many bytes.
    NoRangeCutAfter(usize),
    /// This status with an empty body.
    Status(u16),
    /// Answers with another range than requested.
    WrongRange,
    /// Sends no length; the end of the body is the end of the connection.
    NoLength,
    /// Redirects to this path.
    Redirect(&'static str),
}

struct Server {
    address: String,
    requests: Arc<Mutex<Vec<String>>>,
}

/// Serves the body; request i gets the i-th behaviour, and all further ones the last.
fn serve(body: &'static [u8], manners: &'static [Manner]) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
    let address = format!("http://{}", listener.local_addr().expect("an address"));
    let requests = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&requests);
    std::thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let Ok(stream) = stream else { continue };
            let manner = manners.get(number).or(manners.last()).copied().expect("a manner");
            let seen = Arc::clone(&seen);
            std::thread::spawn(move || answer(stream, body, manner, &seen));
        }
    });
    Server { address, requests }
}

/// Answers one request and closes. Tolerates clients that have disconnected.
fn answer(stream: TcpStream, body: &[u8], manner: Manner, seen: &Mutex<Vec<String>>) {
    let mut reader = BufReader::new(stream.try_clone().expect("cloned"));
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).unwrap_or(0) == 0 {
            return;
        }
    }
    seen.lock().expect("the list").push(head.clone());
    let asked = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("range").then(|| value.trim().to_owned())
    });
    let start =
        asked.and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
    let knows_ranges = !matches!(manner, Manner::NoRange | Manner::NoRangeCutAfter(_) | Manner::NoLength);
    let start = start.filter(|_| knows_ranges);
    let all = body.len();
    let mut stream = stream;
    let mut send = |head: String, body: &[u8]| {
        let _ = stream.write_all(format!("{head}Connection: close\r\n\r\n").as_bytes());
        let _ = stream.write_all(body);
    };
    let head = match start {
        Some(start) if start > all => "HTTP/1.1 416 No\r\nContent-Length: 0\r\n".to_owned(),
        Some(start) => {
            let first = if matches!(manner, Manner::WrongRange) { 0 } else { start };
            let (last, length) = (all.saturating_sub(1), all - first);
            format!(
                "HTTP/1.1 206 Part\r\nContent-Range: bytes {first}-{last}/{all}\r\nContent-Length: {length}\r\n"
            )
        }
        None if matches!(manner, Manner::NoLength) => "HTTP/1.1 200 OK\r\n".to_owned(),
        None => format!("HTTP/1.1 200 OK\r\nContent-Length: {all}\r\n"),
    };
    let rest = &body[start.unwrap_or(0).min(all)..];
    match manner {
        Manner::CutAfter(bytes) | Manner::NoRangeCutAfter(bytes) => {
            send(head, &rest[..bytes.min(rest.len())]);
        }
        Manner::StallAfter(bytes) => {
            send(head, &rest[..bytes]);
            std::thread::sleep(Duration::from_secs(20));
        }
        Manner::Status(status) => send(format!("HTTP/1.1 {status} No\r\nContent-Length: 0\r\n"), b""),
        Manner::Redirect(to) => {
            send(format!("HTTP/1.1 302 There\r\nLocation: {to}\r\nContent-Length: 0\r\n"), b"");
        }
        Manner::Whole | Manner::NoRange | Manner::WrongRange | Manner::NoLength => send(head, rest),
    }
}

/// Long enough for many reads, without a period that would hide a shift.
fn body() -> &'static [u8] {
    Vec::leak((0..300_000u32).flat_map(u32::to_le_bytes).collect())
}

fn md5_of(bytes: &[u8]) -> String {
    Md5::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A table with one file; `more` has the lines for `bytes` and `md5`.
fn table(dir: &Path, more: &str, addresses: &[String]) {
    let addresses: Vec<String> = addresses.iter().map(|address| format!("\"{address}/f.bin\"")).collect();
    let text =
        format!("[d]\n[[d.files]]\npath = \"f.bin\"\n{more}\naddresses = [{}]\n", addresses.join(", "));
    std::fs::write(dir.join("table.toml"), text).expect("written");
}

fn fetch(dir: &Path, more: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_datasets"));
    for name in ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
        command.env_remove(name);
    }
    let arguments = ["fetch", "d", "--table", "table.toml", "--to", "out", "--tries", "2"];
    command.current_dir(dir).args(arguments).args(more).output().expect("run")
}

fn fails(dir: &Path, more: &[&str], code: i32) -> String {
    let output = fetch(dir, more);
    let stderr = String::from_utf8(output.stderr).expect("text");
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert!(stderr.starts_with("datasets: ") && stderr.trim_end().lines().count() == 1, "{stderr:?}");
    assert!(!dir.join("out/f.bin").exists(), "what failed has no name");
    stderr
}

/// Fetches with these behaviours and expects the right file; returns the requested ranges.
fn check(manners: &'static [Manner], before: Option<&[u8]>) -> Vec<Option<String>> {
    let (dir, body) = (tempfile::tempdir().expect("a temporary folder"), body());
    let server = serve(body, manners);
    let more = format!("bytes = {}\nmd5 = {:?}", body.len(), md5_of(body));
    table(dir.path(), &more, std::slice::from_ref(&server.address));
    if let Some(before) = before {
        std::fs::create_dir(dir.path().join("out")).expect("made");
        std::fs::write(dir.path().join("out/f.bin.part"), before).expect("written");
    }
    // Unless stalls are tested, tolerate a busy machine.
    let stalls = manners.iter().any(|manner| matches!(manner, Manner::StallAfter(_)));
    let output = fetch(dir.path(), if stalls { &["--stall", "1s"] } else { &[] });
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!((output.status.code(), stderr.as_str()), (Some(0), ""));
    assert!(std::fs::read(dir.path().join("out/f.bin")).expect("read") == body);
    assert!(!dir.path().join("out/f.bin.part").exists());
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("as in the table") && said.contains("datasets add out --name d"), "{said}");
    let requests = server.requests.lock().expect("the list");
    let range = |head: &String| {
        let line = head.lines().find(|line| line.to_lowercase().starts_with("range:"));
        line.map(|line| line["range:".len()..].trim().to_owned())
    };
    requests.iter().map(range).collect()
}

#[test]
fn a_file_is_fetched_whole() {
    assert_eq!(check(&[Manner::Whole], None), [None]);
    assert_eq!(check(&[Manner::NoLength], None), [None]);
    assert_eq!(check(&[Manner::Redirect("/elsewhere"), Manner::Whole], None).len(), 2);
}

#[test]
fn what_is_cut_goes_on_where_it_was() {
    let asked = check(&[Manner::CutAfter(100_000), Manner::CutAfter(50_000), Manner::Whole], None);
    assert_eq!(asked, [None, Some("bytes=100000-".to_owned()), Some("bytes=150000-".to_owned())]);
    // More cuts than tries, but each attempt made progress.
    assert_eq!(check(&[Manner::CutAfter(300_000)], None).len(), 4);
    let asked = check(&[Manner::StallAfter(200_000), Manner::Whole], None);
    assert_eq!(asked, [None, Some("bytes=200000-".to_owned())]);
}

#[test]
fn a_later_call_goes_on_too() {
    let body = body();
    assert_eq!(check(&[Manner::Whole], Some(&body[..7])), [Some("bytes=7-".to_owned())]);
    // The partial file is complete already.
    assert!(check(&[Manner::Status(404)], Some(body)).is_empty());
    // The partial file is too long, or of another file: restart.
    assert_eq!(check(&[Manner::Whole], Some(&[body, b"more"].concat())), [None]);
    assert_eq!(check(&[Manner::Whole], Some(b"other")), [Some("bytes=5-".to_owned()), None]);
}

#[test]
fn a_server_without_ranges_or_with_wrong_ones_is_asked_for_the_whole() {
    assert_eq!(check(&[Manner::NoRangeCutAfter(100_000), Manner::NoRange], None).len(), 2);
    let asked = check(&[Manner::CutAfter(100_000), Manner::WrongRange], None);
    assert_eq!(asked, [None, Some("bytes=100000-".to_owned()), None]);
}

#[test]
fn a_server_that_is_busy_is_asked_again() {
    assert_eq!(check(&[Manner::Status(503), Manner::Whole], None).len(), 2);
    assert_eq!(check(&[Manner::Status(429), Manner::Whole], None).len(), 2);
}

#[test]
fn what_is_not_the_file_of_the_table_is_refused() {
    let (dir, body) = (tempfile::tempdir().expect("a temporary folder"), body());
    let dir = dir.path();
    let server = serve(body, &[Manner::Whole]);
    let addresses = std::slice::from_ref(&server.address);
    table(dir, &format!("md5 = {:?}", "0".repeat(32)), addresses);
    let said = fails(dir, &[], 3);
    assert!(said.contains(&md5_of(body)) && said.contains(&"0".repeat(32)), "{said}");
    assert!(!dir.join("out/f.bin.part").exists(), "nothing is continued from it");
    table(dir, &format!("bytes = 7\nmd5 = {:?}", md5_of(body)), addresses);
    assert!(fails(dir, &[], 3).contains("the table has 7"));
    // An existing, different file is kept.
    table(dir, &format!("md5 = {:?}", md5_of(body)), addresses);
    std::fs::write(dir.join("out/f.bin"), "mine").expect("written");
    let output = fetch(dir, &[]);
    assert_eq!(output.status.code(), Some(3));
    assert_eq!(std::fs::read(dir.join("out/f.bin")).expect("read"), b"mine");
}

#[test]
fn what_is_there_is_checked_and_not_fetched_again() {
    let (dir, body) = (tempfile::tempdir().expect("a temporary folder"), body());
    let dir = dir.path();
    let server = serve(body, &[Manner::Whole]);
    table(dir, &format!("md5 = {:?}", md5_of(body)), std::slice::from_ref(&server.address));
    assert!(fetch(dir, &[]).status.success());
    let output = fetch(dir, &[]);
    assert!(String::from_utf8_lossy(&output.stdout).contains("was there, as in the table"));
    assert_eq!(server.requests.lock().expect("the list").len(), 1);
}

#[test]
fn without_a_hash_it_says_so() {
    let (dir, body) = (tempfile::tempdir().expect("a temporary folder"), body());
    let dir = dir.path();
    let server = serve(body, &[Manner::CutAfter(100_000), Manner::Whole]);
    table(dir, "", std::slice::from_ref(&server.address));
    // A partial file that can't be verified is not resumed.
    std::fs::create_dir(dir.join("out")).expect("made");
    std::fs::write(dir.join("out/f.bin.part"), "other").expect("written");
    let output = fetch(dir, &[]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("WARNING: not checked") && said.contains(&md5_of(body)), "{said}");
    assert!(std::fs::read(dir.join("out/f.bin")).expect("read") == body);
}

#[test]
fn another_address_is_tried_and_the_last_failure_is_told() {
    let (dir, body) = (tempfile::tempdir().expect("a temporary folder"), body());
    let dir = dir.path();
    let md5 = format!("md5 = {:?}", md5_of(body));
    let (absent, good) = (serve(body, &[Manner::Status(404)]), serve(body, &[Manner::Whole]));
    table(dir, &md5, std::slice::from_ref(&absent.address));
    assert!(fails(dir, &[], 3).contains("answered 404"));
    assert!(!dir.join("out/f.bin.part").exists());
    table(dir, &md5, &[absent.address, good.address]);
    assert!(fetch(dir, &[]).status.success());
}

#[test]
fn who_can_not_be_reached_is_told_in_time() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let dir = dir.path();
    let md5 = format!("md5 = {:?}", md5_of(body()));
    // A port that was free a moment ago.
    let port = TcpListener::bind("127.0.0.1:0").and_then(|own| own.local_addr()).expect("an address");
    table(dir, &md5, &[format!("http://{port}")]);
    assert!(fails(dir, &[], 4).contains("2 tries in a row brought nothing"));
    let server = serve(body(), &[Manner::CutAfter(1)]);
    table(dir, &md5, std::slice::from_ref(&server.address));
    let said = fails(dir, &["--deadline", "900ms"], 4);
    assert!(said.contains("not whole after 900ms") && said.contains("bytes are kept in"), "{said}");
    assert!(std::fs::metadata(dir.join("out/f.bin.part")).expect("the part").len() > 0);
}

/// An archive like CIFAR-10's: `images` images in each of two training files, half as many for testing.
fn archive(images: u8, label_max: u8) -> &'static [u8] {
    let record =
        |number: u8| std::iter::once(number % label_max).chain((0..3072).map(move |at| (at as u8) ^ number));
    let file = |numbers: std::ops::Range<u8>| numbers.flat_map(record).collect::<Vec<u8>>();
    let mut tar = tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()));
    for (name, bytes) in [
        ("cifar-10-batches-bin/batches.meta.txt", b"airplane\n".to_vec()),
        ("cifar-10-batches-bin/data_batch_1.bin", file(0..images)),
        ("cifar-10-batches-bin/test_batch.bin", file(200..200 + images / 2)),
        ("cifar-10-batches-bin/data_batch_2.bin", file(images..2 * images)),
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, bytes.as_slice()).expect("appended");
    }
    Vec::leak(tar.into_inner().and_then(flate2::write::GzEncoder::finish).expect("packed"))
}

#[test]
fn an_archive_of_cifar_10_becomes_what_a_run_reads() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let dir = dir.path();
    let body = archive(20, 10);
    let server = serve(body, &[Manner::Whole]);
    let more = format!("md5 = {:?}\nunpack = \"cifar10\"", md5_of(body));
    table(dir, &more, std::slice::from_ref(&server.address));
    for _ in 0..2 {
        let output = fetch(dir, &[]);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && said.contains("`datasets add out/idx --name d`"), "{said}");
    }
    let config = configs::Dataset {
        uri: dir.join("out/idx").display().to_string(),
        format: "idx".to_owned(),
        ..configs::Dataset::default()
    };
    let plan = datasets::DataPlan::prepare(&config, None).expect("planned");
    assert_eq!((plan.rows, plan.image_shape, plan.labels().len()), (40, Some([3, 32, 32]), 10));
    let images = std::fs::read(dir.join("out/idx/train-images-idx4-ubyte")).expect("read");
    let second = (0..3072).map(|at| at as u8 ^ 1);
    assert!(images[20 + 3072..20 + 2 * 3072].iter().copied().eq(second), "the pixels as they were");
    let tests = std::fs::read(dir.join("out/idx/test-labels-idx1-ubyte")).expect("read");
    assert_eq!(tests[8..], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
}

#[test]
fn an_archive_that_is_none_leaves_nothing_behind() {
    for (body, said) in [
        (b"no archive".as_slice(), "this is no tar archive"),
        (archive(20, 11), "the label is 10, not 0 to 9"),
        (archive(0, 10), "there are no images for train in it"),
    ] {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let dir = dir.path();
        let server = serve(body, &[Manner::Whole]);
        let more = format!("md5 = {:?}\nunpack = \"cifar10\"", md5_of(body));
        table(dir, &more, std::slice::from_ref(&server.address));
        let output = fetch(dir, &[]);
        let stderr = String::from_utf8(output.stderr).expect("text");
        assert!(output.status.code() == Some(3) && stderr.contains(said), "{stderr}");
        let left: Vec<_> =
            std::fs::read_dir(dir.join("out")).expect("listed").flatten().map(|e| e.file_name()).collect();
        assert_eq!(left, ["f.bin"], "the archive alone");
    }
}

/// An archive with these entries: name, type, contents.
fn entries<'a>(all: impl IntoIterator<Item = (&'a str, tar::EntryType, Vec<u8>)>) -> Vec<u8> {
    let mut tar = tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()));
    for (name, kind, bytes) in all {
        let mut header = tar::Header::new_gnu();
        // A malicious name, which the builder would reject.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(kind);
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        tar.append(&header, bytes.as_slice()).expect("appended");
    }
    tar.into_inner().and_then(flate2::write::GzEncoder::finish).expect("packed")
}

#[test]
fn an_archive_that_is_too_much_is_refused() {
    use datasets::fetch::{Unpack, unpack};
    use tar::EntryType::{GNULongName, Regular, Symlink};
    let images = |count: usize| vec![1; count * 3073];
    let test = || ("test_batch.bin", Regular, images(1));
    let names: Vec<String> = (0..100).map(|number| format!("readme{number}")).collect();
    let many = names.iter().map(|name| (name.as_str(), Regular, Vec::new()));
    let check = |archive: Vec<u8>, says: &str| {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("a.tar.gz");
        std::fs::write(&path, archive).expect("written");
        let said = unpack(Unpack::Cifar10, &path).expect_err(says).to_string();
        assert!(said.contains(says) && said.len() < 1_500, "{said}");
        assert_eq!(std::fs::read_dir(dir.path()).expect("listed").count(), 1, "nothing is left");
    };
    check(
        entries([("data_batch_1.bin", Regular, images(60_001)), test()]),
        "more than 60000 images for train",
    );
    check(
        entries([
            ("data_batch_1.bin", Regular, images(30_001)),
            ("data_batch_2.bin", Regular, images(30_001)),
            test(),
        ]),
        "more than 60000 images for train",
    );
    check(entries([("data_batch_1.bin", Regular, images(1)), test(), test()]), "is in it twice");
    check(entries([("data_batch_1.bin", Symlink, Vec::new()), test()]), "is no plain file");
    check(entries(many), "more than 64 files");
    check(entries([("zeros", Regular, vec![0; 900_000_000])]), "unpacks to more than");
    check(entries([("name", GNULongName, vec![b'a'; 900_000_000])]), "unpacks to more than");
    // Paths of entries are ignored: only the images are extracted.
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("sub/a.tar.gz");
    std::fs::create_dir(dir.path().join("sub")).expect("made");
    let archive = entries([
        ("../../data_batch_1.bin", Regular, images(2)),
        ("/tmp/test_batch.bin", Regular, images(1)),
    ]);
    std::fs::write(&path, archive).expect("written");
    let folder = unpack(Unpack::Cifar10, &path).expect("unpacked");
    assert_eq!(std::fs::read_dir(folder).expect("listed").count(), 4);
    assert_eq!(std::fs::read_dir(dir.path()).expect("listed").count(), 1);
}

#[test]
fn an_unknown_name_lists_the_known_ones() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let run = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_datasets"));
        command
            .current_dir(dir.path())
            .args(arguments)
            .env_remove("BONFIRE_FETCH_TABLE")
            .output()
            .expect("run")
    };
    let output = run(&["fetch", "mnits"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("fashion-mnist, mnist, tiny-shakespeare"));
    assert!(String::from_utf8_lossy(&run(&["fetch"]).stdout).contains("cifar10"));
}
