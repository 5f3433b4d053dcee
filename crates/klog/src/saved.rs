//! Saved kernel logs: `dmesg` in its formats, `journalctl -k`, syslog files, serial consoles, pstore, raw kmsg.
//!
//! The reader tells the formats apart line by line, because real logs mix them. It ignores a line of another program
//! (`host sshd[7]: …`). If a format does not tell the author of a line, the reader takes the line for the kernel's.

use std::borrow::Cow;
use std::io::{self, BufRead, Read};

use crate::complaint::Complaint;
use crate::kmsg::KmsgRecord;
use crate::line::{Caller, LogLine, Origin};
use crate::parser::Parser;

/// The longest line that is read in one piece. The rest of a longer line is read as another line.
const MAX_LINE_BYTES: u64 = 64 * 1024;

/// Feeds a saved log to a parser, line by line. Returns the number of lines.
///
/// # Errors
///
/// Fails if `source` cannot be read. Bytes that are not text are no error.
fn feed(mut source: impl BufRead, parser: &mut Parser) -> io::Result<u64> {
    let mut buffer = Vec::with_capacity(256);
    let mut lines = 0;
    loop {
        buffer.clear();
        if source.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut buffer)? == 0 {
            return Ok(lines);
        }
        lines += 1;
        let text = String::from_utf8_lossy(buffer.strip_suffix(b"\n").unwrap_or(&buffer));
        // A serial console overwrites lines with \r, and a message of the kernel may follow any of them.
        for part in text.split('\r').filter(|part| !part.is_empty()) {
            push(&without_escapes(part), parser);
        }
    }
}

/// Returns the complaints in a saved log, in the order of their first reports.
///
/// ```
/// let log = "[   12.345678] watchdog: BUG: soft lockup - CPU#1 stuck for 22s! [vcpu-0:123]\n";
/// let complaints = faultline_klog::saved::complaints(log.as_bytes())?;
/// assert_eq!((complaints[0].comm.as_deref(), complaints[0].seconds), (Some("vcpu-0"), Some(22)));
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # Errors
///
/// Fails if `source` cannot be read.
pub fn complaints(source: impl BufRead) -> io::Result<Vec<Complaint>> {
    let mut parser = Parser::new();
    feed(source, &mut parser)?;
    Ok(parser.finish())
}

fn push(line: &str, parser: &mut Parser) {
    if line.as_bytes().first().is_some_and(u8::is_ascii_digit)
        && let Some(record) = KmsgRecord::parse(line.as_bytes())
    {
        record.lines().for_each(|line| parser.push(&line));
    } else {
        parser.push(&strip(line));
    }
}

/// Removes terminal control sequences such as `ESC [ 1 m`.
fn without_escapes(line: &str) -> Cow<'_, str> {
    if !line.contains('\u{1b}') {
        return Cow::Borrowed(line);
    }
    let mut out = String::with_capacity(line.len());
    let mut parts = line.split('\u{1b}');
    out.push_str(parts.next().unwrap_or(""));
    for part in parts {
        out.push_str(match part.strip_prefix('[') {
            Some(rest) => rest.find(|c: char| ('@'..='~').contains(&c)).map_or("", |end| &rest[end + 1..]),
            None => part.get(1..).unwrap_or(""),
        });
    }
    Cow::Owned(out)
}

/// Removes the prefix that the format of the log puts before a message, and keeps what the prefix tells.
fn strip(line: &str) -> LogLine<'_> {
    let mut line = LogLine::plain(line);
    strip_level(&mut line);
    if strip_time(&mut line) {
        strip_host(&mut line);
    } else if strip_syslog(&mut line) {
        strip_time(&mut line);
    } else if line.origin == Origin::Unknown {
        find_time(&mut line);
    }
    line
}

