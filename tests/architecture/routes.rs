//! The OpenAPI document and the routes are the same thing.

#[test]
fn every_documented_route_says_what_it_answers_and_needs_a_token() {
    let api = serde_json::to_value(slipway_dispatcher::api::rest::openapi()).expect("JSON");
    let paths = api["paths"].as_object().expect("paths");
    assert!(paths.len() >= 25, "only {} paths", paths.len());
    for (path, methods) in paths {
        assert!(
            path.starts_with("/api/v1/"),
            "{path} is outside the versioned base"
        );
        for (method, operation) in methods.as_object().expect("methods") {
            let words = operation["summary"].as_str().unwrap_or_default();
            assert!(!words.is_empty(), "{method} {path} has no words");
            assert!(
                operation["security"].is_array(),
                "{method} {path} needs no token"
            );
            let answers = operation["responses"].as_object().expect("responses");
            assert!(!answers.is_empty(), "{method} {path} answers nothing");
        }
    }
}
