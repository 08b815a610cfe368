//! Who logs in at which image registry: what the settings name, then what the caller provides.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::FutureExt as _;
use slipway_daemon::Clock;
use slipway_docker::Credentials;
use slipway_registry::{Ecr, EcrSettings, ImageRegistry, Login, Oci, Registries};

use crate::config::Config;
use crate::sandbox::docker::Logins;

/// Puts the logins of the settings before `others`.
pub(crate) async fn configured(config: &Config, clock: &Clock, others: Logins) -> Logins {
    if config.registries.is_empty() && config.ecr.is_empty() {
        return others;
    }
    let fixed: BTreeMap<String, Login> = config
        .registries
        .iter()
        .map(|(host, login)| {
            let login = Login {
                username: login.username.clone(),
                password: login.password.clone(),
            };
            (host.clone(), login)
        })
        .collect();
    let mut ecr = Vec::new();
    for setting in &config.ecr {
        let settings = EcrSettings {
            host: setting.host.clone(),
            region: setting.region.clone(),
            endpoint: setting.endpoint.clone(),
            key_pair: None,
        };
        let clock = clock.clone();
        ecr.push(Ecr::open(&settings, Arc::new(move || clock.now())).await);
    }
    let registries = Arc::new(Registries::new(Oci::new(fixed), ecr));
    Arc::new(move |host: &str| {
        let (registries, host) = (Arc::clone(&registries), host.to_owned());
        let others = Arc::clone(&others);
        async move {
            match registries.credentials(&host).await {
                Ok(Some(login)) => Some(Credentials {
                    username: login.username,
                    password: login.password,
                }),
                Ok(None) => others(&host).await,
                // The push or pull says what is missing; here it is only told why.
                Err(error) => {
                    tracing::warn!(%error, "no login for an image registry");
                    None
                }
            }
        }
        .boxed()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_settings_come_first_and_the_caller_answers_for_the_rest() {
        let mut config = Config::in_dir(std::path::Path::new("/tmp/x"));
        let login = crate::config::LoginSetting {
            username: "ci".to_owned(),
            password: "p".to_owned(),
        };
        config.registries.insert("a.example".to_owned(), login);
        let others: Logins = Arc::new(|host: &str| {
            let known = (host == "b.example").then(|| Credentials {
                username: "other".to_owned(),
                password: "q".to_owned(),
            });
            futures::future::ready(known).boxed()
        });
        let logins = configured(&config, &Clock::system(), others).await;
        let user = |host: &'static str| {
            let asked = logins(host);
            async move { asked.await.map(|login| login.username) }
        };
        assert_eq!(user("a.example").await.as_deref(), Some("ci"));
        assert_eq!(user("b.example").await.as_deref(), Some("other"));
        assert_eq!(user("c.example").await, None);
    }
}
