//! ServiceAccount.

use crate::meta::ObjectMeta;
use crate::view::{ObjectReference, object, views};

views! {
    pub struct ServiceAccount {
        pub metadata: ObjectMeta,
        pub secrets: Vec<ObjectReference>,
        pub image_pull_secrets: Vec<LocalReference>,
        pub automount_service_account_token: Option<bool>,
    }

    pub struct LocalReference {
        pub name: String,
    }
}

object!(ServiceAccount, SERVICE_ACCOUNT);
