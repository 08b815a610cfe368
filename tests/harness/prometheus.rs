//! A real Prometheus that reads a page of numbers which the test writes.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::routing::get;

use crate::process::Process;
use crate::{eventually, free_address, require};

const UP: Duration = Duration::from_secs(30);

/// A Prometheus; ends with the value.
pub struct Prometheus {
    process: Process,
    folder: tempfile::TempDir,
    page: Arc<Mutex<String>>,
    /// Where it answers.
    pub address: SocketAddr,
}

impl Prometheus {
    /// Starts one that looks at the page twice a second; `None` where there is none.
    ///
    /// # Panics
    /// When it does not come up.
    pub async fn start() -> Option<Self> {
        let program = require("prometheus")?.program;
        slipway_daemon::start::install_crypto();
        let page = Arc::new(Mutex::new(String::new()));
        let told = Arc::clone(&page);
        let read = move || {
            let text = told.lock().unwrap_or_else(PoisonError::into_inner).clone();
            async move { text }
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.expect("a free port");
        let target = listener.local_addr().expect("bound");
        let served = axum::serve(listener, Router::new().route("/metrics", get(read)));
        slipway_daemon::spawn("metrics page", async move {
            let _until_the_test_ends = served.await;
        });
        let folder = tempfile::tempdir().expect("a folder");
        let config = folder.path().join("prometheus.yml");
        let text = format!(
            "global: {{scrape_interval: 500ms, scrape_timeout: 500ms}}\nscrape_configs:\n- job_name: shop\n  \
             static_configs: [{{targets: ['{target}']}}]\n"
        );
        std::fs::write(&config, text).expect("written");
        let address = free_address().expect("a free port");
        let args = [
            format!("--config.file={}", config.display()),
            format!(
                "--storage.tsdb.path={}",
                folder.path().join("data").display()
            ),
            format!("--web.listen-address={address}"),
            "--log.level=warn".to_owned(),
        ];
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let log = folder.path().join("prometheus.log");
        let process = Process::start(&program, &args, &[], &log);
        let prometheus = Self {
            process,
            folder,
            page,
            address,
        };
        let url = format!("http://{address}/-/ready");
        let ready = eventually("Prometheus is ready", UP, || async {
            let answer = reqwest::get(&url).await.ok()?;
            answer.status().is_success().then_some(())
        });
        if let Err(error) = ready.await {
            panic!("{error}: {}", prometheus.process.log());
        }
        Some(prometheus)
    }

    /// What the page says from now on, in the text format.
    pub fn says(&self, page: &str) {
        page.clone_into(&mut self.page.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Where its files are.
    #[must_use]
    pub fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }
}
