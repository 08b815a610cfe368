//! Pipeline files, good and hostile.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::build::RunsOn;

const FULL: &str = include_str!("../../../../tests/fixtures/pipelines/full.yml");

fn push() -> Facts {
    Facts {
        event: "push".into(),
        ref_name: "refs/heads/main".into(),
        sha: "abc1234def5678900000000000000000000000ab".into(),
        build_id: "01ARZ3NDEKTSV4RRFFQ69G5FAV".into(),
        number: 7,
        repo: "shop".into(),
        default_branch: "main".into(),
        files: Some(BTreeMap::from([("Cargo.lock".into(), "1".into())])),
        ..Facts::default()
    }
}

fn built(text: &str, facts: &Facts) -> Plan {
    match plan(text, facts) {
        Ok(Outcome::Build(plan, _)) => *plan,
        other => panic!("not a build: {other:#?}"),
    }
}

fn mistakes(text: &str) -> Vec<Mistake> {
    match plan(text, &push()) {
        Err(mistakes) => mistakes,
        Ok(outcome) => panic!("accepted: {outcome:#?}"),
    }
}

fn codes(text: &str) -> Vec<(String, u32)> {
    mistakes(text)
        .into_iter()
        .filter(Mistake::is_error)
        .map(|m| (m.code, m.at.line))
        .collect()
}

fn with_stage(body: &str) -> String {
    format!("version: 1\nstages:\n  a:\n    image: \"x:1\"\n    commands: [\"true\"]\n{body}")
}

#[test]
fn the_full_example_becomes_the_plan_that_it_describes() {
    let plan = built(FULL, &push());
    let names: Vec<&str> = plan.stages.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "compile",
            "lint",
            "unit_test-1.95",
            "unit_test-1.94",
            "integration_test",
            "audit",
            "docker_build",
            "report_failure"
        ]
    );
    let stage = |name: &str| plan.stages.iter().find(|s| s.name == name).unwrap();
    assert_eq!(stage("unit_test-1.94").spec.image, "rust:1.94");
    assert_eq!(
        stage("unit_test-1.94").group.as_ref().map(|g| g.limit),
        Some(1)
    );
    assert_eq!(stage("unit_test-1.95").spec.timeout_ms, 20 * 60 * 1_000);
    let needs: Vec<(&str, bool)> = stage("docker_build")
        .needs
        .iter()
        .map(|n| (n.stage.as_str(), n.optional))
        .collect();
    assert_eq!(
        needs,
        [
            ("compile", false),
            ("lint", false),
            ("unit_test-1.95", false),
            ("unit_test-1.94", false),
            ("integration_test", true)
        ]
    );
    let build = stage("docker_build").spec.build.as_ref().unwrap();
    assert_eq!(build.tags, ["registry.example/shop:abc1234"]);
    assert_eq!(build.args["VERSION"], "abc1234");
    assert!(stage("docker_build").at_most_once, "it holds a secret");
    assert!(
        !stage("integration_test").at_most_once,
        "it says idempotent"
    );
    assert!(stage("audit").skipped.is_some() && stage("audit").failure_ignored);
    assert_eq!(stage("report_failure").runs_on, RunsOn::Failure);
    assert_eq!(
        plan.group.as_ref().map(|g| g.name.as_str()),
        Some("shop-refs/heads/main")
    );
    assert!(stage("compile").spec.caches[0].key.starts_with("cargo-"));
    assert_eq!(
        stage("compile").spec.artifacts[0].rule,
        ArtifactKind::MustMatch
    );
    let deploy = plan.deploy.unwrap();
    assert_eq!(stage_of(&deploy.image), Some("docker_build"));
    assert_eq!(deploy.environments[1].steps[1].weight_bp, 1_000);
    assert!(deploy.environments[0].auto && deploy.environments[0].approval.is_none());
    assert!(deploy.environments[1].approval.is_some());
}

