//! The one place that prints. Data on standard output, talk on standard error. Text from stages and
//! hosts is shown with its control characters escaped, except line ends and colours.

use std::io::Write as _;

/// One line of data.
pub(crate) fn data(line: &str) {
    anstream::println!("{}", safe(line));
}

/// A JSON value as data.
pub(crate) fn json(value: &serde_json::Value) {
    anstream::println!("{value:#}");
}

/// Output of a stage, as it came but for control sequences that could act on the terminal.
pub(crate) fn raw(text: &str) {
    anstream::print!("{}", safe(text));
    let _closed = anstream::stdout().flush();
}

/// One line of talk.
pub(crate) fn say(line: &str) {
    anstream::eprintln!("{}", safe(line));
}

/// An error with its causes, and how to go on.
pub(crate) fn error(error: &anyhow::Error) {
    anstream::eprintln!("error: {}", safe(&format!("{error:#}")));
}

/// A table: tab-separated when piped, columns in line on a terminal.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>]) {
    use std::io::IsTerminal as _;
    if !std::io::stdout().is_terminal() {
        for row in rows {
            data(&row.join("\t"));
        }
        return;
    }
    let mut widths: Vec<usize> = head.iter().map(|h| h.len()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: Vec<&str>| {
        let padded: Vec<String> = cells
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        padded.join("  ").trim_end().to_owned()
    };
    data(&line(head.to_vec()));
    for row in rows {
        data(&line(row.iter().map(String::as_str).collect()));
    }
}

/// Only colours act on a terminal; every other control is shown.
fn safe(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        if let Some(sequence) = colour(rest) {
            out.push_str(sequence);
            rest = &rest[sequence.len()..];
            continue;
        }
        if c == '\n' || c == '\t' || !c.is_control() {
            out.push(c);
        } else if c != '\r' {
            out.extend(c.escape_default());
        }
        rest = &rest[c.len_utf8()..];
    }
    out
}

/// An SGR sequence at the beginning of a text.
fn colour(text: &str) -> Option<&str> {
    let body = text.strip_prefix("\u{1b}[")?;
    let length = body
        .bytes()
        .take_while(|b| b.is_ascii_digit() || *b == b';')
        .count();
    (body.as_bytes().get(length) == Some(&b'm')).then(|| &text[..length + 3])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_h052_only_colours_act_on_the_terminal() {
        assert_eq!(
            safe("\u{1b}[1;31mred\u{1b}[0m\n"),
            "\u{1b}[1;31mred\u{1b}[0m\n"
        );
        for bad in [
            "\u{1b}]52;c;QQ==\u{7}",
            "\u{1b}]0;title\u{7}",
            "\u{1b}[2J",
            "\u{1b}[1A",
            "\u{1b}P1\u{1b}\\",
            "\u{9b}31m",
        ] {
            let shown = safe(bad);
            assert!(!shown.contains(['\u{1b}', '\u{9b}', '\u{7}']), "{shown:?}");
        }
    }
}
