//! Signatures: published vectors, and forgeries.

use axum::http::{HeaderName, HeaderValue};

use super::*;

const SECRET: &[u8] = b"It's a Secret to Everybody";
const BODY: &[u8] = b"Hello, World!";
const HEX: &str = "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
const NOW: Timestamp = Timestamp::from_millis(1_614_265_330_000);

fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in pairs {
        map.append(
            HeaderName::from_bytes(name.as_bytes()).unwrap(),
            HeaderValue::from_str(value).unwrap(),
        );
    }
    map
}

fn good(scheme: Scheme, secret: &[u8], pairs: &[(&str, &str)], body: &[u8]) -> bool {
    verify(scheme, &[secret.to_vec()], &headers(pairs), body, NOW).is_ok()
}

#[test]
fn published_vectors_verify() {
    let github = format!("sha256={HEX}");
    assert!(good(
        Scheme::GitHub,
        SECRET,
        &[("x-hub-signature-256", &github)],
        BODY
    ));
    let upper = format!("sha256={}", HEX.to_uppercase());
    assert!(good(
        Scheme::GitHub,
        SECRET,
        &[("x-hub-signature-256", &upper)],
        BODY
    ));
    assert!(good(
        Scheme::Gitea,
        SECRET,
        &[("x-gitea-signature", HEX)],
        BODY
    ));
    assert!(good(
        Scheme::Forgejo,
        SECRET,
        &[("x-forgejo-signature", HEX)],
        BODY
    ));
    for scheme in [Scheme::BitbucketCloud, Scheme::BitbucketDataCenter] {
        assert!(good(scheme, SECRET, &[("x-hub-signature", &github)], BODY));
    }
    let standard = [
        ("webhook-id", "msg_p5jXN8AQM9LWM0D4loKWxJek"),
        ("webhook-timestamp", "1614265330"),
        (
            "webhook-signature",
            "v1,AAAA v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
        ),
    ];
    let secret = b"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    for scheme in [Scheme::GitLabSigned, Scheme::Generic] {
        assert!(good(scheme, secret, &standard, br#"{"test": 2432232314}"#));
    }
    assert!(good(
        Scheme::GitLabToken,
        b"token",
        &[("x-gitlab-token", "token")],
        BODY
    ));
}

#[test]
fn hostile_h001_h002_a_missing_misformed_or_wrong_signature_is_refused() {
    let zero = format!("sha256={}", "0".repeat(64));
    let bare = HEX.to_owned();
    let short = format!("sha256={}", &HEX[1..]);
    let long = format!("sha256={HEX}00");
    let spaced = format!(" sha256={HEX}x");
    for value in [
        zero,
        bare,
        short,
        long,
        spaced,
        "sha256=".into(),
        String::new(),
    ] {
        assert!(
            !good(
                Scheme::GitHub,
                SECRET,
                &[("x-hub-signature-256", &value)],
                BODY
            ),
            "{value}"
        );
    }
    assert!(!good(Scheme::GitHub, SECRET, &[], BODY));
    let twice = format!("sha256={HEX}");
    let pairs = [
        ("x-hub-signature-256", twice.as_str()),
        ("x-hub-signature-256", twice.as_str()),
    ];
    assert!(
        !good(Scheme::GitHub, SECRET, &pairs, BODY),
        "a repeated header"
    );
    assert!(
        !good(Scheme::GitLabToken, b"", &[("x-gitlab-token", "")], BODY),
        "empty is not equal to empty"
    );
}

#[test]
fn hostile_h003_the_hook_record_chooses_the_scheme_not_the_header() {
    let other = format!("sha256={HEX}");
    assert!(!good(
        Scheme::GitHub,
        SECRET,
        &[("x-hub-signature", &other)],
        BODY
    ));
    assert!(!good(
        Scheme::GitHub,
        SECRET,
        &[("x-gitea-signature", HEX)],
        BODY
    ));
    assert!(!good(
        Scheme::BitbucketCloud,
        SECRET,
        &[("x-hub-signature-256", &other)],
        BODY
    ));
}

#[test]
fn hostile_h004_one_byte_more_is_another_body() {
    let value = format!("sha256={HEX}");
    assert!(!good(
        Scheme::GitHub,
        SECRET,
        &[("x-hub-signature-256", &value)],
        b"Hello, World!\n"
    ));
}

#[test]
fn hostile_h005_a_timestamp_outside_its_window_is_refused() {
    let secret = b"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    for timestamp in [
        "1614261730",
        "1614268930",
        "NaN",
        "1000000000000000000",
        "",
        "-1",
    ] {
        // Each is signed correctly; only the time is wrong.
        let body = b"{}";
        let key = STANDARD.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let mac = mac(&key, &[b"id", b".", timestamp.as_bytes(), b".", body]).unwrap();
        let signature = format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()));
        let pairs = [
            ("webhook-id", "id"),
            ("webhook-timestamp", timestamp),
            ("webhook-signature", &signature),
        ];
        assert!(!good(Scheme::Generic, secret, &pairs, body), "{timestamp}");
    }
}

#[test]
fn hostile_h006_a_good_gitea_signature_does_not_rescue_a_bad_forgejo_one() {
    let pairs = [
        ("x-forgejo-signature", &*"0".repeat(64)),
        ("x-gitea-signature", HEX),
    ];
    assert!(!good(Scheme::Forgejo, SECRET, &pairs, BODY));
}

#[test]
fn the_previous_secret_is_good_while_it_rotates() {
    let value = format!("sha256={HEX}");
    let headers = headers(&[("x-hub-signature-256", &value)]);
    let secrets = [b"new".to_vec(), SECRET.to_vec()];
    assert!(verify(Scheme::GitHub, &secrets, &headers, BODY, NOW).is_ok());
    assert!(verify(Scheme::GitHub, &secrets[..1], &headers, BODY, NOW).is_err());
}
