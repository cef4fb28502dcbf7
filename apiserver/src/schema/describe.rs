//! The descriptions of types and fields. Only OpenAPI reads them, so they stay compressed until
//! then and are not kept.

use std::collections::HashMap;

/// As build.rs wrote it.
pub const SOURCE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptions.json.zst"));

/// Type → field → text; the type's own text is under the empty name.
pub struct Descriptions(HashMap<String, HashMap<String, String>>);

/// Unpacks all descriptions (some hundred kilobytes).
pub fn descriptions() -> Descriptions {
    let text = zstd::decode_all(SOURCE).expect("build.rs compressed it");
    Descriptions(serde_json::from_slice(&text).expect("build.rs wrote it"))
}

impl Descriptions {
    /// The text about a field, or about the type itself when `field` is empty; may be empty.
    pub fn of(&self, ty: &str, field: &str) -> &str {
        self.0.get(ty).and_then(|texts| texts.get(field)).map_or("", String::as_str)
    }
}