/// Removes `<4>` of pstore and `dmesg --raw`, or `kern  :warn  : ` of `dmesg --decode`.
fn strip_level(line: &mut LogLine<'_>) {
    if let Some((level, rest)) = line.text.strip_prefix('<').and_then(|text| text.split_once('>'))
        && let Ok(priority) = level.parse::<u32>()
    {
        line.origin = Origin::from_priority(priority);
        line.text = rest;
        return;
    }
    const FACILITIES: [&str; 12] =
        ["kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp"];
    if let Some((facility, rest)) = line.text.split_once(':')
        && FACILITIES.contains(&facility.trim_end())
        && let Some((level, rest)) = rest.split_once(": ")
        && level.trim_end().bytes().all(|b| b.is_ascii_lowercase())
        && level.len() <= 7
    {
        line.origin = if facility.trim_end() == "kern" { Origin::Kernel } else { Origin::User };
        line.text = rest;
    }
}

/// Removes `[   12.345678] ` and `[  T123] ` behind it, or one of dmesg's readable times. Returns whether there was
/// one.
fn strip_time(line: &mut LogLine<'_>) -> bool {
    let Some((inside, rest)) = line.text.strip_prefix('[').and_then(|text| text.split_once(']')) else {
        return false;
    };
    match microseconds(inside) {
        Some(usec) => line.timestamp_usec = Some(usec),
        None if is_readable_time(inside) => {}
        None => return false,
    }
    let caller = rest.strip_prefix(" [").or_else(|| rest.strip_prefix('[')).and_then(|text| text.split_once(']'));
    line.text = rest;
    if let Some((caller, after)) = caller.and_then(|(inside, after)| Some((Caller::parse(inside)?, after))) {
        line.caller = Some(caller);
        line.text = after;
    }
    line.text = line.text.strip_prefix(' ').unwrap_or(line.text);
    true
}

/// Parses `   12.345678` into microseconds.
fn microseconds(text: &str) -> Option<u64> {
    let (seconds, fraction) = text.trim_start().split_once('.')?;
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if fraction.len() != 6 || !digits(seconds) || !digits(fraction) {
        return None;
    }
    seconds.parse::<u64>().ok()?.checked_mul(1_000_000)?.checked_add(fraction.parse().ok()?)
}

const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// Recognises `Tue Nov 24 02:06:19 2026` of `dmesg -T`, and `Nov24 02:06` and `  +0.000012` of `dmesg -H`.
fn is_readable_time(text: &str) -> bool {
    const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
    let word = text.get(..3).unwrap_or("");
    let dated = (DAYS.contains(&word) || MONTHS.contains(&word)) && text.contains(':');
    dated || text.trim_start().strip_prefix('+').is_some_and(|delta| microseconds(delta).is_some())
}

/// Removes `host kernel: `, which `journalctl -o short-monotonic` puts after the time.
fn strip_host(line: &mut LogLine<'_>) {
    if let Some((_, rest)) = line.text.split_once(' ')
        && let Some(rest) = rest.strip_prefix("kernel: ")
    {
        line.text = rest;
    }
}

/// Removes `Nov 24 02:06:19 host kernel: ` and its ISO forms, and returns whether there was a date. Every program but
/// `kernel` is user space.
fn strip_syslog(line: &mut LogLine<'_>) -> bool {
    let Some(rest) = after_date(line.text) else { return false };
    let Some((_, message)) = rest.split_once(' ') else { return false };
    if let Some(message) = message.strip_prefix("kernel:") {
        line.text = message.strip_prefix(' ').unwrap_or(message);
        return true;
    }
    let program = message.split(' ').next().unwrap_or("");
    if program.ends_with(':') {
        line.origin = Origin::User;
    }
    // `dmesg --time-format iso` prints no host: the message follows the time.
    if is_iso(line.text) && line.text.split(' ').next().is_some_and(|time| time.contains(',')) {
        line.text = rest;
        line.origin = Origin::Unknown;
    }
    true
}

fn is_iso(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() > 19 && bytes[4] == b'-' && bytes[7] == b'-' && matches!(bytes[10], b'T' | b' ') && bytes[13] == b':'
}

/// Returns the text behind a syslog or ISO date, if there is such a date.
fn after_date(text: &str) -> Option<&str> {
    if MONTHS.contains(&text.get(..3)?) && text.get(3..4) == Some(" ") {
        let rest = text.get(4..)?.trim_start();
        let (_day, rest) = rest.split_once(' ')?;
        let (time, rest) = rest.split_once(' ')?;
        return (time.matches(':').count() == 2).then_some(rest);
    }
    is_iso(text).then(|| text.split_once(' ')).flatten().map(|(_, rest)| rest)
}

