//! The output on a terminal: bars that fit it, survive a resize, and leave nothing behind.

mod support;

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use rustix::pty::OpenptFlags;
use rustix::termios::{Winsize, tcsetwinsize};
use support::{Place, signal, until, wait_status_of};

/// A terminal that rewraps lines when it gets narrower, as most do.
#[derive(Default)]
struct Screen {
    columns: usize,
    /// Logical lines, each as long as it was written.
    lines: Vec<Vec<char>>,
    /// The cursor: its line and the position in it.
    at: (usize, usize),
    /// An unfinished escape sequence.
    escape: String,
    /// The widest line written, by the terminal's width in columns.
    widest: Vec<(usize, usize)>,
    colours: usize,
}

impl Screen {
    fn new(columns: usize) -> Self {
        Self { columns, lines: vec![Vec::new()], ..Self::default() }
    }

    fn resize(&mut self, columns: usize) {
        self.columns = columns;
    }

    fn take(&mut self, text: &str) {
        for c in text.chars() {
            match c {
                _ if !self.escape.is_empty() => {
                    self.escape.push(c);
                    if c.is_ascii_alphabetic() {
                        let escape = std::mem::take(&mut self.escape);
                        self.obey(&escape);
                    }
                }
                '\x1b' => self.escape.push(c),
                '\r' => self.at.1 = 0,
                '\n' => {
                    self.at.0 += 1;
                    self.at.1 = 0;
                    if self.at.0 == self.lines.len() {
                        self.lines.push(Vec::new());
                    }
                }
                c => self.put(c),
            }
        }
    }

    fn put(&mut self, c: char) {
        let line = &mut self.lines[self.at.0];
        line.resize(line.len().max(self.at.1 + 1), ' ');
        line[self.at.1] = c;
        self.at.1 += 1;
        self.widest.push((self.columns, self.at.1));
    }

    fn obey(&mut self, escape: &str) {
        let number = || escape[2..escape.len() - 1].parse().unwrap_or(1);
        match escape.chars().last() {
            Some('A') => self.up(number()),
            Some('J') => {
                self.lines.truncate(self.at.0 + 1);
                self.lines[self.at.0].truncate(self.at.1);
            }
            Some('m') => self.colours += 1,
            _ => panic!("an escape that this terminal doesn't know: {escape:?}"),
        }
    }

    /// Moves up by the given number of screen rows.
    fn up(&mut self, rows: usize) {
        assert_eq!(self.at.1, 0, "from the first column");
        let mut left = rows;
        while left > 0 {
            self.at.0 = self.at.0.checked_sub(1).expect("not above the first line");
            let taken = self.lines[self.at.0].len().div_ceil(self.columns).max(1);
            left = left.checked_sub(taken).expect("a whole number of lines");
        }
    }

    fn text(&self) -> Vec<String> {
        let lines = self.lines.iter().map(|line| line.iter().collect::<String>().trim_end().to_owned());
        lines.filter(|line| !line.is_empty()).collect()
    }

    fn has_bars(&self) -> bool {
        self.text().iter().any(|line| line.contains(['━', '─']) || line.contains("samples/s"))
    }
}

/// A coordinator on a terminal of its own.
struct Terminal {
    child: Child,
    master: Arc<OwnedFd>,
    screen: Arc<Mutex<Screen>>,
}

impl Terminal {
    fn start(mut command: Command, columns: u16) -> Self {
        let master = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
        rustix::pty::grantpt(&master).expect("granted");
        rustix::pty::unlockpt(&master).expect("unlocked");
        let name = rustix::pty::ptsname(&master, Vec::new()).expect("its name");
        let own =
            File::options().read(true).write(true).open(name.to_str().expect("a path")).expect("opened");
        let master = Arc::new(master);
        let screen = Arc::new(Mutex::new(Screen::new(usize::from(columns))));
        set_size(&master, columns);
        let (out, err) = (own.try_clone().expect("cloned"), own);
        let child = command.stdin(Stdio::null()).stdout(out).stderr(err).spawn().expect("started");
        drop(command);
        let (read, shown) = (master.clone(), screen.clone());
        std::thread::spawn(move || {
            let mut file = File::from(read.try_clone().expect("cloned"));
            let (mut bytes, mut rest) = ([0; 4096], Vec::new());
            // A terminal whose last program has ended returns an error.
            while let Ok(count @ 1..) = file.read(&mut bytes) {
                rest.extend_from_slice(&bytes[..count]);
                let whole = match std::str::from_utf8(&rest) {
                    Ok(text) => text.len(),
                    Err(cut) => cut.valid_up_to(),
                };
                let text: Vec<u8> = rest.drain(..whole).collect();
                shown.lock().expect("no panic").take(std::str::from_utf8(&text).expect("checked"));
            }
        });
        Self { child, master, screen }
    }

