//! CSIDrivers and CSINodes.

use std::collections::HashSet;

use proto::status::FieldError;
use proto::time::Time;
use serde_json::Value;

use super::check;
use super::described;
use super::lens::Lens;
use super::metadata;
use super::path::Path;
use super::table::{self, column};
use super::{Column, Context, Strategy};

const SPEC: Path = Path::root("spec");

pub struct CsiDriver;
pub struct CsiNode;

impl Strategy for CsiDriver {
    fn unconditional_update(&self) -> bool {
        false
    }

    fn counted(&self) -> &'static [&'static str] {
        &["/spec"]
    }

    /// Only changes are counted: a new driver has no generation.
    fn prepare_create(&self, _new: &mut Value, _ctx: &Context) {}

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let spec = object.at("spec");
        let policies = ["File", "None", "ReadWriteOnceWithFSType"];
        let policy = spec.text("fsGroupPolicy");
        check::optional_one_of(&SPEC.field("fsGroupPolicy"), policy, &policies, &mut errors);
        let path = SPEC.field("tokenRequests");
        let mut audiences = HashSet::new();
        for (index, request) in spec.items("tokenRequests").iter().enumerate() {
            let path = path.index(index);
            let audience = request.text("audience");
            if !audiences.insert(audience) {
                errors.push(FieldError::duplicate(path.field("audience"), audience));
                continue;
            }
            let detail = match request.int("expirationSeconds") {
                Some(..600) => "may not specify a duration less than 10 minutes",
                Some(4_294_967_297..) => "may not specify a duration larger than 2^32 seconds",
                _ => continue,
            };
            let value = request.at("expirationSeconds").clone();
            errors.push(FieldError::invalid(path.field("expirationSeconds"), value, detail));
        }
        for mode in check::texts(spec, "volumeLifecycleModes") {
            let path = SPEC.field("volumeLifecycleModes");
            check::one_of(&path, mode, &["Persistent", "Ephemeral"], &mut errors);
        }
        let field = "nodeAllocatableUpdatePeriodSeconds";
        if let Some(period) = spec.int(field).filter(|period| *period < 10) {
            let detail = "must be greater than or equal to 10 seconds";
            errors.push(FieldError::invalid(SPEC.field(field), period, detail));
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = self.validate(new);
        let (new, old) = (new.at("spec"), old.at("spec"));
        // Upstream names the first field so.
        for (field, named) in [
            ("attachRequired", "attachedRequired"),
            ("volumeLifecycleModes", "volumeLifecycleModes"),
        ] {
            metadata::immutable(&SPEC.field(named), new.at(field), old.at(field), &mut errors);
        }
        errors
    }

    fn warnings(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        let spec = new.at("spec");
        let same =
            old.is_some_and(|old| old.at("spec").at("tokenRequests") == spec.at("tokenRequests"));
        if same || spec.vacant("tokenRequests") || spec.has("serviceAccountTokenInSecrets") {
            return Vec::new();
        }
        vec![
            "spec.serviceAccountTokenInSecrets is unset; if supported by this CSI driver, set to \
             true to prevent possible logging of tokens in volume attributes"
                .into(),
        ]
    }

    fn columns(&self) -> &'static [Column] {
        const {
            &[
                table::NAME,
                column("AttachRequired", "boolean", 0, described::CSI_ATTACH),
                column("PodInfoOnMount", "boolean", 0, described::CSI_POD_INFO),
                column("StorageCapacity", "boolean", 0, described::CSI_CAPACITY),
                column("TokenRequests", "string", 0, described::CSI_TOKENS),
                column("RequiresRepublish", "boolean", 0, described::CSI_REPUBLISH),
                column("Modes", "string", 0, described::CSI_MODES),
                table::AGE,
            ]
        }
    }

    fn cells(&self, object: &Value, now: Time) -> Vec<Value> {
        let spec = object.at("spec");
        let flag = |field: &str| spec.flag(field).unwrap_or(false).into();
        let requests = spec.items("tokenRequests");
        let tokens = match requests.is_empty() {
            true => "<unset>".to_string(),
            false => table::list(requests.iter().map(|request| request.text("audience"))),
        };
        let modes = table::list(check::texts(spec, "volumeLifecycleModes"));
        vec![
            table::name(object),
            spec.flag("attachRequired").unwrap_or(true).into(),
            flag("podInfoOnMount"),
            flag("storageCapacity"),
            tokens.into(),
            flag("requiresRepublish"),
            table::or_none(&modes).into(),
            table::age(object, now),
        ]
    }
}

impl Strategy for CsiNode {
    fn unconditional_update(&self) -> bool {
        false
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let path = SPEC.field("drivers");
        let mut names = HashSet::new();
        for (index, driver) in object.at("spec").items("drivers").iter().enumerate() {
            let path = path.index(index);
            let (name, id) = (driver.text("name"), driver.text("nodeID"));
            check::driver(&path.field("name"), name, &mut errors);
            check::required(&path, driver, "nodeID", &mut errors);
            if id.len() > 256 {
                let detail = "must be 256 characters or less";
                errors.push(FieldError::invalid(path.field("nodeID"), id, detail));
            }
            let allocatable = path.field("allocatable");
            check::nonnegative(&allocatable, driver.at("allocatable"), &["count"], &mut errors);
            if !names.insert(name) {
                errors.push(FieldError::duplicate(path.field("name"), name));
            }
            let mut keys = HashSet::new();
            for key in check::texts(driver, "topologyKeys") {
                if key.is_empty() {
                    errors.push(FieldError::required(path, ""));
                }
                if !keys.insert(key) {
                    errors.push(FieldError::duplicate(path, key));
                }
                check::qualified(&path, key, &mut errors);
            }
        }
        errors
    }

    /// A driver's entry may come and go, but only its allocatable count may change.
    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = self.validate(new);
        let fixed = |driver: &Value| {
            let mut driver = driver.clone();
            driver.drop("allocatable");
            driver
        };
        for before in old.at("spec").items("drivers") {
            let name = before.text("name");
            for driver in new.at("spec").items("drivers") {
                if driver.text("name") == name {
                    let (new, old) = (fixed(driver), fixed(before));
                    metadata::immutable(&SPEC.field("drivers"), &new, &old, &mut errors);
                }
            }
        }
        errors
    }

    fn columns(&self) -> &'static [Column] {
        const DRIVERS: Column = column(
            "Drivers",
            "integer",
            0,
            "Drivers indicates the number of CSI drivers registered on the node",
        );
        &[table::NAME, DRIVERS, table::AGE]
    }

    fn cells(&self, object: &Value, now: Time) -> Vec<Value> {
        let drivers = object.at("spec").items("drivers").len();
        vec![table::name(object), drivers.into(), table::age(object, now)]
    }
}
