//! Making images present: policies, one pull per image at a time, waiting longer after failures.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, Pod, Secret};
use parking_lot::Mutex;
use trierarch_images::{Image, Progress, Reference, RegistryOptions, Store};

use super::backoff::{Backoff, KUBELET};
use super::events::Recorder;
use super::observed::Waiting;
use super::pull_token::PullToken;
use crate::clock;

/// Makes images present on the node.
pub struct ImageManager {
    store: Store,
    registries: RegistryOptions,
    /// What the masters' registry is asked with.
    token: PullToken,
    events: Recorder,
    backoff: Mutex<Backoff<String>>,
    pulls: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

impl ImageManager {
    /// A manager of the images in `store`.
    pub fn new(store: Store, registries: RegistryOptions, token: PullToken, events: Recorder) -> Self {
        Self { store, registries, token, events, backoff: Mutex::new(Backoff::new(KUBELET)), pulls: Mutex::default() }
    }

    /// The content store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The container's image, pulled if its policy says so.
    ///
    /// # Errors
    /// Why the container has to wait, as its status says it.
    pub async fn ensure(&self, pod: &Pod, container: &Container, secrets: &[Secret]) -> Result<Image, Waiting> {
        let name = container.image.clone().unwrap_or_default();
        let wait = |reason: &str, message: String, seconds: i64| Waiting {
            reason: reason.to_owned(),
            message,
            retry_at: Some(clock::now() + jiff::SignedDuration::from_secs(seconds)),
        };
        let reference = match Reference::parse(&name) {
            Ok(reference) => reference,
            Err(error) => {
                let message = format!("Failed to apply default image tag {name:?}: couldn't parse image name {name:?}: {error}");
                self.events.pod(pod, Some(&container.name), true, "InspectFailed", message.clone());
                return Err(wait("InvalidImageName", message, 10));
            }
        };
        let policy = container.image_pull_policy.as_deref().unwrap_or("IfNotPresent");
        let present = self.present(&reference, &name).await;
        if let (Some(image), true) = (&present, policy != "Always") {
            self.events.pod(
                pod,
                Some(&container.name),
                false,
                "Pulled",
                format!("Container image {name:?} already present on machine and can be accessed by the pod"),
            );
            return Ok(image.clone());
        }
        if policy == "Never" {
            let message = format!("Container image {name:?} is not present with pull policy of Never");
            self.events.pod(pod, Some(&container.name), true, "ErrImageNeverPull", message.clone());
            return Err(wait("ErrImageNeverPull", message, 10));
        }
        let key = format!("{}_{name}", pod.metadata.uid.as_deref().unwrap_or_default());
        let held = { self.backoff.lock().get(&key) };
        if let Some(held) = held.filter(|w| clock::now() < w.since + w.length) {
            return Err(back_off(&name, "", held.since + held.length));
        }
        let gate = Arc::clone(self.pulls.lock().entry(name.clone()).or_default());
        let turn = gate.lock().await;
        self.events.pod(pod, Some(&container.name), false, "Pulling", format!("Pulling image {name:?}"));
        let started = clock::instant_now();
        let mut options = self.token.authenticated(&self.registries).await;
        for secret in secrets {
            let data = secret.data.iter().flatten().find(|(key, _)| key.as_str() == ".dockerconfigjson" || key.as_str() == ".dockercfg");
            if let Some((_, json)) = data
                && let Err(error) = options.keychain.add_docker_config(&json.0)
            {
                tracing::warn!(name = secret.metadata.name, %error, "Ignored an unreadable pull secret");
            }
        }
        let pulled = trierarch_images::pull(&self.store, &reference, &options, Progress::none()).await;
        drop(turn);
        match pulled {
            Ok(image) => {
                self.backoff.lock().succeeded(&key);
                let took = started.elapsed();
                let message = format!(
                    "Successfully pulled image {name:?} in {took:.3?} ({took:.3?} including waiting). Image size: {} bytes.",
                    image.size_bytes
                );
                self.events.pod(pod, Some(&container.name), false, "Pulled", message);
                Ok(image)
            }
            Err(error) => {
                let text = trierarch_images::chain(&error);
                let until = self.backoff.lock().failed(key, clock::now());
                self.events.pod(pod, Some(&container.name), true, "Failed", format!("Failed to pull image {name:?}: {text}"));
                self.events.pod(pod, Some(&container.name), true, "Failed", "Error: ErrImagePull");
                Err(Waiting { reason: "ErrImagePull".to_owned(), message: text, retry_at: Some(until) })
            }
        }
    }

    async fn present(&self, reference: &Reference, name: &str) -> Option<Image> {
        let (store, reference, name) = (self.store.clone(), reference.clone(), name.to_owned());
        let found = tokio::task::spawn_blocking(move || match store.get(&reference) {
            Ok(Some(image)) => Ok(Some(image)),
            _ => store.find(&name),
        });
        found.await.ok()?.ok().flatten()
    }
}

/// What a container shows between two attempts to pull its image.
pub fn back_off(image: &str, error: &str, until: jiff::Timestamp) -> Waiting {
    let message = if error.is_empty() {
        format!("Back-off pulling image {image:?}")
    } else {
        format!("Back-off pulling image {image:?}: ErrImagePull: {error}")
    };
    Waiting { reason: "ImagePullBackOff".to_owned(), message, retry_at: Some(until) }
}
