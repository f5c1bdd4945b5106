//! Where log records go: standard error, a file, or the system's log.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixDatagram;

use log::{Level, LevelFilter, Metadata, Record};

use super::fault::Fault;
use super::settings::Log;
use crate::text::{escape, plain, shown};

/// The facility of system daemons, in the bits above the severity: syslog(3).
const LOG_DAEMON: u8 = 3 << 3;

#[derive(Debug)]
enum Sink {
    Stderr,
    File(File),
    /// Without a system's log there is nowhere to write, nor to complain.
    Syslog(Option<UnixDatagram>),
}

#[derive(Debug)]
struct Logger {
    sink: Sink,
}

/// Starts logging; before that, and on a second call, nothing is logged.
///
/// File and socket are opened here, before anything is mounted, so that a log
/// below the mount point cannot make the server wait for itself.
///
/// # Errors
/// The file cannot be opened.
pub fn start(log: Option<&Log>, foreground: bool) -> Result<(), Fault> {
    let level = log.map_or(LevelFilter::Warn, |log| log.level);
    let sink = match log.and_then(|log| log.file.as_deref()) {
        Some(path) => {
            let mut options = File::options();
            // Not to hang on a fifo, nor to write where somebody's link leads.
            options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY);
            let file = options.append(true).create(true).mode(0o600).open(path);
            Sink::File(file.map_err(|error| {
                Fault::usage(format!("log file {}: {}", shown(path), plain(&error)))
            })?)
        }
        None if foreground => Sink::Stderr,
        None => Sink::Syslog(syslog().ok()),
    };
    if log::set_boxed_logger(Box::new(Logger { sink })).is_ok() {
        log::set_max_level(level);
    }
    Ok(())
}

/// Connects to the system's log; a server never waits for it.
fn syslog() -> std::io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.connect("/dev/log")?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

impl log::Log for Logger {
    /// What libraries say is for those who look for faults: the transport calls
    /// it an error that a caller was killed before it had its reply.
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with(env!("CARGO_PKG_NAME"))
            || log::max_level() >= LevelFilter::Debug
    }

    /// The level is asked by the macros of `log`: what is logged without them is
    /// said at any.
    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let text = escape(&record.args().to_string());
        let word = word(record.level());
        // A log that cannot be written is no reason to stop serving.
        let (Ok(()) | Err(_)) = match &self.sink {
            Sink::Stderr => writeln!(std::io::stderr(), "idmapfs: {word}: {text}"),
            Sink::File(file) => {
                let mut file = file;
                file.write_all(format!("{word}: {text}\n").as_bytes())
            }
            Sink::Syslog(Some(socket)) => {
                let priority = LOG_DAEMON | severity(record.level());
                let line = format!("<{priority}>idmapfs[{}]: {text}", std::process::id());
                socket.send(line.as_bytes()).map(drop)
            }
            Sink::Syslog(None) => Ok(()),
        };
    }

    fn flush(&self) {}
}

const fn word(level: Level) -> &'static str {
    match level {
        Level::Error => "error",
        Level::Warn => "warning",
        Level::Info => "info",
        Level::Debug => "debug",
        Level::Trace => "trace",
    }
}

/// Returns the severity of a level, as syslog(3) numbers them.
const fn severity(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use log::Log as _;

    fn say(sink: Sink, text: std::fmt::Arguments<'_>) {
        let from =
            |target, text| Record::builder().target(target).level(Level::Warn).args(text).build();
        let logger = Logger { sink };
        logger.log(&from("idmapfs::fuse", text));
        logger.log(&from("a_library", format_args!("unasked")));
    }

    #[test]
    fn a_record_is_one_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        say(Sink::File(File::create(&path).unwrap()), format_args!("a\nfaked: line\x1b[0m"));
        let text = std::fs::read_to_string(path).unwrap();
        assert_eq!(text, "warning: a\\nfaked: line\\u{1b}[0m\n");
    }

    #[test]
    fn the_systems_log_gets_priority_and_tag() {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        say(Sink::Syslog(Some(ours)), format_args!("x"));
        let mut buffer = [0; 64];
        let length = theirs.recv(&mut buffer).unwrap();
        let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
        assert_eq!(text, format!("<28>idmapfs[{}]: x", std::process::id()));
    }

    #[test]
    fn a_log_file_that_cannot_be_opened_is_named() {
        let log = Log { level: LevelFilter::Warn, file: Some("/nonexistent/x".into()) };
        let fault = start(Some(&log), true).unwrap_err();
        assert!(fault.text.starts_with("log file /nonexistent/x: "), "{}", fault.text);
    }
}