#[test]
fn an_event_that_on_does_not_name_is_not_wanted_and_a_schedule_is() {
    let tag = Facts {
        event: "tag".into(),
        ref_name: "refs/tags/v1".into(),
        ..push()
    };
    assert!(matches!(plan(FULL, &tag), Ok(Outcome::NotWanted(_))));
    let side = Facts {
        ref_name: "refs/heads/feature/x".into(),
        ..push()
    };
    assert!(matches!(plan(FULL, &side), Ok(Outcome::NotWanted(_))));
    let nightly = Facts {
        event: "cron".into(),
        cron: "nightly".into(),
        ..push()
    };
    let plan = built(FULL, &nightly);
    assert!(
        plan.stages
            .iter()
            .any(|s| s.name == "audit" && s.skipped.is_none())
    );
}

#[test]
fn unknown_changes_never_skip_a_stage() {
    let text = with_stage("    when: [{path: \"docs/**\"}]\n");
    let skipped = |changed: Option<Vec<String>>| {
        let facts = Facts { changed, ..push() };
        built(&text, &facts).stages[0].skipped.is_some()
    };
    assert!(!skipped(None));
    assert!(!skipped(Some(vec!["docs/a/b.md".into()])));
    assert!(skipped(Some(vec!["src/main.rs".into()])));
}

#[test]
fn every_mistake_is_collected_with_its_line_and_a_way_out() {
    let text = "version: 1\nstages:\n  build:\n    script: [make]\n    image: \"x:1\"\n    comands: [make]\n  test:\n    image: \"x:1\"\n    commands: [make]\n    needs: [biuld]\n    timeout: 5 minutes\n";
    let found = mistakes(text);
    let seen: Vec<(&str, u32)> = found.iter().map(|m| (m.code.as_str(), m.at.line)).collect();
    assert!(seen.contains(&("SLP0107", 4)), "{found:#?}");
    assert!(seen.contains(&("SLP0107", 6)), "{found:#?}");
    assert!(seen.contains(&("SLP0110", 10)), "{found:#?}");
    assert!(seen.contains(&("SLP0119", 11)), "{found:#?}");
    let fix = |line| {
        let mistake = found
            .iter()
            .find(|m| m.at.line == line && m.fix.is_some())
            .unwrap();
        mistake.fix.clone().unwrap()
    };
    assert_eq!(fix(4), "GitLab's `script` is `commands` here");
    assert_eq!(fix(6), "did you mean `commands`?");
    assert_eq!(fix(10), "did you mean `build`?");
}

#[test]
fn a_key_under_another_name_is_one_mistake_and_not_also_a_missing_one() {
    let stage = |keys: &str| format!("version: 1\nstages:\n  a: {{{keys}}}\n");
    for (text, hint) in [
        (stage("image: 'x:1', run: make"), "`run` is `commands` here"),
        (
            stage("image: 'x:1', comands: make"),
            "did you mean `commands`?",
        ),
        (
            stage("container: 'x:1', commands: make"),
            "`container.image` is `image` here",
        ),
        (
            stage("image: 'x:1', commands: make, cache: [{key: k, path: p}]"),
            "it is `paths` here",
        ),
    ] {
        let mut found = mistakes(&text);
        found.retain(Mistake::is_error);
        assert_eq!(found.len(), 1, "{text}: {found:#?}");
        assert_eq!(
            (found[0].code.as_str(), found[0].fix.as_deref()),
            ("SLP0107", Some(hint))
        );
    }
    // What is missing without a trace is still missing.
    let text = stage("image: 'x:1', labels: [gpu]");
    assert!(mistakes(&text).iter().any(|m| m.code == "SLP0108"));
    let list = "version: 1\nstages:\n  - name: a\n";
    assert_eq!(codes(list), [("SLP0105".to_owned(), 3)]);
}

#[test]
fn stages_as_a_list_is_explained() {
    let found = mistakes("version: 1\nstages: [build, test]\n");
    assert!(found[0].message.contains("not a list"), "{found:#?}");
}

