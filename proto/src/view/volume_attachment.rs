//! VolumeAttachment: a volume that is to be attached to a node.

use crate::meta::{Labels, ObjectMeta};
use crate::view::{object, views};

views! {
    pub struct VolumeAttachment {
        pub metadata: ObjectMeta,
        pub spec: VolumeAttachmentSpec,
        pub status: VolumeAttachmentStatus,
    }

    pub struct VolumeAttachmentSpec {
        /// The driver.
        pub attacher: String,
        pub node_name: String,
        pub source: VolumeAttachmentSource,
    }

    pub struct VolumeAttachmentSource {
        pub persistent_volume_name: String,
    }

    pub struct VolumeAttachmentStatus {
        pub attached: bool,
        pub attachment_metadata: Labels,
        pub attach_error: Option<VolumeError>,
        pub detach_error: Option<VolumeError>,
    }

    pub struct VolumeError {
        pub message: String,
    }
}

object!(VolumeAttachment, VOLUME_ATTACHMENT);
