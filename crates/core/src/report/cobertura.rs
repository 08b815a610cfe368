//! Cobertura XML: `<line number hits>` below `<class filename>`, counted once per file.

use std::collections::BTreeMap;

use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};

use super::junit::attribute;
use super::{Lines, REPORT_MAX, ReportError, malformed};

const FORMAT: &str = "Cobertura XML";

/// Reads a report.
///
/// # Errors
/// When it is not Cobertura XML, is cut short, or is too large.
pub fn cobertura(bytes: &[u8]) -> Result<Lines, ReportError> {
    if bytes.len() > REPORT_MAX {
        return Err(ReportError::TooLarge);
    }
    // Producers write other encodings and stray bytes; what is not UTF-8 shows as such and no more.
    let text = String::from_utf8_lossy(bytes);
    let mut reader = Reader::from_str(&text);
    let mut state = State::default();
    loop {
        match reader.read_event() {
            Ok(Event::Start(element)) => {
                state.depth += 1;
                state.element(&element)?;
            }
            Ok(Event::Empty(element)) => state.element(&element)?,
            Ok(Event::End(_)) => state.depth = state.depth.saturating_sub(1),
            Ok(Event::Eof) => break,
            Ok(_) => {}
            Err(error) => return Err(malformed(FORMAT, error)),
        }
    }
    if !state.rooted {
        return Err(malformed(FORMAT, "no <coverage>"));
    }
    if state.depth != 0 {
        return Err(malformed(FORMAT, "it ends early"));
    }
    Ok(Lines {
        lines_covered: state.lines.values().filter(|hit| **hit).count() as u64,
        lines_valid: state.lines.len() as u64,
    })
}

#[derive(Default)]
struct State {
    lines: BTreeMap<(String, u64), bool>,
    file: String,
    rooted: bool,
    depth: usize,
}

impl State {
    fn element(&mut self, element: &BytesStart<'_>) -> Result<(), ReportError> {
        let name = element.local_name();
        if !self.rooted {
            if name.as_ref() != "coverage" {
                return Err(malformed(FORMAT, "no <coverage>"));
            }
            self.rooted = true;
        }
        match name.as_ref() {
            "class" => self.file = attribute(element, "filename"),
            "line" => {
                let number = attribute(element, "number");
                let hits = attribute(element, "hits");
                let (Ok(number), Ok(hits)) = (number.parse::<u64>(), hits.parse::<f64>()) else {
                    return Err(malformed(FORMAT, "a line without number or hits"));
                };
                let line = self.lines.entry((self.file.clone(), number)).or_default();
                *line |= hits > 0.0;
            }
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_methods_and_classes_are_the_same_lines() {
        let text =
            br#"<?xml version="1.0" ?><!DOCTYPE coverage SYSTEM "x"><coverage line-rate="0.1">
            <packages><package><classes><class filename="a.py"><methods><method><lines>
            <line number="1" hits="1"/></lines></method></methods>
            <lines><line number="1" hits="0"/><line number="2" hits="0"/></lines></class>
            <class filename="b.py"><lines><line number="1" hits="3"/></lines></class>
            </classes></package></packages></coverage>"#;
        assert_eq!(
            cobertura(text).unwrap(),
            Lines {
                lines_covered: 2,
                lines_valid: 3
            }
        );
    }

    #[test]
    fn other_xml_and_cut_files_are_refused() {
        for bad in [
            &b""[..],
            b"<a/>",
            b"<coverage>",
            b"<coverage><line/></coverage>",
        ] {
            assert!(cobertura(bad).is_err(), "{}", String::from_utf8_lossy(bad));
        }
        let empty = cobertura(b"<coverage/>").unwrap();
        assert_eq!(empty.percent(), None);
    }
}