#[test]
fn hostile_h028_h029_h030_bombs_are_refused_quickly() {
    let mut laughs = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
    for level in 1..10 {
        let refs = vec![format!("*a{}", level - 1); 10].join(",");
        laughs.push_str(&format!("a{level}: &a{level} [{refs}]\n"));
    }
    let mut merges = String::from("m0: &m0 {k: v}\n");
    for level in 1..27 {
        let below = level - 1;
        merges.push_str(&format!(
            "m{level}: &m{level}\n  <<: [*m{below}, *m{below}]\n"
        ));
    }
    for bomb in [laughs, "[".repeat(100_000), "{a: ".repeat(10_000), merges] {
        let found = mistakes(&bomb);
        assert!(
            found[0].code == "SLP0102" || found[0].code == "SLP0101",
            "{found:?}"
        );
    }
}

#[test]
fn hostile_h031_h033_h034_documents_cycles_and_sizes_are_refused() {
    assert_eq!(codes("version: 1\n---\nversion: 1\n")[0].0, "SLP0101");
    assert!(!codes("a: &a [*a]\n").is_empty());
    let large = format!("version: 1\nx-a: \"{}\"\n", "x".repeat(FILE_MAX));
    assert_eq!(codes(&large)[0].0, "SLP0102");
    let axis: Vec<String> = (0..100).map(|n| format!("\"{n}\"")).collect();
    let axis = axis.join(",");
    let matrix = with_stage(&format!(
        "    matrix: {{a: [{axis}], b: [{axis}], c: [{axis}]}}\n"
    ));
    assert_eq!(codes(&matrix), [("SLP0112".to_owned(), 6)]);
}

#[test]
fn hostile_h032_scalars_are_typed_strictly() {
    let text = with_stage(
        "    environment: {A: yes, B: no, C: 0777, D: 1_000, E: \"1.10\", F: NO, G: 12:30:45}\n",
    );
    let plan = built(&text, &push());
    let value = |name: &str| match &plan.stages[0].spec.environment[name] {
        EnvValue::Plain(text) => text.clone(),
        EnvValue::FromSecret(_) => String::new(),
    };
    for (name, text) in [
        ("A", "yes"),
        ("B", "no"),
        ("C", "0777"),
        ("D", "1_000"),
        ("E", "1.10"),
        ("F", "NO"),
        ("G", "12:30:45"),
    ] {
        assert_eq!(value(name), text);
    }
    assert_eq!(
        codes(&with_stage("    environment: {A: 1.10}\n")),
        [("SLP0105".to_owned(), 6)]
    );
    assert_eq!(
        codes(&with_stage("    idempotent: yes\n")),
        [("SLP0105".to_owned(), 6)]
    );
}

#[test]
fn hostile_h035_cycles_are_named() {
    let text = "version: 1\nstages:\n  a: {image: \"x:1\", commands: [x], needs: [b]}\n  b: {image: \"x:1\", commands: [x], needs: [c]}\n  c: {image: \"x:1\", commands: [x], needs: [a]}\n";
    let found = mistakes(text);
    assert_eq!(found[0].code, "SLP0111");
    assert_eq!(found[0].reason.as_deref(), Some("a → b → c → a"));
    assert_eq!(codes(&with_stage("    needs: [a]\n"))[0].0, "SLP0111");
}

#[test]
fn hostile_h019_an_attacker_chosen_name_never_becomes_a_shell_line() {
    for value in [
        "build.branch",
        "build.ref",
        "build[\"branch\"]",
        "build.tag",
    ] {
        let text = with_stage("").replace("\"true\"", &format!("'echo ${{{{ {value} }}}}'"));
        let found = mistakes(&text);
        assert_eq!(found[0].code, "SLP0114", "{value}: {found:#?}");
    }
    let text = with_stage("").replace("\"true\"", "'echo ${{ build.short_sha }}'");
    assert_eq!(
        built(&text, &push()).stages[0].spec.commands,
        ["echo abc1234"]
    );
}

