//! Who may do what: role × route, over every route that is documented.

use std::collections::BTreeSet;

use reqwest::Method;
use serde_json::{Value, json};
use slipway_core::access::{Deed, Role};
use slipway_tests::Cluster;
use slipway_tests::cluster::FAKE_URL;

const ROLES: [Role; 7] = [
    Role::Viewer,
    Role::Developer,
    Role::Maintainer,
    Role::Approver,
    Role::Deployer,
    Role::Admin,
    Role::Auditor,
];

/// Every route with the deed it is. A route that is not here fails the test.
#[expect(clippy::too_many_lines, reason = "a table: one row per route")]
fn table() -> Vec<(Method, &'static str, Deed, Value)> {
    let (get, post, put) = (Method::GET, Method::POST, Method::PUT);
    let none = Value::Null;
    let read = |path| (get.clone(), path, Deed::Read, none.clone());
    let steer_build = |path| (post.clone(), path, Deed::SteerBuild, none.clone());
    let steer = |path| {
        (
            put.clone(),
            path,
            Deed::SteerDeployment,
            json!({"reason": "because"}),
        )
    };
    vec![
        read("/builds"),
        (
            post.clone(),
            "/builds",
            Deed::SteerBuild,
            json!({"repo_url": FAKE_URL}),
        ),
        read("/builds/{build_id}"),
        read("/builds/{build_id}/stages"),
        read("/builds/{build_id}/tests"),
        read("/builds/{build_id}/logs"),
        steer_build("/builds/{build_id}/cancel"),
        steer_build("/builds/{build_id}/retry"),
        read("/artifacts/{build_id}"),
        read("/artifacts/{build_id}/{artifact_id}"),
        read("/deployments"),
        (
            post.clone(),
            "/deployments",
            Deed::StartDeployment,
            json!({"build_id": "x", "target_env": "p"}),
        ),
        read("/deployments/{deployment_id}"),
        read("/deployments/{deployment_id}/events"),
        read("/deployments/{deployment_id}/health"),
        read("/environments"),
        (
            put.clone(),
            "/deployments/{deployment_id}/approve",
            Deed::Approve,
            json!({}),
        ),
        (
            put.clone(),
            "/deployments/{deployment_id}/reject",
            Deed::Approve,
            json!({"reason": "because"}),
        ),
        (
            put.clone(),
            "/deployments/{deployment_id}/rollback",
            Deed::RollBack,
            json!({"reason": "because"}),
        ),
        (
            put.clone(),
            "/deployments/{deployment_id}/abort",
            Deed::RollBack,
            json!({"reason": "because"}),
        ),
        steer("/deployments/{deployment_id}/pause"),
        steer("/deployments/{deployment_id}/resume"),
        steer("/deployments/{deployment_id}/promote"),
        (
            put.clone(),
            "/deployments/{deployment_id}/retry",
            Deed::StartDeployment,
            json!({"reason": "because"}),
        ),
        read("/deployments/{deployment_id}/replay"),
        read("/feature-flags"),
        (
            post.clone(),
            "/feature-flags",
            Deed::Maintain,
            json!({"name": "new-basket"}),
        ),
        read("/feature-flags/{flag_id}/status"),
        (
            Method::PATCH,
            "/feature-flags/{flag_id}",
            Deed::Maintain,
            json!({"enabled": true}),
        ),
        (
            Method::DELETE,
            "/feature-flags/{flag_id}",
            Deed::Maintain,
            none.clone(),
        ),
        read("/repositories"),
        (
            post.clone(),
            "/repositories",
            Deed::Maintain,
            json!({"repo_url": "ftp://x/y"}),
        ),
        (
            post.clone(),
            "/repositories/{repo_id}/hooks",
            Deed::Maintain,
            json!({"scheme": "github"}),
        ),
        read("/repositories/{repo_id}/secrets"),
        (
            put.clone(),
            "/repositories/{repo_id}/secrets/{name}",
            Deed::Maintain,
            json!({"value": "v"}),
        ),
        read("/hooks/{hook_id}/deliveries"),
        (
            post.clone(),
            "/hooks/{hook_id}/deliveries/{id}/replay",
            Deed::Maintain,
            none.clone(),
        ),
        read("/agents"),
        (
            post.clone(),
            "/agents/{agent_id}/drain",
            Deed::Administer,
            none.clone(),
        ),
        (
            Method::DELETE,
            "/agents/{agent_id}",
            Deed::Administer,
            none.clone(),
        ),
        (
            post.clone(),
            "/agents/{agent_id}/resume",
            Deed::Administer,
            none.clone(),
        ),
        (
            post.clone(),
            "/agents/{agent_id}/resume",
            Deed::Administer,
            none.clone(),
        ),
        read("/pools"),
        read("/pools/{pool}"),
        read("/pools/{pool}/explain"),
        read("/pools/{pool}/metric"),
        (
            put.clone(),
            "/pools/{pool}",
            Deed::Administer,
            json!({"provider": {"kind": "process"}, "max": 1_000}),
        ),
        (
            Method::DELETE,
            "/pools/{pool}",
            Deed::Administer,
            none.clone(),
        ),
        (
            post.clone(),
            "/agents/join-tokens",
            Deed::Administer,
            json!({}),
        ),
        read("/queue"),
        read("/queue/{stage_id}"),
        (get.clone(), "/tokens", Deed::Administer, none.clone()),
        (
            post.clone(),
            "/tokens",
            Deed::Administer,
            json!({"subject": "x", "roles": ["nobody"]}),
        ),
        (
            Method::DELETE,
            "/tokens/{token_id}",
            Deed::Administer,
            none.clone(),
        ),
        (get.clone(), "/audit", Deed::ReadAudit, none.clone()),
    ]
}

