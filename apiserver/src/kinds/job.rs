//! Jobs.

pub mod policy;
pub mod spec;
pub mod status;

use proto::status::FieldError;
use proto::time::Time;
use serde_json::{Value, json};

use super::check::{self, Errors};
use super::lens::Lens;
use super::metadata::immutable;
use super::path::Path;
use super::table::{self, column};
use super::{Column, Context, Field, Strategy, begin, name, template};

const SPEC: Path = Path::root("spec");
const METADATA: Path = Path::root("metadata");

/// The labels by which a Job's pods are known, with and without the prefix they once lacked.
const UID_LABELS: [&str; 2] = ["controller-uid", "batch.kubernetes.io/controller-uid"];
const NAME_LABELS: [&str; 2] = ["job-name", "batch.kubernetes.io/job-name"];

pub struct Job;

impl Strategy for Job {
    fn default(&self, object: &mut Value) {
        let labels = object.at("spec").at("template").at("metadata").at("labels").clone();
        if labels.is_object() && object.at("metadata").vacant("labels") {
            object.section("metadata").set("labels", labels);
        }
        let spec = object.section("spec");
        if !spec.has("completions") && !spec.has("parallelism") {
            spec.set("completions", 1);
        }
        spec.fill("parallelism", 1);
        let limit = if spec.has("backoffLimitPerIndex") { i32::MAX } else { 6 };
        spec.fill("backoffLimit", limit);
        let replaced = if spec.has("podFailurePolicy") { "Failed" } else { "TerminatingOrFailed" };
        spec.fill("podReplacementPolicy", replaced);
        template::default(spec);
    }

    fn counted(&self) -> &'static [&'static str] {
        &["/spec"]
    }

    fn prepare_create(&self, new: &mut Value, ctx: &Context) {
        begin(self.counted(), new, ctx);
        new.set("status", json!({}));
        if new.at("spec").flag("manualSelector") != Some(true) {
            generate_selector(new);
        }
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        validate(object, true)
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let known = old.at("spec").at("template").at("metadata").at("labels");
        let mut errors = validate(new, known.has(UID_LABELS[1]) && known.has(NAME_LABELS[1]));
        changes(new.at("spec"), old, &mut errors);
        errors
    }

    fn validate_status(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        status::validate(new, old)
    }

    fn warnings(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        let mut warnings = template::warnings(new, old);
        warnings.extend(spec::warnings(&SPEC, new.at("spec"), old.map(|old| old.at("spec"))));
        warnings
    }

    fn orphans(&self) -> bool {
        true
    }

    fn deletion_warning(&self) -> Option<&'static str> {
        Some(
            "child pods are preserved by default when jobs are deleted; set \
             propagationPolicy=Background to remove them or set propagationPolicy=Orphan to \
             suppress this warning",
        )
    }

    fn fields(&self) -> &'static [Field] {
        &[Field { label: "status.successful", path: "status.succeeded", absent: "0" }]
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn cells(&self, object: &Value, now: Time) -> Vec<Value> {
        let (spec, status) = (object.at("spec"), object.at("status"));
        let (containers, images) = template::containers_and_images(spec.at("template").at("spec"));
        vec![
            table::name(object),
            state(object).into(),
            completions(object).into(),
            duration(status, now).into(),
            table::age(object, now),
            containers.into(),
            images.into(),
            table::selector(spec.at("selector")).into(),
        ]
    }
}

/// Labels of the Job's own, so that no other controller selects its pods.
fn generate_selector(job: &mut Value) {
    let name = job.at("metadata").text("name").to_string();
    let uid = job.at("metadata").text("uid").to_string();
    let spec = job.section("spec");
    let labels = spec.section("template").section("metadata").section("labels");
    for (keys, value) in [(NAME_LABELS, &name), (UID_LABELS, &uid)] {
        for key in keys {
            labels.fill(key, value.as_str());
        }
    }
    spec.section("selector").section("matchLabels").fill(UID_LABELS[1], uid);
}

fn validate(job: &Value, prefixed: bool) -> Errors {
    let mut errors = Vec::new();
    let spec = job.at("spec");
    if spec.flag("manualSelector") != Some(true) && spec.has("selector") {
        generated_selector(job, prefixed, &mut errors);
    }
    spec::validate(&SPEC, spec, &mut errors);
    let (path, selector) = (SPEC.field("selector"), spec.at("selector"));
    if selector.is_null() {
        errors.push(FieldError::required(path, ""));
    } else {
        check::label_selector(&path, selector, &mut errors);
    }
    let pods = spec.at("template");
    template::validate_labels(&SPEC.field("template"), pods, selector, &mut errors);
    let completions = spec.int("completions").unwrap_or(0);
    if spec.text("completionMode") == "Indexed" && completions > 0 {
        let name = job.at("metadata").text("name");
        let longest = format!("{name}-{}", completions - 1);
        if !name::label(&longest).is_empty() {
            let detail = format!("will not able to create pod with invalid DNS label: {longest}");
            errors.push(FieldError::invalid(METADATA.field("name"), name, detail));
        }
    }
    errors
}

