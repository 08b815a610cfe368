//! The log of a build as a live stream, and what it is after a reader lost its connection.

use std::time::Duration;

use bytes::Bytes;
use reqwest::Method;
use serde_json::Value;
use slipway_agent::sandbox::fake::Script;
use slipway_tests::cluster::FAKE_URL;
use slipway_tests::{Cluster, Rest};

use crate::ZERO;

const SOON: Duration = Duration::from_secs(30);
const PIPELINE: &str = "version: 1\non:\n  push:\ndefaults:\n  image: slipway-busybox:1\nstages:\n  one:\n    commands: [say one]\n  two:\n    needs: [one]\n    commands: [say two]\n  three:\n    needs: [two]\n    commands: [say three]\n";

/// One server-sent event.
#[derive(Debug)]
struct Event {
    name: String,
    id: String,
    data: Value,
}

/// Reads the stream to its end, from where `last` says.
async fn follow(rest: &Rest, build: &str, last: Option<&str>) -> Vec<Event> {
    let path = format!("/builds/{build}/logs?follow=1");
    let mut request = rest.request(Method::GET, &path);
    if let Some(last) = last {
        request = request.header("last-event-id", last);
    }
    let answer = rest.send(request).await.expect("a stream that ends");
    assert_eq!(answer.headers["content-type"], "text/event-stream");
    let field = |event: &str, name: &str| {
        let lines = event.lines();
        let mut found = lines.filter_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        found.next().unwrap_or_default().to_owned()
    };
    answer
        .text
        .split("\n\n")
        .filter(|event| !event.trim().is_empty() && !event.starts_with(':'))
        .map(|event| Event {
            name: field(event, "event"),
            id: field(event, "id"),
            data: serde_json::from_str(&field(event, "data")).expect("JSON"),
        })
        .collect()
}

fn text(events: &[Event]) -> String {
    let output = events.iter().filter(|event| event.name == "output");
    let texts = output.map(|event| event.data["text"].as_str().expect("a text"));
    texts.collect()
}

#[tokio::test]
async fn a_reader_that_comes_back_reads_on_where_it_was_and_nothing_twice() {
    let cluster = Cluster::start().await;
    for word in ["one", "two", "three"] {
        let output = format!("{word} begins\n{}{word} ends\n", "x".repeat(200_000));
        let script = Script {
            output: Bytes::from(output),
            ..Script::default()
        };
        cluster.sandbox.script(&format!("say {word}"), script);
    }
    let repo = cluster.rest.add_repository(FAKE_URL).await.expect("added");
    let hook = cluster.rest.add_hook(&repo, "github").await.expect("made");
    let sha = cluster.commit(1, PIPELINE);
    let body = hook.push_body(ZERO, &sha);
    hook.deliver(&cluster.rest, "d", body).await.expect("taken");
    let row = cluster.rest.decided(&hook, "d", SOON).await;
    let row = row.expect("decided");
    let build = row["build_id"].as_str().expect("built");
    let live = tokio::time::timeout(SOON, follow(&cluster.rest, build, None));
    let live = live.await.expect("it ends with the build");
    let whole = text(&live);
    for word in ["one", "two", "three"] {
        for line in ["begins", "ends"] {
            let words = format!("{word} {line}\n");
            assert_eq!(whole.matches(&words).count(), 1, "{words}");
        }
    }
    assert_eq!(live.last().map(|event| event.name.as_str()), Some("end"));
    let outputs: Vec<&Event> = live.iter().filter(|event| event.name == "output").collect();
    assert!(outputs.len() >= 3, "every stage was shown");
    for (number, last) in outputs.iter().enumerate() {
        let rest = follow(&cluster.rest, build, Some(&last.id)).await;
        let seen: String = outputs[..=number]
            .iter()
            .map(|event| event.data["text"].as_str().expect("a text"))
            .collect();
        assert!(
            format!("{seen}{}", text(&rest)) == whole,
            "after {}: something is missing or comes twice",
            last.id
        );
    }
    cluster.stop().await;
}
