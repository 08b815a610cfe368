//! Secrets out of a byte stream.
//!
//! A secret is looked for as it is and in the forms in which programs print it by accident: single
//! lines, base64 at each alignment, URL, JSON, hexadecimal, shell quotes. The stream may be cut
//! anywhere: what could be the beginning of a secret is held back until it is decided. Masking is for
//! accidents; it cannot stop a program that wants to give a secret away (one character per line,
//! reversed, compressed).

use std::collections::BTreeSet;

use aho_corasick::{AhoCorasick, Input, MatchKind};

/// What stands where a secret was.
pub const MASK: &[u8] = b"***";
/// Shorter parts are not masked: they would turn a whole log into asterisks.
pub const PART_MIN: usize = 6;
/// Values that one attempt may have.
pub const VALUES_MAX: usize = 200;
/// Bytes of one value; longer ones are masked line by line only.
pub const VALUE_MAX: usize = 64 * 1024;

/// Why no masker can be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MaskError {
    /// Too many values.
    #[error("at most {VALUES_MAX} values can be masked in one attempt, not {0}")]
    TooMany(usize),
    /// The forms of the values are too many for one automaton.
    #[error("the values to be masked are too large together")]
    TooLarge,
}

/// What to look for. Cheap to share by reference; holds the values, so it has no `Debug`.
pub struct Patterns {
    automaton: Option<AhoCorasick>,
    sorted: Vec<Vec<u8>>,
    longest: usize,
}

impl Patterns {
    /// From secret values.
    ///
    /// # Errors
    /// When there are too many, or they are too large together.
    pub fn new<'a>(values: impl IntoIterator<Item = &'a str>) -> Result<Self, MaskError> {
        let values: Vec<&str> = values.into_iter().collect();
        if values.len() > VALUES_MAX {
            return Err(MaskError::TooMany(values.len()));
        }
        let mut all = BTreeSet::new();
        for value in values {
            add_value(value, &mut all);
        }
        let sorted: Vec<Vec<u8>> = all.into_iter().collect();
        let longest = sorted.iter().map(Vec::len).max().unwrap_or(0);
        let automaton = if sorted.is_empty() {
            None
        } else {
            let built = AhoCorasick::builder()
                .match_kind(MatchKind::LeftmostLongest)
                .build(&sorted)
                .map_err(|_| MaskError::TooLarge)?;
            Some(built)
        };
        Ok(Self {
            automaton,
            sorted,
            longest,
        })
    }

    /// Whether `text` could go on to become a secret.
    fn is_beginning(&self, text: &[u8]) -> bool {
        let at = self.sorted.partition_point(|p| p.as_slice() < text);
        self.sorted
            .iter()
            .skip(at)
            .take_while(|p| p.starts_with(text))
            .any(|p| p.len() > text.len())
    }
}

fn add_value(value: &str, all: &mut BTreeSet<Vec<u8>>) {
    if value.len() <= VALUE_MAX {
        add_forms(value.as_bytes(), all);
        add_forms(value.trim().as_bytes(), all);
    }
    if value.contains('\n') {
        for line in value.split('\n') {
            add_forms(line.trim_end_matches('\r').as_bytes(), all);
            add_forms(line.trim().as_bytes(), all);
        }
        let crlf = value.replace("\r\n", "\n").replace('\n', "\r\n");
        add(crlf.into_bytes(), all);
    }
}

fn add(form: Vec<u8>, all: &mut BTreeSet<Vec<u8>>) {
    if form.len() >= PART_MIN {
        all.insert(form);
    }
}

fn add_forms(part: &[u8], all: &mut BTreeSet<Vec<u8>>) {
    if part.len() < PART_MIN {
        return;
    }
    add(part.to_vec(), all);
    add(hex::encode(part).into_bytes(), all);
    add(hex::encode_upper(part).into_bytes(), all);
    add(percent(part, b"0123456789ABCDEF"), all);
    add(percent(part, b"0123456789abcdef"), all);
    for form in json_forms(part) {
        add(form, all);
    }
    for form in shell_forms(part) {
        add(form, all);
    }
    add(xml(part), all);
    for shift in 0..3 {
        for alphabet in [STANDARD, URL_SAFE] {
            add_base64(part, shift, alphabet, all);
        }
    }
}

fn percent(part: &[u8], digits: &[u8; 16]) -> Vec<u8> {
    let mut out = Vec::with_capacity(part.len() * 3);
    for &byte in part {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            out.push(byte);
        } else {
            let high = digits[usize::from(byte >> 4)];
            let low = digits[usize::from(byte & 15)];
            out.extend([b'%', high, low]);
        }
    }
    out
}

