//! Images as containers want them: the pull policy, one pull at a time per image, and what went
//! wrong in Kubernetes' words (Kubernetes: Images).

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use proto::cri;
use tokio::sync::Semaphore;

use super::Context;
use crate::cri::Error;
use crate::environment::Sources;
use crate::events::NORMAL;
use crate::images::credentials::{self, Credential};
use crate::images::providers::Providers;
use crate::images::records::{Records, Secret};
use crate::pod::{Container, Pod};
use crate::reference::Reference;

/// The pulls under way on a node.
#[derive(Clone, Default)]
pub struct Pulls(Arc<Shared>);

#[derive(Default)]
struct Shared {
    /// One pull at a time of an image.
    gates: Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>,
    /// So many at a time of all; without limit where absent.
    permits: Option<Semaphore>,
    /// Who may use what is there; everybody where absent.
    records: Option<Records>,
    node: NodeCredentials,
}

/// Where the node has credentials of its own, for the images of all its pods.
#[derive(Default)]
pub struct NodeCredentials {
    /// A file as `docker login` writes it.
    pub file: Option<PathBuf>,
    pub providers: Option<Providers>,
}

/// CRI's word for a registry that is not there, which the kubelet passes on.
const UNAVAILABLE: &str = "RegistryUnavailable";

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
    Inspect { image: String, why: Error },
    #[error("{}", said(image, why))]
    Pull { image: String, why: Error },
}

impl ImageError {
    /// The reason with which the container waits.
    pub fn reason(&self) -> &'static str {
        match self {
            ImageError::Invalid(_) => "InvalidImageName",
            ImageError::Never(_) => "ErrImageNeverPull",
            ImageError::Inspect { .. } => "ImageInspectError",
            ImageError::Pull { why, .. } if why.message().starts_with(UNAVAILABLE) => UNAVAILABLE,
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
                ("Failed", format!("Failed to pull image {image:?}: {}", why.described()))
            }
        }
    }
}

impl Pulls {
    /// `parallel`: how many pulls at a time.
    pub fn new(parallel: Option<usize>, records: Records, node: NodeCredentials) -> Pulls {
        let permits = parallel.map(|number| Semaphore::new(number.max(1)));
        Pulls(Arc::new(Shared { gates: Mutex::default(), permits, records: Some(records), node }))
    }

    pub fn records(&self) -> Option<&Records> {
        self.0.records.as_ref()
    }

    /// The image, pulled where the policy asks for it.
    pub async fn ensure(
        &self,
        context: &Context,
        pod: &Pod,
        container: &Container,
        sources: &Sources,
    ) -> Result<(cri::ImageSpec, cri::Image), ImageError> {
        let image = &container.image;
        let invalid = || ImageError::Invalid(image.clone());
        let name = with_tag(image).ok_or_else(invalid)?;
        let always = match container.image_pull_policy.as_deref() {
            Some(policy) => policy == "Always",
            None => name.ends_with(":latest"),
        };
        let spec = cri::ImageSpec {
            image: name.clone(),
            user_specified_image: image.clone(),
            ..Default::default()
        };
        let reference: Reference = name.parse().map_err(|_| invalid())?;
        let names: Vec<&str> =
            pod.spec.image_pull_secrets.iter().map(|secret| secret.name.as_str()).collect();
        let secrets = credentials::matching(&reference, &names, &sources.secrets);
        let gate = self.gate(&name);
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
        if let Some(found) = inspect().await?.filter(|found| !always || loaded(found))
            && self.may_use(pod, image, &found, &secrets)
        {
            let proved =
                if self.records().is_some() { " and can be accessed by the pod" } else { "" };
            event(
                "Pulled",
                format!("Container image {image:?} already present on machine{proved}"),
            );
            return Ok((resolved(&spec, &found), found));
        }
        if container.image_pull_policy.as_deref() == Some("Never") {
            return Err(ImageError::Never(image.clone()));
        }
        let mut credentials = secrets;
        credentials.extend(self.0.node.credentials(&reference).await);
        event("Pulling", format!("Pulling image {image:?}"));
        let started = context.clock.instant();
        let permit = match &self.0.permits {
            Some(permits) => permits.acquire().await.ok(),
            None => None,
        };
        let begun = context.clock.instant();
        let failed = |why| ImageError::Pull { image: image.clone(), why };
        let pulled = self.pull(context, pod, image, &spec, &credentials).await;
        drop(permit);
        pulled.map_err(failed)?;
        let ended = context.clock.instant();
        let took = |since| go_duration(ended.duration_since(since).as_millis());
        let found = inspect().await?.ok_or_else(|| {
            failed(Error::new("ImageStatus", tonic::Status::not_found("no such image")))
        })?;
        event(
            "Pulled",
            format!(
                "Successfully pulled image {image:?} in {} ({} including waiting). Image size: {} \
                 bytes.",
                took(begun),
                took(started),
                found.size
            ),
        );
        Ok((resolved(&spec, &found), found))
    }