/// Finds a time stamp of the kernel inside a line. On a serial console, a message can begin in the middle of a prompt
/// or of other output of user space.
fn find_time(line: &mut LogLine<'_>) {
    if line.text.starts_with('>') {
        return;
    }
    for (at, _) in line.text.match_indices('[').skip_while(|(at, _)| *at == 0) {
        // A quotation of a log is not a message of the kernel.
        let quoted = line.text[..at].ends_with(['"', '\'', '`', '(', '>']);
        let mut inner = LogLine::plain(&line.text[at..]);
        if !quoted && strip_time(&mut inner) && inner.timestamp_usec.is_some() {
            *line = inner;
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "watchdog: BUG: soft lockup - CPU#1 stuck for 22s! [vcpu-0:1]";

    #[test]
    fn every_prefix_is_removed() {
        let prefixes = [
            "",
            "[   12.345678] ",
            "[   12.345678][  T123] ",
            "[   12.345678] [    C1] ",
            "[Tue Nov 24 02:06:19 2026] ",
            "[Nov24 02:06] ",
            "[  +0.000012] ",
            "<0>[   12.345678] ",
            "<0>",
            "kern  :emerg : [   12.345678] ",
            "kern  :warn  : ",
            "Nov 24 02:06:19 host kernel: ",
            "Nov  4 02:06:19 host kernel: [   12.345678] ",
            "2026-11-24T02:06:19+0000 host kernel: ",
            "2026-11-24T02:06:19.123456+00:00 host kernel: ",
            "2026-11-24T02:06:19,123456+00:00 ",
            "[   12.345678] host kernel: ",
            "debian login: [   12.345678] ",
        ];
        for prefix in prefixes {
            let line = format!("{prefix}{TEXT}");
            let read = strip(&line);
            assert_eq!(read.text, TEXT, "{prefix}");
            assert_ne!(read.origin, Origin::User, "{prefix}");
            assert_eq!(read.timestamp_usec, prefix.contains("12.345678").then_some(12_345_678), "{prefix}");
        }
        assert_eq!(strip("[    1.000000][  T123] x").caller, Some(Caller::Task(123)));
        assert_eq!(strip("[    1.000000] [    C1]  x").text, " x");
    }

    #[test]
    fn others_are_not_believed() {
        let lines = [
            format!("Nov 24 02:06:19 host sshd[7]: {TEXT}"),
            format!("Nov 24 02:06:19 host watchdog: {}", &TEXT["watchdog: ".len()..]),
            format!("<12>[   12.345678] {TEXT}"),
            format!("user  :warn  : [   12.345678] {TEXT}"),
            format!("12,1,5,-;{TEXT}"),
            format!("I saw {TEXT}"),
            format!("> [   12.345678] {TEXT}"),
            format!("grep \"[   12.345678] {TEXT}\""),
            format!("[   12.345678] systemd[1]: {TEXT}"),
        ];
        for line in lines {
            assert_eq!(complaints(line.as_bytes()).unwrap(), [], "{line}");
        }
    }

    #[test]
    fn consoles_and_raw_kmsg() {
        for log in [
            format!("\u{1b}[1m[   12.345678] {TEXT}\u{1b}[0m\r\r\n"),
            format!("progress 10%\r[   12.345678] {TEXT}\r\n"),
            format!("0,17,12345678,-,caller=C1;{TEXT}\n SUBSYSTEM=x\n"),
        ] {
            let found = complaints(log.as_bytes()).unwrap();
            assert_eq!(found.len(), 1, "{log:?}");
            assert_eq!(found[0].timestamp_usec, Some(12_345_678));
            assert_eq!(found[0].pid, Some(1));
        }
    }

    #[test]
    fn garbage_is_no_error() {
        let mut bytes: Vec<u8> = (0..200_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        bytes.extend(b"\n[\xff\xfe]\n\x1b\n\x1b[\n[]\n<>\n<999999999999>x\n");
        assert_eq!(complaints(&bytes[..]).unwrap(), []);
        let long = vec![b'['; 300_000];
        assert_eq!(complaints(&long[..]).unwrap(), []);
    }
}