fn json_forms(part: &[u8]) -> Vec<Vec<u8>> {
    let Ok(text) = std::str::from_utf8(part) else {
        return Vec::new();
    };
    let Ok(quoted) = serde_json::to_string(text) else {
        return Vec::new();
    };
    let inner = quoted
        .get(1..quoted.len().saturating_sub(1))
        .unwrap_or_default();
    // Go escapes these three for HTML, PHP the slash.
    let html = inner
        .replace('<', "\\u003c")
        .replace('>', "\\u003e")
        .replace('&', "\\u0026");
    let slashes = inner.replace('/', "\\/");
    let mut escaped = String::new();
    for unit in text.encode_utf16() {
        match u8::try_from(unit) {
            Ok(byte) if byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\') => {
                escaped.push(char::from(byte));
            }
            _ => escaped.push_str(&format!("\\u{unit:04x}")),
        }
    }
    let all = text
        .encode_utf16()
        .map(|unit| format!("\\u{unit:04X}"))
        .collect::<String>();
    let lower = all.to_lowercase();
    [inner.to_owned(), html, slashes, escaped, all, lower]
        .into_iter()
        .map(String::into_bytes)
        .collect()
}

fn shell_forms(part: &[u8]) -> Vec<Vec<u8>> {
    // 'it'\''s' and $'\x69…'
    let mut single = Vec::new();
    let mut backslashed = Vec::new();
    let mut hexed = Vec::new();
    for &byte in part {
        if byte == b'\'' {
            single.extend(b"'\\''");
        } else {
            single.push(byte);
        }
        if !byte.is_ascii_alphanumeric() && byte.is_ascii_graphic() && byte != b'_' {
            backslashed.push(b'\\');
        }
        backslashed.push(byte);
        hexed.extend(b"\\x");
        hexed.extend(hex::encode([byte]).into_bytes());
    }
    vec![single, backslashed, hexed]
}

fn xml(part: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for &byte in part {
        match byte {
            b'&' => out.extend(b"&amp;"),
            b'<' => out.extend(b"&lt;"),
            b'>' => out.extend(b"&gt;"),
            b'"' => out.extend(b"&quot;"),
            b'\'' => out.extend(b"&apos;"),
            other => out.push(other),
        }
    }
    out
}

const STANDARD: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const URL_SAFE: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// The characters that base64 gives for `part` when `shift` unknown bytes stand before it: those at
/// the edges depend on the neighbours and are left out. When nothing follows, the tail is known too.
fn add_base64(part: &[u8], shift: usize, alphabet: &[u8; 64], all: &mut BTreeSet<Vec<u8>>) {
    let bit = |at: usize| -> u8 {
        let byte = at / 8;
        let value = byte
            .checked_sub(shift)
            .and_then(|i| part.get(i))
            .copied()
            .unwrap_or(0);
        (value >> (7 - at % 8)) & 1
    };
    let bits = (shift + part.len()) * 8;
    let first = (shift * 8).div_ceil(6);
    let character = |index: usize| {
        let sextet = (0..6).fold(0_u8, |acc, b| (acc << 1) | bit(index * 6 + b));
        alphabet[usize::from(sextet)]
    };
    let known: Vec<u8> = (first..bits / 6).map(character).collect();
    if !bits.is_multiple_of(6) {
        let mut with_tail = known.clone();
        with_tail.push(character(bits / 6));
        let mut padded = with_tail.clone();
        while !(first + padded.len()).is_multiple_of(4) {
            padded.push(b'=');
        }
        add(with_tail, all);
        add(padded, all);
    }
    add(known, all);
}

/// Masks one stream. Give it bytes as they come; it gives back what is safe to show.
pub struct Masker<'p> {
    patterns: &'p Patterns,
    held: Vec<u8>,
    hits: u64,
}

impl<'p> Masker<'p> {
    /// At the beginning of a stream.
    #[must_use]
    pub fn new(patterns: &'p Patterns) -> Self {
        Self {
            patterns,
            held: Vec::new(),
            hits: 0,
        }
    }

    /// How many secrets were masked so far.
    #[must_use]
    pub fn hits(&self) -> u64 {
        self.hits
    }

