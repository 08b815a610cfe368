//! One test per tool.

use slipway_core::cache::remote::Tool;

use crate::Place;

const HELLO: &str = "int hello(int x) { return x * 7; }\n";

#[tokio::test]
async fn ccache_hits_what_an_earlier_attempt_left() {
    let script = "export CCACHE_DIR=$PWD/.ccache\nccache gcc -O2 -c hello.c\nccache --print-stats";
    let place = Place::new().await;
    let [first, second] = place
        .twice(Tool::Ccache, &[("hello.c", HELLO)], script)
        .await;
    assert!(
        first.printed.contains("remote_storage_hit\t0"),
        "{first:#?}"
    );
    assert!(
        second.printed.contains("remote_storage_miss\t0"),
        "{second:#?}"
    );
    assert_eq!(second.misses, 0);
}

#[tokio::test]
#[ignore = "make cache-clients"]
async fn sccache_hits_what_an_earlier_attempt_left() {
    let script = "export SCCACHE_DIR=$PWD/.sccache SCCACHE_SERVER_PORT=4327 SCCACHE_IDLE_TIMEOUT=60\n\
                  trap 'sccache --stop-server >/dev/null 2>&1 || true' EXIT\n\
                  sccache --start-server\n\
                  sccache gcc -O2 -c hello.c -o hello.o\n\
                  sccache --show-stats";
    let place = Place::new().await;
    let [_, second] = place
        .twice(Tool::Sccache, &[("hello.c", HELLO)], script)
        .await;
    let hit = |line: &str| line.starts_with("Cache hits ") && line.trim_end().ends_with(" 1");
    assert!(second.printed.lines().any(hit), "{second:#?}");
}

#[tokio::test]
#[ignore = "make cache-clients"]
async fn turborepo_hits_what_an_earlier_attempt_left() {
    let files = [
        (
            "package.json",
            r#"{"name": "root", "private": true, "packageManager": "npm@9.2.0", "workspaces": ["packages/*"]}"#,
        ),
        (
            "package-lock.json",
            r#"{"name": "root", "lockfileVersion": 3, "requires": true, "packages": {"": {"name": "root", "workspaces": ["packages/*"]}, "node_modules/a": {"resolved": "packages/a", "link": true}, "packages/a": {"version": "1.0.0"}}}"#,
        ),
        (
            "turbo.json",
            r#"{"tasks": {"build": {"outputs": ["dist/**"]}}}"#,
        ),
        (
            "packages/a/package.json",
            r#"{"name": "a", "version": "1.0.0", "scripts": {"build": "mkdir -p dist && echo made > dist/out"}}"#,
        ),
    ];
    let script = "git init -q . && git add -A\n\
                  export TURBO_TELEMETRY_DISABLED=1\n\
                  turbo run build --cache=remote:rw\n\
                  cat packages/a/dist/out";
    let place = Place::new().await;
    let [first, second] = place.twice(Tool::Turborepo, &files, script).await;
    assert!(first.printed.contains("cache miss"), "{first:#?}");
    assert!(second.printed.contains("FULL TURBO"), "{second:#?}");
}

#[tokio::test]
#[ignore = "make cache-clients"]
async fn nx_hits_what_an_earlier_attempt_left() {
    let files = [
        (
            "package.json",
            r#"{"name": "root", "private": true, "workspaces": ["packages/*"]}"#,
        ),
        (
            "nx.json",
            r#"{"analytics": false, "neverConnectToCloud": true, "targetDefaults": {"build": {"cache": true, "outputs": ["{projectRoot}/dist"]}}}"#,
        ),
        (
            "packages/a/package.json",
            r#"{"name": "a", "version": "1.0.0", "scripts": {"build": "mkdir -p dist && echo made > dist/out"}}"#,
        ),
    ];
    let script = "export NX_DAEMON=false NX_TUI=false NX_NO_CLOUD=true CI=true\n\
                  git init -q . && mkdir -p node_modules && ln -s $(npm root -g)/nx node_modules/nx\n\
                  nx run a:build\n\
                  cat packages/a/dist/out";
    let place = Place::new().await;
    let [_, second] = place.twice(Tool::Nx, &files, script).await;
    assert!(second.printed.contains("remote cache"), "{second:#?}");
}

#[tokio::test]
#[ignore = "make cache-clients"]
async fn bazel_hits_what_an_earlier_attempt_left() {
    let files = [
        ("WORKSPACE", ""),
        (
            "BUILD",
            "genrule(name = \"made\", srcs = [\"in\"], outs = [\"out\"], cmd = \"sed s/a/b/ $< > $@\")\n",
        ),
        ("in", "a\n"),
    ];
    let script = "bazel --batch --output_user_root=$PWD/../bazel build --noshow_progress \
                  --spawn_strategy=local --genrule_strategy=local \
                  --remote_cache=$SLIPWAY_CACHE_URL/bazel \
                  \"--remote_header=Authorization=Bearer $SLIPWAY_CACHE_TOKEN\" //:made\n\
                  cat bazel-bin/out\nrm -rf $PWD/../bazel";
    let place = Place::new().await;
    let [_, second] = place.twice(Tool::Bazel, &files, script).await;
    assert!(second.printed.contains("remote cache hit"), "{second:#?}");
}

#[tokio::test]
#[ignore = "make cache-clients"]
async fn gradle_hits_what_an_earlier_attempt_left() {
    let settings = "buildCache {\n  local { enabled = false }\n  remote(HttpBuildCache) {\n    \
                    url = System.getenv('SLIPWAY_CACHE_URL') + '/cache/'\n    push = true\n    \
                    credentials { username = 'slipway'; password = System.getenv('SLIPWAY_CACHE_TOKEN') }\n  }\n}\n";
    let build = "task made(type: Made) { source = file('in'); made = file('out') }\n\
                 @CacheableTask class Made extends DefaultTask {\n  \
                 @InputFile @PathSensitive(PathSensitivity.RELATIVE) File source\n  @OutputFile File made\n  \
                 @TaskAction void make() { made.text = source.text.toUpperCase() }\n}\n";
    let files = [
        ("settings.gradle", settings),
        ("build.gradle", build),
        ("in", "made\n"),
    ];
    let script =
        "gradle --no-daemon --build-cache -g $PWD/.gradle-home --console plain made\ncat out";
    let place = Place::new().await;
    let [_, second] = place.twice(Tool::Gradle, &files, script).await;
    assert!(second.printed.contains("FROM-CACHE"), "{second:#?}");
}