    fn resize(&self, columns: u16) {
        // Everything drawn before the resize must reach the screen first.
        let mut screen = self.screen.lock().expect("no panic");
        set_size(&self.master, columns);
        screen.resize(usize::from(columns));
    }

    fn see<T>(&self, look: impl FnOnce(&Screen) -> T) -> T {
        look(&self.screen.lock().expect("no panic"))
    }

    fn end(mut self) -> (Option<i32>, Screen) {
        let status = wait_status_of(&mut self.child);
        until("the terminal has shown the last word", || {
            self.see(|screen| {
                screen
                    .text()
                    .last()
                    .is_some_and(|line| line.contains("everything is in") || line.contains("--resume"))
            })
        });
        (status.code(), std::mem::take(&mut *self.screen.lock().expect("no panic")))
    }
}

fn set_size(master: &OwnedFd, columns: u16) {
    tcsetwinsize(master, Winsize { ws_row: 24, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }).expect("sized");
}

fn long(place: &Place) -> Command {
    let mut command = place.coordinator(&[
        "--set",
        "train.epochs=200000",
        "--set",
        "train.evaluate_every=100000",
        "--set",
        "checkpoint.every=1h",
        "--local-workers",
        "2",
    ]);
    command.env("TERM", "xterm-256color").env_remove("NO_COLOR");
    command
}

#[test]
fn bars_fit_their_terminal_survive_a_resize_and_leave_nothing_behind() {
    let place = Place::new();
    let terminal = Terminal::start(long(&place), 80);
    let shows_step = |terminal: &Terminal| {
        terminal.see(|screen| screen.text().iter().any(|line| line.contains("/1000000")))
    };
    until("bars", || terminal.see(Screen::has_bars) && shows_step(&terminal));
    for columns in [40, 20, 100, 60] {
        terminal.resize(columns);
        let drawn = terminal.see(|screen| screen.widest.len());
        until("it draws on", || terminal.see(|screen| screen.widest.len()) > drawn + 500);
        assert!(shows_step(&terminal), "{columns}: {:?}", terminal.see(Screen::text));
        let counts =
            terminal.see(|screen| screen.text().iter().filter(|line| line.contains("/1000000")).count());
        assert_eq!(counts, 1, "{columns} columns, one bar for the run: {:?}", terminal.see(Screen::text));
    }
    assert!(terminal.see(|screen| screen.colours) > 0);
    signal(terminal.child.id(), "INT");
    let (code, screen) = terminal.end();
    assert_eq!(code, Some(130));
    assert!(!screen.has_bars(), "{:?}", screen.text());
}

#[test]
fn colours_are_off_where_they_are_not_wanted_and_a_dumb_terminal_has_plain_lines() {
    let place = Place::new();
    let mut command = long(&place);
    command.env("NO_COLOR", "1");
    let terminal = Terminal::start(command, 80);
    until("bars", || terminal.see(Screen::has_bars));
    signal(terminal.child.id(), "INT");
    let (code, screen) = terminal.end();
    assert_eq!((code, screen.colours), (Some(130), 0));
    let mut command = place.coordinator(&["--set", "run.name=dumb"]);
    command.env("TERM", "dumb");
    let (code, screen) = Terminal::start(command, 80).end();
    assert_eq!((code, screen.colours), (Some(0), 0));
    assert!(screen.text().iter().any(|line| line.starts_with("epoch ")), "{:?}", screen.text());
}

/// Lines are not wrapped while they are drawn: none is wider than the terminal was.
#[test]
fn no_line_of_bars_is_wider_than_its_terminal() {
    for columns in [80, 40, 20] {
        let place = Place::new();
        let terminal = Terminal::start(long(&place), columns);
        until("bars", || terminal.see(|screen| screen.text().iter().any(|line| line.contains("/1000000"))));
        let wide = terminal.see(|screen| {
            let bars = screen
                .text()
                .into_iter()
                .filter(|line| line.contains(['━', '─']) || line.contains("/1000000"));
            bars.map(|line| line.chars().count()).max().unwrap_or_default()
        });
        assert!(wide < usize::from(columns), "{wide} of {columns}");
        signal(terminal.child.id(), "INT");
        assert_eq!(terminal.end().0, Some(130));
    }
}
