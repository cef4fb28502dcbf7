//! Why an image could not be had. The messages end up in the pod's status, so they are containerd's
//! where users know those.

use super::super::ImageError;
use super::super::manifest::ManifestError;
use super::super::registry::RegistryError;

#[derive(Debug, thiserror::Error)]
pub enum PullError {
    #[error(
        "failed to pull and unpack image \"{image}\": failed to resolve reference \"{image}\": {image}: not found"
    )]
    NotFound { image: String },
    #[error(
        "failed to pull and unpack image \"{image}\": failed to resolve reference \"{image}\": \
         pull access denied, repository does not exist or may require authorization"
    )]
    Denied {
        image: String,
        #[source]
        source: RegistryError,
    },
    /// It is there and has other things to do. The first word is CRI's, by which kubelets know it;
    /// one that cannot be reached at all is ErrImagePull to everybody.
    #[error("RegistryUnavailable: failed to pull and unpack image \"{image}\"")]
    Unavailable {
        image: String,
        #[source]
        source: RegistryError,
    },
    #[error("failed to pull and unpack image \"{image}\"")]
    Registry {
        image: String,
        #[source]
        source: RegistryError,
    },
    #[error("failed to pull and unpack image \"{image}\"")]
    Manifest {
        image: String,
        #[source]
        source: ManifestError,
    },
    #[error("failed to pull and unpack image \"{image}\"")]
    Store {
        image: String,
        #[source]
        source: ImageError,
    },
}

/// The same, while the image's name goes without saying.
#[derive(Debug)]
pub enum Failure {
    Registry(RegistryError),
    Manifest(ManifestError),
    Store(ImageError),
}

impl Failure {
    /// `resolving`: what the name stands for is not known yet.
    pub fn of(self, image: &str, resolving: bool) -> PullError {
        let image = image.to_owned();
        match self {
            Failure::Store(source) => PullError::Store { image, source },
            Failure::Manifest(source) => PullError::Manifest { image, source },
            Failure::Registry(source) => match source {
                RegistryError::NotFound { .. } if resolving => PullError::NotFound { image },
                RegistryError::Denied { .. } => PullError::Denied { image, source },
                RegistryError::Timeout { .. } => PullError::Unavailable { image, source },
                RegistryError::Status { .. } if source.is_transient() => {
                    PullError::Unavailable { image, source }
                }
                source => PullError::Registry { image, source },
            },
        }
    }
}

impl From<RegistryError> for Failure {
    fn from(error: RegistryError) -> Failure {
        Failure::Registry(error)
    }
}

impl From<ManifestError> for Failure {
    fn from(error: ManifestError) -> Failure {
        Failure::Manifest(error)
    }
}

impl From<ImageError> for Failure {
    fn from(error: ImageError) -> Failure {
        Failure::Store(error)
    }
}
