//! Images as containers want them: the pull policy, one pull at a time per image, and what went
//! wrong in Kubernetes' words (Kubernetes: Images).

use std::collections::HashMap;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use parking_lot::Mutex;
use proto::cri;
use serde::Deserialize;

use super::Context;
use crate::environment::Sources;
use crate::events::NORMAL;
use crate::pod::{Container, Pod};
use crate::reference::Reference;

/// The pulls under way on a node.
#[derive(Clone, Default)]
pub struct Pulls(Arc<Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>>);

/// A container's image is not there.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error(
        "Failed to apply default image tag {0:?}: couldn't parse image name {0:?}: invalid reference format"
    )]
    Invalid(String),
    #[error("Container image {0:?} is not present with pull policy of Never")]
    Never(String),
    #[error("Failed to inspect image {image:?}: {}", why.message())]
    Inspect { image: String, why: crate::cri::Error },
    #[error("{}", why.message())]
    Pull { image: String, why: crate::cri::Error },
}

impl ImageError {
    /// The reason with which the container waits.
    pub fn reason(&self) -> &'static str {
        match self {
            ImageError::Invalid(_) => "InvalidImageName",
            ImageError::Never(_) => "ErrImageNeverPull",
            ImageError::Inspect { .. } => "ImageInspectError",
            ImageError::Pull { .. } => "ErrImagePull",
        }
    }

    /// The reason and the sentence of the event.
    pub fn event(&self) -> (&'static str, String) {
        match self {
            ImageError::Invalid(_) | ImageError::Inspect { .. } => {
                ("InspectFailed", self.to_string())
            }
            ImageError::Never(_) => ("ErrImageNeverPull", self.to_string()),
            ImageError::Pull { image, why } => {
                ("Failed", format!("Failed to pull image {image:?}: {}", why.message()))
            }
        }
    }
}

impl Pulls {
    /// The image, pulled where the policy asks for it.
    pub async fn ensure(
        &self,
        context: &Context,
        pod: &Pod,
        container: &Container,
        sources: &Sources,
    ) -> Result<(cri::ImageSpec, cri::Image), ImageError> {
        let image = &container.image;
        let name = with_tag(image).ok_or_else(|| ImageError::Invalid(image.clone()))?;
        let always = match container.image_pull_policy.as_deref() {
            Some(policy) => policy == "Always",
            None => name.ends_with(":latest"),
        };
        let spec = cri::ImageSpec {
            image: name.clone(),
            user_specified_image: image.clone(),
            ..Default::default()
        };
        let gate = self.0.lock().entry(name.clone()).or_default().clone();
        let _one_at_a_time = gate.lock().await;
        let inspect = async || {
            let found = context.runtime.image(&spec).await;
            found.map_err(|why| ImageError::Inspect { image: image.clone(), why })
        };
        let event = |reason: &str, message: String| {
            context.events.pod(pod, Some(&container.name), NORMAL, reason, &message);
        };
        // An image without a digest of some registry was loaded into the runtime: nobody else has it,
        // and a pull could only fail.
        let loaded = |image: &cri::Image| image.repo_digests.is_empty();
        if let Some(found) = inspect().await?.filter(|found| !always || loaded(found)) {
            let message = format!("Container image {image:?} already present on machine");
            event("Pulled", message);
            return Ok((resolved(&spec, &found), found));
        }
        if container.image_pull_policy.as_deref() == Some("Never") {
            return Err(ImageError::Never(image.clone()));
        }
        event("Pulling", format!("Pulling image {image:?}"));
        let started = context.clock.instant();
        let failed = |why| ImageError::Pull { image: image.clone(), why };
        let auth = auth(pod, &name, sources);
        context.runtime.pull(spec.clone(), auth).await.map_err(failed)?;
        let took = go_duration(context.clock.instant().duration_since(started).as_millis());
        let found = inspect().await?.ok_or_else(|| {
            failed(crate::cri::Error::new("ImageStatus", tonic::Status::not_found("no such image")))
        })?;
        event(
            "Pulled",
            format!(
                "Successfully pulled image {image:?} in {took} ({took} including waiting). \
                 Image size: {} bytes.",
                found.size
            ),
        );
        Ok((resolved(&spec, &found), found))
    }
}

/// Containers are made from exactly the image that was found, whatever becomes of its name.
fn resolved(spec: &cri::ImageSpec, found: &cri::Image) -> cri::ImageSpec {
    cri::ImageSpec { image: found.id.clone(), ..spec.clone() }
}

/// The name with `:latest` where it has neither tag nor digest; None where it is no image name.
fn with_tag(image: &str) -> Option<String> {
    let reference: Reference = image.parse().ok()?;
    let tagged = reference.digest.is_some()
        || image.rsplit('/').next().is_some_and(|last| last.contains(':'));
    Some(if tagged { image.to_string() } else { format!("{image}:latest") })
}

/// `1.234s` or `56ms`, as Go prints a duration.
fn go_duration(milliseconds: u128) -> String {
    match milliseconds {
        0..1000 => format!("{milliseconds}ms"),
        _ => {
            let seconds = format!("{}.{:03}", milliseconds / 1000, milliseconds % 1000);
            format!("{}s", seconds.trim_end_matches('0').trim_end_matches('.'))
        }
    }
}

#[derive(Deserialize)]
struct DockerConfig {
    auths: HashMap<String, DockerAuth>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct DockerAuth {
    username: String,
    password: String,
    auth: String,
}

/// The credentials for the image's registry in the pod's imagePullSecrets.
fn auth(pod: &Pod, image: &str, sources: &Sources) -> Option<cri::AuthConfig> {
    let registry = image.parse::<Reference>().ok()?.registry;
    let secrets = pod.spec.image_pull_secrets.iter();
    let secrets = secrets.filter_map(|secret| sources.secrets.get(&secret.name));
    let configs = secrets.filter_map(|data| {
        serde_json::from_slice::<DockerConfig>(data.get(".dockerconfigjson")?).ok()
    });
    let host = |key: &str| {
        let key = key.trim_start_matches("https://").trim_start_matches("http://");
        match key.split('/').next().unwrap_or_default() {
            // As `docker login` writes it.
            "index.docker.io" => "docker.io".to_string(),
            host => host.to_string(),
        }
    };
    let found = configs.flat_map(|config| config.auths).find(|(key, _)| host(key) == registry);
    let (_, found) = found?;
    let pair = STANDARD.decode(&found.auth).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let (username, password) = match pair.as_deref().and_then(|pair| pair.split_once(':')) {
        Some((username, password)) => (username.into(), password.into()),
        None => (found.username, found.password),
    };
    Some(cri::AuthConfig { username, password, ..Default::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let table = [
            ("busybox", Some("busybox:latest")),
            ("busybox:1", Some("busybox:1")),
            ("host:5000/a/b", Some("host:5000/a/b:latest")),
            ("host:5000/a/b:x", Some("host:5000/a/b:x")),
            ("Upper/Case", None),
            ("a b", None),
            ("", None),
        ];
        for (image, expected) in table {
            assert_eq!(with_tag(image).as_deref(), expected, "{image}");
        }
        assert_eq!([56, 1200, 2000, 61_001].map(go_duration), ["56ms", "1.2s", "2s", "61.001s"]);
    }
}
