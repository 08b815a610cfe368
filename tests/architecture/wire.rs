//! The wire of each release, kept: an agent of the release before must be understood, so no field, no value
//! and no call of it may ever mean something else. What a release adds is recorded with it.

use std::collections::BTreeSet;
use std::path::PathBuf;

use prost::Message as _;
use prost_types::{DescriptorProto, EnumDescriptorProto, FileDescriptorSet};

fn recorded() -> PathBuf {
    super::root().join("tests/fixtures/wire")
}

/// One line per field, value and call.
fn today() -> BTreeSet<String> {
    let files = FileDescriptorSet::decode(slipway_proto::DESCRIPTORS).expect("our own descriptors");
    let mut lines = BTreeSet::new();
    for file in files.file.iter().filter(|f| f.package() == "slipway.v1") {
        for message in &file.message_type {
            fields(message, message.name(), &mut lines);
        }
        for values in &file.enum_type {
            enumerated(values, values.name(), &mut lines);
        }
        for service in &file.service {
            for call in &service.method {
                lines.insert(format!(
                    "call {}.{}({}{}) returns ({}{})",
                    service.name(),
                    call.name(),
                    if call.client_streaming() {
                        "stream "
                    } else {
                        ""
                    },
                    call.input_type(),
                    if call.server_streaming() {
                        "stream "
                    } else {
                        ""
                    },
                    call.output_type(),
                ));
            }
        }
    }
    lines
}

fn fields(message: &DescriptorProto, name: &str, lines: &mut BTreeSet<String>) {
    for field in &message.field {
        lines.insert(format!(
            "field {name} {} {} {:?} {:?} {}",
            field.number(),
            field.name(),
            field.label(),
            field.r#type(),
            field.type_name(),
        ));
    }
    for nested in &message.nested_type {
        fields(nested, &format!("{name}.{}", nested.name()), lines);
    }
    for values in &message.enum_type {
        enumerated(values, &format!("{name}.{}", values.name()), lines);
    }
}

fn enumerated(values: &EnumDescriptorProto, name: &str, lines: &mut BTreeSet<String>) {
    for value in &values.value {
        lines.insert(format!("value {name} {} {}", value.number(), value.name()));
    }
}

#[test]
fn version_skew_n_minus_1_nothing_that_a_release_said_means_something_else_today() {
    let today = today();
    for entry in std::fs::read_dir(recorded()).expect("recorded") {
        let path = entry.expect("readable").path();
        let text = std::fs::read_to_string(&path).expect("readable");
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let changed: Vec<&str> = lines.filter(|line| !today.contains(*line)).collect();
        assert!(
            changed.is_empty(),
            "{} is spoken by processes that are out there: {changed:#?}",
            path.display()
        );
    }
}

#[test]
fn the_wire_of_this_version_is_recorded() {
    let version = env!("CARGO_PKG_VERSION");
    let path = recorded().join(format!("{version}.txt"));
    let written = super::root().join(format!("target/wire-{version}.txt"));
    let mut text = String::from("# What is on the wire in this version.\n");
    for line in today() {
        text.push_str(&line);
        text.push('\n');
    }
    std::fs::write(&written, &text).expect("written");
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        kept == text,
        "not recorded: cp {} {}",
        written.display(),
        path.display()
    );
}
