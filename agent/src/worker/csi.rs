//! What the API says of a driver's volume before it is mounted: the driver's own wishes, secrets,
//! tokens, and whether the volume has been attached. Asked each time, as a node may read only what
//! its pods lead to.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use client::Patch;
use proto::view::csi_driver::CsiDriver;
use proto::view::node::Node;
use proto::view::persistent_volume::{CsiVolume, PersistentVolume, SecretReference};
use proto::view::secret::Secret;
use proto::view::volume_attachment::VolumeAttachment;
use serde_json::json;

use super::Context;
use super::tokens::Renewal;
use crate::csi::{Attachment, Wanted, attachment_name, inline_handle, unique_name};
use crate::pod::volume::{CsiInline, Token};
use crate::pod::{Pod, Volume};

type Secrets = BTreeMap<String, String>;

/// A volume behind a claim.
pub async fn persistent(
    context: &Context,
    pod: &Pod,
    volume: &PersistentVolume,
    csi: &CsiVolume,
    read_only: bool,
) -> Result<Wanted, String> {
    let driver = driver(context, &csi.driver).await?;
    let mut wanted = Wanted {
        name: volume.metadata.name.clone(),
        driver: csi.driver.clone(),
        handle: csi.volume_handle.clone(),
        attributes: csi.volume_attributes.clone(),
        read_only: read_only || csi.read_only,
        block: volume.is_block(),
        fs_type: csi.fs_type.clone(),
        mount_options: volume.spec.mount_options.clone(),
        access_mode: volume.spec.access_modes.first().cloned().unwrap_or_default(),
        stage_secrets: secret(context, csi.node_stage_secret_ref.as_ref()).await?,
        publish_secrets: secret(context, csi.node_publish_secret_ref.as_ref()).await?,
        ..Wanted::default()
    };
    let Some(driver) = driver else {
        // Nothing is known of the driver: then its volumes are attached.
        wanted.attachment = Some(attachment(context, pod, &wanted).await?);
        return Ok(wanted);
    };
    wishes(context, pod, &driver, &mut wanted).await?;
    if driver.is_attached() {
        wanted.attachment = Some(attachment(context, pod, &wanted).await?);
    }
    Ok(wanted)
}

/// A volume that the pod itself describes.
pub async fn inline(
    context: &Context,
    pod: &Pod,
    volume: &Volume,
    csi: &CsiInline,
) -> Result<Wanted, String> {
    let name = &csi.driver;
    let driver = driver(context, name).await?;
    let driver = driver.ok_or_else(|| format!("csidriver.storage.k8s.io {name:?} not found"))?;
    if !driver.knows("Ephemeral") {
        let modes = match driver.spec.volume_lifecycle_modes.as_slice() {
            [] => vec!["Persistent".to_string()],
            modes => modes.to_vec(),
        };
        return Err(format!(
            "volume mode \"Ephemeral\" not supported by driver {name} (only supports {modes:?})"
        ));
    }
    let reference = csi.node_publish_secret_ref.as_ref().map(|reference| SecretReference {
        name: reference.name.clone(),
        namespace: pod.metadata.namespace.clone(),
    });
    let mut wanted = Wanted {
        name: volume.name.clone(),
        driver: name.clone(),
        handle: inline_handle(&pod.metadata.uid, &volume.name),
        attributes: csi.volume_attributes.clone(),
        ephemeral: true,
        read_only: csi.read_only,
        fs_type: csi.fs_type.clone(),
        access_mode: "ReadWriteOnce".into(),
        publish_secrets: secret(context, reference.as_ref()).await?,
        ..Wanted::default()
    };
    wishes(context, pod, &driver, &mut wanted).await?;
    Ok(wanted)
}

