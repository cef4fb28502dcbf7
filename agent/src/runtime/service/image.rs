//! `runtime.v1.ImageService`.

use std::collections::HashMap;
use std::pin::Pin;

use proto::cri::{self, image_service_server::ImageService};
use tokio_stream::Stream;
use tonic::{Request, Response, Status};

use super::super::engine::{Error, blocking};
use super::super::images::{Credentials, Image, ImageError, ImageStore};
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
        let request = request.into_inner();
        let name = request.image.unwrap_or_default().image;
        let store = self.engine.images.clone();
        let found = blocking(move || {
            let Some(image) = store.find(&name)? else { return Ok(None) };
            let info = if request.verbose { info(&store, &image)? } else { HashMap::new() };
            Ok(Some((image, info)))
        });
        let (image, info) = found.await.map_err(Error::Image)?.unzip();
        Ok(Response::new(cri::ImageStatusResponse {
            image: image.map(|image| self.described(image)),
            info: info.unwrap_or_default(),
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
        let credentials = Credentials::new(request.auth.unwrap_or_default(), &reference.registry)
            .map_err(|error| Status::invalid_argument(format!("{error}")))?;
        let pulled = self.engine.puller.pull(&reference, &credentials, &()).await;
        let image = pulled.map_err(Error::from)?;
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
        let (images, containers) =
            blocking(move || engine.file_systems()).await.map_err(Error::from)?;
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
        let images = images.await.map_err(Error::from)?.into_iter();
        Ok(images.map(|image| self.described(image)).collect())
    }

    fn described(&self, image: Image) -> cri::Image {
        let user = image.config.user.split(':').next().unwrap_or_default();
        let uid = user.parse().ok().map(|value| cri::Int64Value { value });
        let named = uid.is_none() && !user.is_empty();
        let pinned = self.engine.pinned_images.iter().any(|name| is_called(&image, name));
        cri::Image {
            spec: Some(cri::ImageSpec { image: image.id.clone(), ..Default::default() }),
            id: image.id,
            repo_tags: image.tags,
            repo_digests: image.digests,
            size: image.size,
            username: if named { user.to_owned() } else { String::new() },
            uid: if user.is_empty() { Some(cri::Int64Value { value: 0 }) } else { uid },
            pinned,
        }
    }
}

fn is_called(image: &Image, name: &str) -> bool {
    let Ok(full) = name.parse::<Reference>() else { return image.id == name };
    let full = full.to_string();
    image.tags.iter().chain(&image.digests).any(|known| *known == full)
}

/// What `crictl inspecti` shows beside the image: its configuration and the chain of its layers, in
/// containerd's words.
fn info(store: &ImageStore, image: &Image) -> Result<HashMap<String, String>, ImageError> {
    let spec: serde_json::Value = match store.config_of(&image.id)? {
        Some(bytes) => serde_json::from_slice(&bytes)
            .map_err(|source| ImageError::Json { path: image.id.clone(), source })?,
        None => serde_json::Value::Null,
    };
    let info = serde_json::json!({ "chainID": image.chain_id(), "imageSpec": spec });
    Ok(HashMap::from([("info".to_owned(), info.to_string())]))
}
