//! JUnit XML in all its dialects: `testsuites` or `testsuite` at the root, nested suites, missing
//! attributes, Surefire's reruns, decimal commas.

use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};

use super::{
    FAILURES_MAX, Failure, MESSAGE_MAX, NAME_MAX, REPORT_MAX, ReportError, Tests, malformed,
    shorten,
};

const FORMAT: &str = "JUnit XML";
/// Elements inside one another.
const DEPTH_MAX: usize = 64;

#[derive(Default)]
struct Case {
    suite: String,
    name: String,
    time_ms: u64,
    failed: bool,
    skipped: bool,
    retried: bool,
    message: String,
}

/// Reads a report.
///
/// # Errors
/// When it is not JUnit XML, is cut short, or is too large.
pub fn junit(bytes: &[u8]) -> Result<Tests, ReportError> {
    if bytes.len() > REPORT_MAX {
        return Err(ReportError::TooLarge);
    }
    // Producers write other encodings and stray bytes; what is not UTF-8 shows as such and no more.
    let text = String::from_utf8_lossy(bytes);
    let mut reader = Reader::from_str(&text);
    let mut state = State::default();
    loop {
        match reader.read_event() {
            Ok(Event::Start(element)) => state.open(&element)?,
            Ok(Event::Empty(element)) => {
                state.open(&element)?;
                state.close(element.local_name().as_ref());
            }
            Ok(Event::End(element)) => state.close(element.local_name().as_ref()),
            Ok(Event::Text(text)) => state.text(text.as_ref()),
            Ok(Event::CData(text)) => state.text(text.as_ref()),
            Ok(Event::Eof) => break,
            Ok(_) => {}
            Err(error) => return Err(malformed(FORMAT, error)),
        }
    }
    if !state.rooted {
        return Err(malformed(FORMAT, "no <testsuites> or <testsuite>"));
    }
    if state.depth != 0 {
        return Err(malformed(FORMAT, "it ends early"));
    }
    Ok(state.summary)
}

#[derive(Default)]
struct State {
    summary: Tests,
    case: Option<Case>,
    in_failure: bool,
    depth: usize,
    rooted: bool,
}

impl State {
    fn open(&mut self, element: &BytesStart<'_>) -> Result<(), ReportError> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(malformed(FORMAT, "too many elements inside one another"));
        }
        let name = element.local_name();
        if self.depth == 1 {
            if !matches!(name.as_ref(), "testsuites" | "testsuite") {
                return Err(malformed(FORMAT, "no <testsuites> or <testsuite>"));
            }
            self.rooted = true;
        }
        match name.as_ref() {
            "testcase" => {
                self.case = Some(Case {
                    suite: attribute(element, "classname"),
                    name: attribute(element, "name"),
                    time_ms: milliseconds(&attribute(element, "time")),
                    ..Case::default()
                });
            }
            "failure" | "error" => {
                if let Some(case) = &mut self.case {
                    case.failed = true;
                    case.message = attribute(element, "message");
                    self.in_failure = case.message.is_empty();
                }
            }
            "skipped" => {
                if let Some(case) = &mut self.case {
                    case.skipped = true;
                }
            }
            "flakyFailure" | "flakyError" | "rerunFailure" | "rerunError" => {
                if let Some(case) = &mut self.case {
                    case.retried = true;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn text(&mut self, text: &str) {
        if let (true, Some(case)) = (self.in_failure, &mut self.case)
            && case.message.len() < MESSAGE_MAX
        {
            case.message.push_str(&shorten(text.trim(), MESSAGE_MAX));
        }
    }

    fn close(&mut self, name: &str) {
        self.depth = self.depth.saturating_sub(1);
        match name {
            "failure" | "error" => self.in_failure = false,
            "testcase" => {
                if let Some(case) = self.case.take() {
                    self.count(case);
                }
            }
            _ => {}
        }
    }

    fn count(&mut self, case: Case) {
        let summary = &mut self.summary;
        summary.total = summary.total.saturating_add(1);
        summary.duration_ms = summary.duration_ms.saturating_add(case.time_ms);
        if case.failed {
            summary.failed = summary.failed.saturating_add(1);
            if summary.failures.len() < FAILURES_MAX {
                summary.failures.push(Failure {
                    suite: shorten(&case.suite, NAME_MAX),
                    name: shorten(&case.name, NAME_MAX),
                    message: shorten(&case.message, MESSAGE_MAX),
                });
            }
        } else if case.skipped {
            summary.skipped = summary.skipped.saturating_add(1);
        } else {
            summary.passed = summary.passed.saturating_add(1);
            if case.retried {
                summary.flaky = summary.flaky.saturating_add(1);
            }
        }
    }
}

pub(super) fn attribute(element: &BytesStart<'_>, name: &str) -> String {
    element
        .attributes()
        .with_checks(false)
        .flatten()
        .find(|a| a.key.local_name().as_ref() == name)
        .map(|a| {
            let raw: &str = a.value.as_ref();
            match quick_xml::escape::unescape(raw) {
                Ok(text) => text.into_owned(),
                Err(_) => raw.to_owned(),
            }
        })
        .unwrap_or_default()
}

/// Seconds with a decimal point or comma; thousands separators are dropped. Nonsense is 0.
fn milliseconds(text: &str) -> u64 {
    let text = text.trim();
    let plain = match (text.rfind('.'), text.rfind(',')) {
        (Some(dot), Some(comma)) if comma > dot => text.replace('.', "").replace(',', "."),
        (Some(_), Some(_)) => text.replace(',', ""),
        (None, Some(_)) => text.replace(',', "."),
        _ => text.to_owned(),
    };
    let seconds: f64 = plain.parse().unwrap_or(0.0);
    if !seconds.is_finite() || !(0.0..=1e9).contains(&seconds) {
        return 0;
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "checked to be between 0 and 10^12"
    )]
    let millis = (seconds * 1_000.0).round() as u64;
    millis
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_dialect_is_counted_by_its_cases() {
        let text = br#"<?xml version="1.0"?><testsuites tests="99">
            <testsuite name="a"><testcase classname="c" name="ok" time="0.5"/>
              <testsuite name="nested"><testcase name="bad" time="1,5"><failure message="a &lt; b"/></testcase></testsuite>
              <testcase name="err"><error><![CDATA[boom & bust]]></error></testcase>
              <testcase name="skip"><skipped/></testcase>
              <testcase name="flaky" time="1,000.25"><flakyFailure message="once"/></testcase>
            </testsuite></testsuites>"#;
        let got = junit(text).unwrap();
        assert_eq!(
            (got.total, got.passed, got.failed, got.skipped, got.flaky),
            (5, 2, 2, 1, 1)
        );
        assert_eq!(got.duration_ms, 500 + 1_500 + 1_000_250);
        assert_eq!(got.failures[0].message, "a < b");
        assert_eq!(got.failures[1].message, "boom & bust");
    }

    #[test]
    fn an_empty_suite_is_a_report_and_other_xml_or_a_cut_file_is_not() {
        assert_eq!(junit(b"<testsuite/>").unwrap().total, 0);
        for bad in [
            &b""[..],
            b"<html></html>",
            b"<testsuites><testsuite>",
            b"not xml at all",
            b"<testsuite><testcase></testsuite>",
        ] {
            assert!(junit(bad).is_err(), "{}", String::from_utf8_lossy(bad));
        }
        let deep = "<testsuite>".repeat(10_000);
        assert!(junit(deep.as_bytes()).is_err());
    }
}
