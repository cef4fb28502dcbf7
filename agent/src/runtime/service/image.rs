//! `runtime.v1.ImageService`.

use std::pin::Pin;

use oci_client::secrets::RegistryAuth;
use proto::cri::{self, image_service_server::ImageService};
use tokio_stream::Stream;
use tonic::{Request, Response, Status};

use super::super::engine::{Error, blocking};
use super::super::images::{Image, pull};
use super::Service;
use crate::reference::Reference;

type Streamed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl ImageService for Service {
    async fn list_images(
        &self,
        request: Request<cri::ListImagesRequest>,
    ) -> Result<Response<cri::ListImagesResponse>, Status> {
        let images = self.images(request.into_inner().filter).await?;
        Ok(Response::new(cri::ListImagesResponse { images }))
    }

    type StreamImagesStream = Streamed<cri::StreamImagesResponse>;

    async fn stream_images(
        &self,
        request: Request<cri::StreamImagesRequest>,
    ) -> Result<Response<Self::StreamImagesStream>, Status> {
        let images = self.images(request.into_inner().filter).await?;
        let parts =
            images.into_iter().map(|image| Ok(cri::StreamImagesResponse { images: vec![image] }));
        Ok(Response::new(Box::pin(tokio_stream::iter(parts.collect::<Vec<_>>()))))
    }

    async fn image_status(
        &self,
        request: Request<cri::ImageStatusRequest>,
    ) -> Result<Response<cri::ImageStatusResponse>, Status> {
        let name = request.into_inner().image.unwrap_or_default().image;
        let store = self.engine.images.clone();
        let image = blocking(move || store.find(&name)).await.map_err(Error::from)?;
        Ok(Response::new(cri::ImageStatusResponse {
            image: image.map(described),
            ..Default::default()
        }))
    }

    async fn pull_image(
        &self,
        request: Request<cri::PullImageRequest>,
    ) -> Result<Response<cri::PullImageResponse>, Status> {
        let request = request.into_inner();
        let name = request.image.unwrap_or_default().image;
        let reference: Reference =
            name.parse().map_err(|error| Status::invalid_argument(format!("{error}")))?;
        let auth = credentials(request.auth.unwrap_or_default());
        let engine = &self.engine;
        let image =
            pull(&engine.images, &reference, &auth, &engine.mirrors).await.map_err(Error::from)?;
        Ok(Response::new(cri::PullImageResponse { image_ref: image.id }))
    }

    async fn remove_image(
        &self,
        request: Request<cri::RemoveImageRequest>,
    ) -> Result<Response<cri::RemoveImageResponse>, Status> {
        let name = request.into_inner().image.unwrap_or_default().image;
        let store = self.engine.images.clone();
        blocking(move || store.remove(&name)).await.map_err(Error::from)?;
        Ok(Response::new(cri::RemoveImageResponse {}))
    }

    async fn image_fs_info(
        &self,
        _: Request<cri::ImageFsInfoRequest>,
    ) -> Result<Response<cri::ImageFsInfoResponse>, Status> {
        let engine = self.engine.clone();
        let (images, containers) = blocking(move || engine.file_systems()).await;
        Ok(Response::new(cri::ImageFsInfoResponse {
            image_filesystems: vec![images],
            container_filesystems: vec![containers],
        }))
    }
}

impl Service {
    async fn images(&self, filter: Option<cri::ImageFilter>) -> Result<Vec<cri::Image>, Status> {
        let wanted = filter.and_then(|filter| filter.image).unwrap_or_default().image;
        let store = self.engine.images.clone();
        let images = blocking(move || match wanted.as_str() {
            "" => store.list(),
            name => Ok(store.find(name)?.into_iter().collect()),
        });
        Ok(images.await.map_err(Error::from)?.into_iter().map(described).collect())
    }
}

fn described(image: Image) -> cri::Image {
    let user = image.config.user.split(':').next().unwrap_or_default();
    let uid = user.parse().ok().map(|value| cri::Int64Value { value });
    let named = uid.is_none() && !user.is_empty();
    // A pin is what kubelets' garbage collection respects; nothing here is pinned for ever.
    cri::Image {
        spec: Some(cri::ImageSpec { image: image.id.clone(), ..Default::default() }),
        id: image.id,
        repo_tags: image.tags,
        repo_digests: image.digests,
        size: image.size,
        username: if named { user.to_owned() } else { String::new() },
        uid: if user.is_empty() { Some(cri::Int64Value { value: 0 }) } else { uid },
        pinned: false,
    }
}

fn credentials(auth: cri::AuthConfig) -> RegistryAuth {
    use base64::Engine;
    if !auth.registry_token.is_empty() {
        return RegistryAuth::Bearer(auth.registry_token);
    }
    if !auth.username.is_empty() {
        return RegistryAuth::Basic(auth.username, auth.password);
    }
    let decoded =
        base64::engine::general_purpose::STANDARD.decode(auth.auth.trim()).unwrap_or_default();
    match String::from_utf8(decoded).unwrap_or_default().split_once(':') {
        Some((name, password)) => RegistryAuth::Basic(name.to_owned(), password.to_owned()),
        None => RegistryAuth::Anonymous,
    }
}
