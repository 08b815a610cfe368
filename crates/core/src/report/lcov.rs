//! LCOV tracefiles: `DA:line,count[,checksum]` per `SF:` record, or `LF`/`LH` when there are no `DA`s.

use std::collections::BTreeMap;

use super::{Lines, REPORT_MAX, ReportError, malformed};

const FORMAT: &str = "an LCOV tracefile";

/// Reads a report. A line that several records of one file mention counts once.
///
/// # Errors
/// When it is not LCOV, is cut short, or is too large.
pub fn lcov(bytes: &[u8]) -> Result<Lines, ReportError> {
    if bytes.len() > REPORT_MAX {
        return Err(ReportError::TooLarge);
    }
    let text = String::from_utf8_lossy(bytes);
    let mut lines: BTreeMap<(String, u64), bool> = BTreeMap::new();
    let mut sums = Lines::default();
    let mut record: Option<Record> = None;
    let mut records = 0_u64;
    for line in text.lines() {
        let line = line.trim();
        if let Some(file) = line.strip_prefix("SF:") {
            record = Some(Record {
                file: file.to_owned(),
                ..Record::default()
            });
        } else if line == "end_of_record" {
            let done = record
                .take()
                .ok_or_else(|| malformed(FORMAT, "a record ends that never began"))?;
            records += 1;
            if done.lines.is_empty() {
                sums.lines_valid = sums.lines_valid.saturating_add(done.found);
                sums.lines_covered = sums.lines_covered.saturating_add(done.hit.min(done.found));
            }
            for (number, hit) in done.lines {
                *lines.entry((done.file.clone(), number)).or_default() |= hit;
            }
        } else if let Some(record) = &mut record {
            record.read(line)?;
        }
    }
    if record.is_some() {
        return Err(malformed(FORMAT, "it ends in the middle of a record"));
    }
    if records == 0 {
        return Err(malformed(FORMAT, "it has no record"));
    }
    Ok(Lines {
        lines_covered: sums.lines_covered + lines.values().filter(|hit| **hit).count() as u64,
        lines_valid: sums.lines_valid + lines.len() as u64,
    })
}

#[derive(Default)]
struct Record {
    file: String,
    lines: Vec<(u64, bool)>,
    found: u64,
    hit: u64,
}

impl Record {
    fn read(&mut self, line: &str) -> Result<(), ReportError> {
        let number = |text: &str| -> Result<u64, ReportError> {
            text.parse()
                .map_err(|_| malformed(FORMAT, format!("`{line}` holds no number")))
        };
        if let Some(rest) = line.strip_prefix("DA:") {
            let mut parts = rest.split(',');
            let at = number(parts.next().unwrap_or_default())?;
            let count = parts.next().unwrap_or_default();
            // Some producers write negative counts or floats; anything but zero is a hit.
            let count: f64 = count
                .parse()
                .map_err(|_| malformed(FORMAT, format!("`{line}` holds no number")))?;
            self.lines.push((at, count > 0.0));
        } else if let Some(rest) = line.strip_prefix("LF:") {
            self.found = number(rest)?;
        } else if let Some(rest) = line.strip_prefix("LH:") {
            self.hit = number(rest)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_counted_once_per_file() {
        let text = b"TN:\nSF:a.c\nFN:1,main\nDA:1,5\nDA:2,0,abc\nLF:2\nLH:1\nend_of_record\n\
            SF:a.c\nDA:2,1\nDA:3,0\nend_of_record\nSF:b.c\nLF:10\nLH:4\nend_of_record\n";
        let got = lcov(text).unwrap();
        assert_eq!(
            got,
            Lines {
                lines_covered: 6,
                lines_valid: 13
            }
        );
    }

    #[test]
    fn what_is_cut_or_something_else_is_refused() {
        for bad in [
            &b""[..],
            b"hello",
            b"SF:a\nDA:1,1\n",
            b"SF:a\nDA:x,1\nend_of_record",
            b"end_of_record",
        ] {
            assert!(lcov(bad).is_err(), "{}", String::from_utf8_lossy(bad));
        }
    }
}