async fn driver(context: &Context, name: &str) -> Result<Option<CsiDriver>, String> {
    match context.client.get::<CsiDriver>("", name).await {
        Ok(driver) => Ok(Some(driver.view)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(format!("failed to fetch CSIDriver from API server: {error}")),
    }
}

async fn wishes(
    context: &Context,
    pod: &Pod,
    driver: &CsiDriver,
    wanted: &mut Wanted,
) -> Result<(), String> {
    let spec = &driver.spec;
    wanted.pod_info = spec.pod_info_on_mount;
    wanted.group_policy = spec.fs_group_policy.clone();
    wanted.tokens_in_secrets = spec.service_account_token_in_secrets;
    if spec.requires_republish {
        let driver = &driver.metadata.name;
        tracing::warn!(driver, "wants its volumes published again and again: that is not done");
    }
    if spec.token_requests.is_empty() {
        return Ok(());
    }
    let mut tokens = serde_json::Map::new();
    for request in &spec.token_requests {
        let token = Token {
            audience: request.audience.clone(),
            expiration_seconds: request.expiration_seconds.unwrap_or(3600),
            path: String::new(),
        };
        let (text, expires) = Renewal::new(pod, &token).once(&context.client).await?;
        let one = json!({"token": text, "expirationTimestamp": expires});
        tokens.insert(request.audience.clone(), one);
    }
    wanted.tokens = Some(serde_json::Value::Object(tokens).to_string());
    Ok(())
}

pub async fn secret(context: &Context, of: Option<&SecretReference>) -> Result<Secrets, String> {
    let Some(of) = of else { return Ok(Secrets::new()) };
    let (namespace, name) = (&of.namespace, &of.name);
    let found = context.client.get::<Secret>(namespace, name).await;
    let found =
        found.map_err(|error| format!("failed to get secret {namespace}/{name}: {error}"))?;
    let text = |(key, value): (&String, &String)| {
        let bytes = STANDARD.decode(value).unwrap_or_default();
        (key.clone(), String::from_utf8_lossy(&bytes).into_owned())
    };
    Ok(found.data.iter().map(text).collect())
}

/// Says that the volume is in use, and then what its attacher said of it.
async fn attachment(context: &Context, pod: &Pod, wanted: &Wanted) -> Result<Attachment, String> {
    let node = &pod.spec.node_name;
    let name = attachment_name(&wanted.handle, &wanted.driver, node);
    let found = context.client.get::<VolumeAttachment>("", &name).await;
    let waits = || format!("volume {:?} is not attached to this node yet", wanted.name);
    let found = match found {
        Ok(found) => found,
        // Until there is one, nothing relates it to the node, which so may not ask for it.
        Err(error) if error.is_not_found() || error.is_forbidden() => return Err(waits()),
        Err(error) => {
            return Err(format!("failed to fetch VolumeAttachment from API server: {error}"));
        }
    };
    if let Some(error) = &found.status.attach_error {
        return Err(error.message.clone());
    }
    if !found.status.attached || found.metadata.deletion_timestamp.is_some() {
        return Err(waits());
    }
    let unique = unique_name(&wanted.driver, &wanted.handle);
    in_use(context, node, Some(&unique)).await?;
    Ok(Attachment { name, metadata: found.view.status.attachment_metadata })
}

/// Says which attached volumes the node has, `more` among them, unless that is known.
pub async fn in_use(context: &Context, node: &str, more: Option<&str>) -> Result<(), String> {
    let said = |error: client::Error| format!("failed to update the node's volumesInUse: {error}");
    let mut all = context.disk.in_use().await;
    all.extend(more.map(String::from));
    let known = context.client.get::<Node>("", node).await.map_err(said)?;
    if known.status.volumes_in_use.iter().eq(&all) {
        return Ok(());
    }
    let patch = Patch::Merge(json!({
        "metadata": {"resourceVersion": known.metadata.resource_version},
        "status": {"volumesInUse": all},
    }));
    context.client.patch::<Node>("", node, "status", &patch).await.map(drop).map_err(said)
}