    /// Takes the next bytes and appends what is decided to `out`.
    pub fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        if self.patterns.longest == 0 {
            out.extend_from_slice(bytes);
            return;
        }
        self.held.extend_from_slice(bytes);
        // A match that begins before this point lies in `held` as a whole.
        let decided = (self.held.len() + 1).saturating_sub(self.patterns.longest);
        self.release(decided, out);
    }

    /// Appends to `out` what cannot be the beginning of a secret any more, for a stream that pauses.
    pub fn flush_safe(&mut self, out: &mut Vec<u8>) {
        let undecided = (0..self.held.len())
            .find(|&at| {
                self.held
                    .get(at..)
                    .is_some_and(|rest| self.patterns.is_beginning(rest))
            })
            .unwrap_or(self.held.len());
        self.release(undecided, out);
    }

    /// The stream ended: appends all that was held back.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        self.release(self.held.len(), out);
    }

    /// What is held back: give it first to the masker that goes on with the stream.
    #[must_use]
    pub fn into_held(self) -> Vec<u8> {
        self.held
    }

    fn release(&mut self, decided: usize, out: &mut Vec<u8>) {
        let Some(automaton) = &self.patterns.automaton else {
            out.append(&mut self.held);
            return;
        };
        let mut at = 0;
        while at < decided {
            let input = Input::new(&self.held).range(at..);
            let found = automaton.find(input).filter(|m| m.start() < decided);
            let Some(found) = found else {
                out.extend_from_slice(self.held.get(at..decided).unwrap_or_default());
                at = decided;
                break;
            };
            out.extend_from_slice(self.held.get(at..found.start()).unwrap_or_default());
            out.extend_from_slice(MASK);
            self.hits += 1;
            at = found.end();
        }
        self.held.drain(..at.min(self.held.len()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mask_whole(patterns: &Patterns, text: &[u8]) -> Vec<u8> {
        let mut masker = Masker::new(patterns);
        let mut out = Vec::new();
        masker.push(text, &mut out);
        masker.finish(&mut out);
        out
    }

    fn masked(secret: &str, text: &str) -> String {
        let patterns = Patterns::new([secret]).unwrap();
        String::from_utf8(mask_whole(&patterns, text.as_bytes())).unwrap()
    }

    #[test]
    fn mask_every_split() {
        let patterns =
            Patterns::new(["hunter2hunter2", "hunter2hunter2-long", "a=b&c d/é"]).unwrap();
        let text = "x hunter2hunter2 hunter2hunter2-long hunter2hunter2-lonely a=b&c d/é \
            aHVudGVyMmh1bnRlcjI= 68756e7465723268756e74657232 a%3Db%26c%20d%2F%C3%A9 end hunter2hun"
            .as_bytes();
        let whole = mask_whole(&patterns, text);
        assert!(!whole.windows(14).any(|w| w == b"hunter2hunter2"));
        for first in 0..=text.len() {
            for second in first..=text.len() {
                let mut masker = Masker::new(&patterns);
                let mut out = Vec::new();
                masker.push(&text[..first], &mut out);
                masker.flush_safe(&mut out);
                masker.push(&text[first..second], &mut out);
                masker.push(&text[second..], &mut out);
                masker.finish(&mut out);
                assert_eq!(out, whole, "cut at {first} and {second}");
            }
        }
    }

    #[test]
    fn hostile_h053_the_listed_encodings_are_masked() {
        let secret = "pa<s>s/w'o\"rd&42";
        for form in [
            "pa<s>s/w'o\"rd&42",
            "pa\\u003cs\\u003es/w'o\\\"rd\\u002642",
            "pa%3Cs%3Es%2Fw%27o%22rd%2642",
            "pa%3cs%3es%2fw%27o%22rd%2642",
            "pa&lt;s&gt;s/w&apos;o&quot;rd&amp;42",
            "pa<s>s/w'\\''o\"rd&42",
            "70613c733e732f77276f22726426 3432"
                .replace(' ', "")
                .as_str(),
        ] {
            let shown = masked(secret, &format!("before {form} after"));
            assert_eq!(shown, "before *** after", "{form}");
        }
    }

    #[test]
    fn base64_is_masked_at_every_alignment() {
        let secret = "correct horse";
        // base64 of "", "x", "xy" + secret + "", "\n"
        for (text, left) in [
            ("Y29ycmVjdCBob3JzZQ==", ""),
            ("Y29ycmVjdCBob3JzZQo=", ""),
            ("eGNvcnJlY3QgaG9yc2U=", "eG"),
            ("eHljb3JyZWN0IGhvcnNl", "eHl"),
        ] {
            let shown = masked(secret, text);
            assert!(shown.starts_with(left) && shown.contains("***"), "{shown}");
            assert!(
                shown.len() <= left.len() + MASK.len() + 2,
                "{text}: {shown}"
            );
        }
    }

    #[test]
    fn hostile_h054_each_line_of_a_key_is_masked_and_short_lines_are_not() {
        let pem = "-----BEGIN KEY-----\nMIIEvQIBADANBg\n=\nab\n-----END KEY-----\n";
        assert_eq!(masked(pem, "> MIIEvQIBADANBg <"), "> *** <");
        assert_eq!(masked(pem, "a = ab"), "a = ab");
        assert_eq!(masked(pem, &pem.replace('\n', "\r\n")), "***");
    }

    #[test]
    fn hostile_h055_too_many_or_too_short_values() {
        let values: Vec<String> = (0..=VALUES_MAX).map(|n| format!("value-{n}")).collect();
        let result = Patterns::new(values.iter().map(String::as_str));
        assert_eq!(result.err(), Some(MaskError::TooMany(VALUES_MAX + 1)));
        assert_eq!(masked("e", "every e stays"), "every e stays");
    }

    #[test]
    fn a_pause_shows_all_but_the_beginning_of_a_secret() {
        let patterns = Patterns::new(["topsecret"]).unwrap();
        let mut masker = Masker::new(&patterns);
        let mut out = Vec::new();
        masker.push(b"prompt> tops", &mut out);
        masker.flush_safe(&mut out);
        assert_eq!(out, b"prompt> ");
        masker.push(b"ecret", &mut out);
        masker.finish(&mut out);
        assert_eq!(out, b"prompt> ***");
        assert_eq!(masker.hits(), 1);
    }
}