/// An id that names nothing.
fn filled(path: &str) -> String {
    let mut out = String::new();
    for (number, part) in path.split('/').enumerate() {
        if number > 0 {
            out.push('/');
        }
        out.push_str(if part.starts_with('{') {
            "01ARZ3NDEKTSV4RRFFQ69G5FAV"
        } else {
            part
        });
    }
    out
}

#[test]
fn hostile_h075_every_documented_route_has_a_row() {
    let api = serde_json::to_value(slipway_dispatcher::api::rest::openapi()).unwrap();
    let mut documented = BTreeSet::new();
    for (path, methods) in api["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys() {
            let path = path.trim_start_matches("/api/v1").to_owned();
            documented.insert(format!("{} {path}", method.to_uppercase()));
        }
    }
    let rows: BTreeSet<String> = table()
        .into_iter()
        .map(|(method, path, _, _)| format!("{method} {path}"))
        .collect();
    let missing: Vec<_> = documented.difference(&rows).collect();
    let gone: Vec<_> = rows.difference(&documented).collect();
    assert!(
        missing.is_empty() && gone.is_empty(),
        "no row: {missing:?}; no route: {gone:?}"
    );
}

#[tokio::test]
async fn hostile_h075_each_role_may_do_its_deeds_and_no_others() {
    let cluster = Cluster::start().await;
    let mut wrong = Vec::new();
    for role in ROLES {
        let name = format!("{role}-1");
        let client = cluster.rest.as_role(&name, &[role.as_str()]).await.unwrap();
        for (method, path, deed, body) in table() {
            let body = (!body.is_null()).then_some(body);
            let answer = client
                .call(method.clone(), &filled(path), body)
                .await
                .unwrap();
            let refused = answer.status == 403;
            if refused == role.allows(deed) || answer.status == 401 || answer.status >= 500 {
                wrong.push(format!(
                    "{role}: {method} {path}: {} {}",
                    answer.status, answer.text
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    cluster.stop().await;
}

#[tokio::test]
async fn hostile_h075_without_a_good_token_nothing_is_answered() {
    let cluster = Cluster::start().await;
    let made = cluster
        .rest
        .post("/tokens", json!({"subject": "x", "roles": ["admin"]}))
        .await
        .unwrap();
    let revoked = cluster.rest.with(made["token"].as_str().unwrap());
    let path = format!("/tokens/{}", made["token_id"].as_str().unwrap());
    let gone = cluster
        .rest
        .call(Method::DELETE, &path, None)
        .await
        .unwrap();
    assert_eq!(gone.status, 204);
    let strangers = [
        cluster.rest.with("slp_nobody"),
        cluster.rest.with(""),
        cluster.rest.with(&"x".repeat(4_096)),
        revoked,
    ];
    for (method, path, _, body) in table() {
        for stranger in &strangers {
            let body = (!body.is_null()).then_some(body.clone());
            let answer = stranger
                .call(method.clone(), &filled(path), body)
                .await
                .unwrap();
            assert_eq!(answer.status, 401, "{method} {path}");
            assert_eq!(answer.code(), "not_authenticated");
        }
        // The aliases without a version are the same handlers behind the same check.
        let bare = format!("{}{}", cluster.rest.base, filled(path));
        let response = cluster
            .rest
            .http()
            .request(method.clone(), bare)
            .send()
            .await
            .unwrap();
        assert_eq!(response.status().as_u16(), 401, "{method} {path}");
    }
    let in_query = format!(
        "{}/api/v1/builds?access_token={}",
        cluster.rest.base, cluster.up.token
    );
    let answer = cluster.rest.http().get(in_query).send().await.unwrap();
    assert_eq!(
        answer.status().as_u16(),
        401,
        "a token in an address is no token"
    );
    cluster.stop().await;
}
