//! The storage that a new cluster has: claims that name no class get folders of the nodes' disks.

use client::Client;
use proto::kind::STORAGE_CLASS;
use proto::view::storage_class::StorageClass;
use proto::volume::HOST_PATH;
use serde_json::json;

use super::Error;

/// What the class is called; users who do not want it delete it or mark another as the default.
const CLASS: &str = "host-path";

pub async fn make_class(client: &Client) -> Result<(), Error> {
    let class = json!({
        "apiVersion": STORAGE_CLASS.api_version(),
        "kind": STORAGE_CLASS.kind,
        "metadata": {
            "name": CLASS,
            "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
        },
        "provisioner": HOST_PATH,
        "reclaimPolicy": "Delete",
        "volumeBindingMode": "WaitForFirstConsumer",
    });
    match client.create::<StorageClass>("", &class).await {
        Err(error) if !error.is_already_exists() => Err(error.into()),
        _ => Ok(()),
    }
}