#[test]
fn hostile_h039_h040_secrets_are_not_in_expressions_and_expressions_are_bounded() {
    for expression in [
        "secrets.X == 'a'",
        "toJSON(secrets)",
        &"(".repeat(400),
        &"!".repeat(900),
        &"[".repeat(100),
        "1 +",
        "unknown.thing",
        &"a".repeat(2_000),
    ] {
        let text = with_stage(&format!(
            "    when: [{{if: '{}'}}]\n",
            expression.replace('\'', "''")
        ));
        assert_eq!(codes(&text)[0].0, "SLP0113", "{expression}");
    }
    let text = with_stage("    environment: {A: {from_secret: OTHER/KEY}}\n");
    assert_eq!(codes(&text)[0].0, "SLP0117");
}

#[test]
fn hostile_h041_hidden_characters_are_refused_with_their_line() {
    for c in [
        '\u{202e}', '\u{2028}', '\u{2066}', '\u{7f}', '\u{85}', '\u{1}',
    ] {
        let text = format!("version: 1\n# a comment {c} here\nstages: {{}}\n");
        assert_eq!(codes(&text)[0], ("SLP0104".to_owned(), 2), "{c:?}");
    }
}

#[test]
fn hostile_h038_variables_are_plain_and_bounded() {
    for name in [
        "\"A=B\"",
        "\"\"",
        "\"BASH_FUNC_x%%\"",
        "SLIPWAY_X",
        "LD_PRELOAD",
    ] {
        let text = with_stage(&format!("    environment: {{{name}: x}}\n"));
        assert_eq!(codes(&text)[0].0, "SLP0117", "{name}");
    }
    let text = with_stage(&format!(
        "    environment: {{A: \"{}\"}}\n",
        "x".repeat(130 * 1024)
    ));
    assert_eq!(codes(&text)[0].0, "SLP0117");
    let undeclared = Facts {
        variables: BTreeMap::from([("PATH".into(), "/evil".into())]),
        ..push()
    };
    assert!(plan(&with_stage(""), &undeclared).is_err());
}

#[test]
fn hostile_h037_no_key_names_a_working_directory() {
    for key in ["working_directory", "working-directory", "workdir"] {
        for folder in [
            "/proc/self/fd/8",
            "/proc/1/root",
            "../../..",
            "sub",
            "a\\0b",
        ] {
            let found = mistakes(&with_stage(&format!("    {key}: \"{folder}\"\n")));
            assert_eq!(found.len(), 1, "{found:#?}");
            assert_eq!((found[0].code.as_str(), found[0].at.line), ("SLP0107", 6));
            let way_out = format!("{found:?}");
            assert!(way_out.contains("`cd <folder>`"), "{way_out}");
        }
    }
    let service = "    services: {db: {image: \"x:1\", working_dir: /proc/self/fd/8}}\n";
    assert_eq!(codes(&with_stage(service))[0].0, "SLP0107");
}

#[test]
fn hostile_h100_deploy_steps_outside_their_range_are_refused() {
    for steps in [
        "[]",
        "[{weight: 101}]",
        "[{weight: 50}]",
        "[{weight: 50}, {weight: 10}, {weight: 100}]",
        "[{weight: -1}, {weight: 100}]",
        "[{weight: 100, bake: \"-1s\"}]",
    ] {
        let text = FULL.replace(
            "      steps:\n        - { weight: 1, bake: 5m }\n        - { weight: 10, bake: 5m }\n        - { weight: 100 }\n",
            &format!("      steps: {steps}\n"),
        );
        assert!(!codes(&text).is_empty(), "{steps}");
    }
}