/// That a selector that was to be generated is the generated one.
fn generated_selector(job: &Value, prefixed: bool, errors: &mut Errors) {
    let (metadata, spec) = (job.at("metadata"), job.at("spec"));
    if metadata.text("uid").is_empty() {
        errors.push(FieldError::required(METADATA.field("uid"), ""));
    }
    let path = SPEC.field("template");
    let path = path.field("metadata");
    let path = path.field("labels");
    let labels = spec.at("template").at("metadata").at("labels");
    let mut expected = json!({});
    for (keys, value) in [(UID_LABELS, metadata.text("uid")), (NAME_LABELS, metadata.text("name"))]
    {
        for key in &keys[..if prefixed { 2 } else { 1 }] {
            expected.set(key, value);
            let detail = format!("must be '{value}'");
            if !labels.has(key) {
                errors.push(FieldError::required(path.key(key), detail));
            } else if labels.text(key) != value {
                errors.push(FieldError::invalid(path.key(key), labels.clone(), detail));
            }
        }
    }
    let expected = json!({ "metadata": { "labels": expected } });
    if !template::selects(spec.at("selector"), &expected) {
        let detail = "`selector` not auto-generated";
        errors.push(FieldError::invalid(
            SPEC.field("selector"),
            spec.at("selector").clone(),
            detail,
        ));
    }
}

/// What may not change, and what may while the Job is suspended.
fn changes(new: &Value, job: &Value, errors: &mut Errors) {
    let old = job.at("spec");
    let path = SPEC.field("completions");
    if new.text("completionMode") != "Indexed" {
        immutable(&path, new.at("completions"), old.at("completions"), errors);
    } else if new.has("completions")
        && new.at("completions") != old.at("completions")
        && new.at("completions") != new.at("parallelism")
    {
        let detail = "can only be modified in tandem with spec.parallelism";
        errors.push(FieldError::invalid(path, new.at("completions").clone(), detail));
    }
    immutable(&SPEC.field("selector"), new.at("selector"), old.at("selector"), errors);
    let started = job.at("status").has("startTime");
    let active = job.at("status").int("active").unwrap_or(0) != 0;
    let stopped = !active && (status::is(job, "Suspended") || !started);
    let mut before = old.at("template").clone();
    if old.flag("suspend") == Some(true) && stopped {
        take_over_directives(&mut before, new.at("template"));
    }
    if before != *new.at("template") {
        let detail = "field is immutable";
        let value = new.at("template").clone();
        errors.push(FieldError::invalid(SPEC.field("template"), value, detail));
    }
    let fixed = [
        "completionMode",
        "podFailurePolicy",
        "backoffLimitPerIndex",
        "managedBy",
        "successPolicy",
    ];
    for field in fixed {
        immutable(&SPEC.field(field), new.at(field), old.at(field), errors);
    }
}

/// Where the pods of a suspended Job will run, and with how much, may still change.
fn take_over_directives(before: &mut Value, template: &Value) {
    let spec = template.at("spec");
    let metadata = before.section("metadata");
    metadata.take_over("labels", template.at("metadata"));
    metadata.take_over("annotations", template.at("metadata"));
    let pods = before.section("spec");
    for field in ["nodeSelector", "tolerations", "schedulingGates"] {
        pods.take_over(field, spec);
    }
    if pods.has("affinity") || spec.has("affinity") {
        pods.section("affinity").take_over("nodeAffinity", spec.at("affinity"));
        if pods.vacant("affinity") && !spec.has("affinity") {
            pods.drop("affinity");
        }
    }
    for list in ["initContainers", "containers"] {
        let containers = spec.items(list);
        for (container, new) in pods.items_mut(list).iter_mut().zip(containers) {
            if container.at("name") == new.at("name") {
                container.take_over("resources", new);
            }
        }
    }
}

fn state(job: &Value) -> &'static str {
    let of = |kinds: &[&'static str]| kinds.iter().find(|kind| status::is(job, kind)).copied();
    match of(&["Complete", "Failed"]) {
        Some(state) => state,
        None if job.at("metadata").has("deletionTimestamp") => "Terminating",
        None => of(&["Suspended", "FailureTarget", "SuccessCriteriaMet"]).unwrap_or("Running"),
    }
}

fn completions(job: &Value) -> String {
    let spec = job.at("spec");
    let succeeded = job.at("status").int("succeeded").unwrap_or(0);
    match (spec.int("completions"), spec.int("parallelism").unwrap_or(0)) {
        (Some(completions), _) => format!("{succeeded}/{completions}"),
        (None, parallelism) if parallelism > 1 => format!("{succeeded}/1 of {parallelism}"),
        _ => format!("{succeeded}/1"),
    }
}

fn duration(status: &Value, now: Time) -> String {
    let Ok(start) = status.text("startTime").parse::<Time>() else { return String::new() };
    let end = status.text("completionTime").parse().unwrap_or(now);
    table::human(end.since(start))
}

const COLUMNS: &[Column] = &[
    table::NAME,
    column("Status", "string", 0, "Status of the job."),
    column(
        "Completions",
        "string",
        0,
        "Specifies the desired number of successfully finished pods the job should be run with. \
         Setting to null means that the success of any pod signals the success of all pods, and \
         allows parallelism to have any positive value. Setting to 1 means that parallelism is \
         limited to 1 and the success of that pod signals the success of the job. More info: \
         https://kubernetes.io/docs/concepts/workloads/controllers/jobs-run-to-completion/",
    ),
    column("Duration", "string", 0, "Time required to complete the job."),
    table::AGE,
    template::CONTAINERS,
    template::IMAGES,
    column(
        "Selector",
        "string",
        1,
        "A label query over pods that should match the pod count. Normally, the system sets this \
         field for you. More info: \
         https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#label-selectors",
    ),
];