    fn gate(&self, name: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut gates = self.0.gates.lock();
        gates.retain(|_, gate| gate.strong_count() > 0);
        let known = gates.get(name).and_then(Weak::upgrade);
        known.unwrap_or_else(|| {
            let gate = Arc::default();
            gates.insert(name.to_owned(), Arc::downgrade(&gate));
            gate
        })
    }

    /// Whether the pod has shown that it could have pulled what is there.
    fn may_use(
        &self,
        pod: &Pod,
        image: &str,
        found: &cri::Image,
        credentials: &[Credential],
    ) -> bool {
        let Some(records) = self.records() else { return true };
        let namespace = &pod.metadata.namespace;
        let has: Vec<Secret> =
            credentials.iter().filter_map(|it| Secret::new(namespace, it)).collect();
        !records.must_pull(image, &found.id, &has)
    }

    /// Pulls with each of the credentials until one is accepted; without any where there is none.
    async fn pull(
        &self,
        context: &Context,
        pod: &Pod,
        image: &str,
        spec: &cri::ImageSpec,
        credentials: &[Credential],
    ) -> Result<(), Error> {
        let noted = |result: std::io::Result<()>| {
            if let Err(error) = result {
                tracing::warn!(image, %error, "cannot note the pull of an image");
            }
        };
        if let Some(records) = self.records() {
            noted(records.begin(image));
        }
        let tries = match credentials {
            [] => vec![None],
            some => some.iter().map(Some).collect(),
        };
        let mut errors: Vec<Error> = Vec::new();
        for credential in tries {
            let auth = credential.map(|credential| credential.auth.clone());
            match context.runtime.pull(spec.clone(), auth).await {
                Ok(id) => {
                    let namespace = &pod.metadata.namespace;
                    let secret = credential.and_then(|it| Secret::new(namespace, it));
                    if let Some(records) = self.records() {
                        noted(records.pulled(image, &id, secret, context.clock.now()));
                    }
                    return Ok(());
                }
                Err(error) => errors.push(error),
            }
        }
        if let Some(records) = self.records() {
            records.failed(image);
        }
        Err(together(errors))
    }
}

impl NodeCredentials {
    async fn credentials(&self, image: &Reference) -> Vec<Credential> {
        let mut found = match &self.providers {
            Some(providers) => providers.credentials(image).await,
            None => Vec::new(),
        };
        // Read each time: whoever put it there may change it.
        let file = self.file.as_ref().and_then(|path| std::fs::read(path).ok());
        found.extend(file.into_iter().flat_map(|bytes| credentials::of_node(image, bytes)));
        found
    }
}

/// Several errors in one, as Go joins them; the same twice is said once.
fn together(mut errors: Vec<Error>) -> Error {
    let mut texts: Vec<String> = Vec::new();
    for error in &errors {
        let text = error.described();
        if !texts.contains(&text) {
            texts.push(text);
        }
    }
    match errors.pop() {
        Some(last) if texts.len() == 1 => last,
        _ => Error::new("PullImage", tonic::Status::unknown(format!("[{}]", texts.join(", ")))),
    }
}

/// The kubelet's sentence about a failed pull.
fn said(image: &str, why: &Error) -> String {
    match why.message().strip_prefix(UNAVAILABLE) {
        Some(rest) => {
            format!("image pull failed for {image} because the registry is unavailable{rest}")
        }
        None => why.described(),
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

    #[test]
    fn failures_in_the_kubelets_words() {
        let error = |status| Error::new("PullImage", status);
        let missing = error(tonic::Status::not_found("x: not found"));
        let away = error(tonic::Status::unknown("RegistryUnavailable: no route"));
        let shown = |why: Error| {
            let error = ImageError::Pull { image: "x:1".into(), why };
            (error.reason(), error.to_string())
        };
        let text = "rpc error: code = NotFound desc = x: not found";
        assert_eq!(shown(missing), ("ErrImagePull", text.to_string()));
        let text = "image pull failed for x:1 because the registry is unavailable: no route";
        assert_eq!(shown(away), ("RegistryUnavailable", text.to_string()));
        let denied = || error(tonic::Status::unknown("denied"));
        assert_eq!(together(vec![denied(), denied()]).message(), "denied");
        let both = together(vec![denied(), error(tonic::Status::unknown("other"))]);
        assert_eq!(both.message(), "[denied, other]");
    }
}