#[test]
fn a_fork_gets_the_strict_sandbox_whatever_its_file_says() {
    let fork = Facts {
        untrusted: true,
        ..push()
    };
    let text = with_stage("    sandbox: trusted\n");
    assert_eq!(built(&text, &fork).stages[0].spec.sandbox, Sandbox::Strict);
}

#[test]
fn the_schema_knows_every_key_and_refuses_others() {
    let schema = json_schema();
    let value = schema.as_value();
    assert_eq!(
        value["properties"]["stages"]["additionalProperties"]["additionalProperties"],
        false
    );
    assert!(value["properties"]["deploy"]["properties"]["environments"].is_object());
}

#[test]
fn commands_that_no_shell_would_take_at_once_are_refused() {
    let of = |count: usize, command: &str| {
        let lines = format!("      - \"{command}\"\n").repeat(count);
        format!("version: 1\nstages:\n  a:\n    image: \"x:1\"\n    commands:\n{lines}")
    };
    assert_eq!(
        codes(&of(1, &"x".repeat(123_000))),
        [("SLP0106".to_owned(), 3)]
    );
    assert_eq!(codes(&of(5_000, "''''")), [("SLP0106".to_owned(), 3)]);
    assert_eq!(built(&of(1, &"x".repeat(100_000)), &push()).stages.len(), 1);
    assert_eq!(built(&of(500, "cargo test"), &push()).stages.len(), 1);
}

#[test]
fn a_key_that_nothing_acts_on_yet_is_said_to_have_no_effect() {
    let text = "version: 1\ndefaults:\n  clone: {submodules: true, lfs: false}\nstages:\n  a:\n    image: \"x:1\"\n    commands: [make]\n    cache: {key: k, paths: [target]}\n  b:\n    build:\n      tags: [\"h.example/x:1\"]\n      platforms: [linux/amd64, linux/arm64]\n";
    let Ok(Outcome::Build(_, warnings)) = plan(text, &push()) else {
        panic!("it is a good file");
    };
    let seen: Vec<(&str, u32)> = warnings
        .iter()
        .filter(|w| w.code == "SLP0205")
        .map(|w| {
            (
                w.message.split(" has").next().unwrap_or_default(),
                w.at.line,
            )
        })
        .collect();
    let platforms = "every platform of `build.platforms` but the first";
    assert_eq!(seen, [("`clone.submodules`", 3), (platforms, 11)]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_text_is_planned_or_refused_and_never_panics(text in "\\PC{0,200}") {
        let _total = plan(&text, &push());
    }

    #[test]
    fn a_damaged_file_is_planned_or_refused_and_never_panics(at in 0..FULL.len(), noise in "[\\PC\n]{0,8}") {
        if FULL.is_char_boundary(at) {
            let text = format!("{}{noise}{}", &FULL[..at], &FULL[at..]);
            let first = plan(&text, &push());
            prop_assert_eq!(first, plan(&text, &push()), "same text, same plan");
        }
    }

    #[test]
    fn random_graphs_have_a_cycle_exactly_when_they_are_refused(edges in proptest::collection::vec((0..12_usize, 0..12_usize), 0..30)) {
        let mut text = String::from("version: 1\nstages:\n");
        for stage in 0..12 {
            let needs: std::collections::BTreeSet<String> = edges.iter().filter(|(from, to)| *from == stage && from != to).map(|(_, to)| format!("s{to}")).collect();
            let needs: Vec<String> = needs.into_iter().collect();
            text.push_str(&format!("  s{stage}: {{image: \"x:1\", commands: [x], needs: [{}]}}\n", needs.join(", ")));
        }
        // Kahn's algorithm as the second opinion.
        let mut left: std::collections::BTreeSet<usize> = (0..12).collect();
        while let Some(free) = left.iter().copied().find(|s| !edges.iter().any(|(from, to)| from == s && from != to && left.contains(to))) {
            left.remove(&free);
        }
        prop_assert_eq!(plan(&text, &push()).is_err(), !left.is_empty());
    }
}
