//! The shell lines of a stage as one script: the first that fails ends it, and each is announced by a
//! line of its own, so that a reader can fold the output by command.

use slipway_core::pipeline::ANNOUNCED_MAX;

/// Puts the script together.
#[must_use]
pub(super) fn script(commands: &[String]) -> String {
    // One stream, so that the order is the program's own: the engine reads two streams one after the
    // other, and gives them back in another order when it is asked again.
    let mut script = String::from("exec 2>&1\nset -e\n");
    for command in commands {
        let first = command.lines().next().unwrap_or_default();
        let shown: String = first.chars().take(ANNOUNCED_MAX).collect();
        let more = if shown.len() < command.trim_end().len() {
            " …"
        } else {
            ""
        };
        script.push_str(&format!(
            "printf '%s\\n' {}\n",
            quoted(&format!("$ {shown}{more}"))
        ));
        script.push_str(command);
        script.push('\n');
    }
    script
}

/// A text as one word of a POSIX shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(commands: &[&str]) -> (i32, String) {
        let commands: Vec<String> = commands.iter().map(|c| (*c).to_owned()).collect();
        let out = std::process::Command::new("sh")
            .args(["-c", &script(&commands)])
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        (out.status.code().unwrap(), text)
    }

    #[test]
    fn each_command_is_announced_and_the_first_failure_ends_the_script() {
        let (code, out) = sh(&["echo 'it''s'", "x=1\necho $x", "false", "echo never"]);
        assert_eq!(code, 1);
        assert_eq!(out, "$ echo 'it''s'\nits\n$ x=1 …\n1\n$ false\n");
    }

    #[test]
    fn errors_stand_where_they_were_printed() {
        let (_, out) = sh(&["echo one", "echo two >&2", "echo three"]);
        assert_eq!(
            out,
            "$ echo one\none\n$ echo two >&2\ntwo\n$ echo three\nthree\n"
        );
    }

    #[test]
    fn an_announcement_is_never_executed() {
        let (code, out) = sh(&["true # $(echo injected) `echo too` '\\''"]);
        assert_eq!(
            (code, out.as_str()),
            (0, "$ true # $(echo injected) `echo too` '\\''\n")
        );
    }

    #[test]
    fn a_long_line_is_announced_by_its_beginning_and_executed_whole() {
        let long = format!("echo {} | wc -c", "x".repeat(5_000));
        let (code, out) = sh(&[&long, "true\n"]);
        let lines: Vec<&str> = out.lines().collect();
        assert_eq!((code, lines.len()), (0, 3), "{out}");
        assert_eq!(lines[0].chars().count(), 2 + ANNOUNCED_MAX + 2);
        assert!(lines[0].ends_with("x …"));
        assert_eq!((lines[1].trim(), lines[2]), ("5001", "$ true"));
    }
}
