//! CronJobs.

use proto::cron::{Schedule, Zone};
use proto::status::FieldError;
use proto::time::Time;
use serde_json::{Value, json};

use super::check::{self, Errors};
use super::job;
use super::lens::Lens;
use super::path::Path;
use super::table::{self, column};
use super::{Column, Context, Strategy, begin, pod, template};

const SPEC: Path = Path::root("spec");
/// What leaves room for the time in the names of the Jobs.
const NAME_LIMIT: usize = 52;

pub struct CronJob;

impl Strategy for CronJob {
    fn default(&self, object: &mut Value) {
        let jobs = object.section("spec").section("jobTemplate");
        template::default(jobs.section("spec"));
    }

    fn counted(&self) -> &'static [&'static str] {
        &["/spec"]
    }

    fn prepare_create(&self, new: &mut Value, ctx: &Context) {
        begin(self.counted(), new, ctx);
        new.set("status", json!({}));
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = validate(object.at("spec"), None);
        let name = object.at("metadata").text("name");
        if name.len() > NAME_LIMIT {
            let detail = format!("must be no more than {NAME_LIMIT} characters");
            errors.push(FieldError::invalid("metadata.name", name, detail));
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        validate(new.at("spec"), Some(old.at("spec")))
    }

    fn warnings(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        let mut warnings = Vec::new();
        let spec = new.at("spec");
        if old.is_none() {
            let name = new.at("metadata").text("name");
            warnings.extend(pod::warnings::name(name, "Pod names and hostnames"));
        }
        if old.is_none_or(|old| old.at("spec") != spec) {
            let path = SPEC.field("jobTemplate");
            let path = path.field("spec");
            let jobs = spec.at("jobTemplate").at("spec");
            warnings.extend(job::spec::warnings(&path, jobs, None));
            let path = path.field("template");
            warnings
                .extend(pod::warnings::spec(&path.field("spec"), jobs.at("template").at("spec")));
        }
        if spec.text("schedule").contains("TZ") {
            warnings.push(
                "CRON_TZ or TZ used in spec.schedule is not officially supported, see \
                 https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more \
                 details"
                    .into(),
            );
        }
        warnings
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn cells(&self, object: &Value, now: Time) -> Vec<Value> {
        let (spec, status) = (object.at("spec"), object.at("status"));
        let jobs = spec.at("jobTemplate").at("spec");
        let (containers, images) = template::containers_and_images(jobs.at("template").at("spec"));
        let last = match status.text("lastScheduleTime") {
            "" => "<none>".into(),
            time => table::since(time, now),
        };
        vec![
            table::name(object),
            spec.text("schedule").into(),
            spec.at("timeZone").as_str().unwrap_or("<none>").into(),
            match spec.flag("suspend") {
                Some(true) => "True".into(),
                Some(false) => "False".into(),
                None => "<unset>".into(),
            },
            status.items("active").len().into(),
            last.into(),
            table::age(object, now),
            containers.into(),
            images.into(),
            table::selector(jobs.at("selector")).into(),
        ]
    }
}

fn validate(spec: &Value, old: Option<&Value>) -> Errors {
    let mut errors = Vec::new();
    match spec.text("schedule") {
        "" => errors.push(FieldError::required(SPEC.field("schedule"), "")),
        _ => timing(spec, old, &mut errors),
    }
    check::nonnegative(&SPEC, spec, &["startingDeadlineSeconds"], &mut errors);
    if old.is_none_or(|old| old.at("timeZone") != spec.at("timeZone")) {
        time_zone(&SPEC.field("timeZone"), spec.at("timeZone"), &mut errors);
    }
    let policies = ["Allow", "Forbid", "Replace"];
    let path = SPEC.field("concurrencyPolicy");
    check::one_of(&path, spec.text("concurrencyPolicy"), &policies, &mut errors);
    let (path, jobs) = (SPEC.field("jobTemplate"), spec.at("jobTemplate").at("spec"));
    let path = path.field("spec");
    job::spec::validate(&path, jobs, &mut errors);
    if jobs.has("selector") {
        let detail = "`selector` will be auto-generated";
        let value = jobs.at("selector").clone();
        errors.push(FieldError::invalid(path.field("selector"), value, detail));
    }
    if jobs.flag("manualSelector") == Some(true) {
        let path = path.field("manualSelector");
        errors.push(FieldError::not_supported(path, true, &["nil", "false"]));
    }
    let limits = ["successfulJobsHistoryLimit", "failedJobsHistoryLimit"];
    check::nonnegative(&SPEC, spec, &limits, &mut errors);
    errors
}

/// The schedule; a time zone in it is only tolerated where it already was.
fn timing(spec: &Value, old: Option<&Value>, errors: &mut Errors) {
    let (path, text) = (SPEC.field("schedule"), spec.text("schedule"));
    if let Err(error) = Schedule::parse(text) {
        errors.push(FieldError::invalid(path, text, error));
    }
    let tolerated = old.is_some_and(|old| old.text("schedule").contains("TZ"));
    let detail = match (text.contains("TZ"), tolerated) {
        (true, false) => "cannot use TZ or CRON_TZ in schedule, use timeZone field instead",
        (true, true) if spec.has("timeZone") => {
            "cannot use both timeZone field and TZ or CRON_TZ in schedule"
        }
        _ => return,
    };
    errors.push(FieldError::invalid(path, text, detail));
}

/// A name of the IANA database (<https://data.iana.org/time-zones/theory.html#naming>).
fn time_zone(path: &Path, zone: &Value, errors: &mut Errors) {
    let Some(name) = zone.as_str() else { return };
    let fine = |byte: u8| byte.is_ascii_alphanumeric() || b".-_+".contains(&byte);
    let valid = |part: &str| {
        (1..=14).contains(&part.len())
            && !matches!(part, "." | "..")
            && !part.starts_with('-')
            && part.bytes().all(fine)
    };
    let detail = if name.is_empty() {
        "timeZone must be nil or non-empty string".into()
    } else if name.eq_ignore_ascii_case("local") {
        "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones"
            .into()
    } else if name.split('/').all(valid) && Zone::named(name).is_some() {
        return;
    } else {
        format!("unknown time zone {name}")
    };
    errors.push(FieldError::invalid(path, name, detail));
}

const COLUMNS: &[Column] = &[
    table::NAME,
    column(
        "Schedule",
        "string",
        0,
        "The schedule in Cron format, see https://en.wikipedia.org/wiki/Cron.",
    ),
    column(
        "Timezone",
        "string",
        0,
        "The time zone name for the given schedule, see \
         https://en.wikipedia.org/wiki/List_of_tz_database_time_zones. If not specified, this \
         will default to the time zone of the kube-controller-manager process. The set of valid \
         time zone names and the time zone offset is loaded from the system-wide time zone \
         database by the API server during CronJob validation and the controller manager during \
         execution. If no system-wide time zone database can be found a bundled version of the \
         database is used instead. If the time zone name becomes invalid during the lifetime of a \
         CronJob or due to a change in host configuration, the controller will stop creating new \
         new Jobs and will create a system event with the reason UnknownTimeZone. More \
         information can be found in \
         https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/#time-zones",
    ),
    column(
        "Suspend",
        "boolean",
        0,
        "This flag tells the controller to suspend subsequent executions, it does not apply to \
         already started executions. Defaults to false.",
    ),
    column("Active", "integer", 0, "A list of pointers to currently running jobs."),
    column(
        "Last Schedule",
        "string",
        0,
        "Information when was the last time the job was successfully scheduled.",
    ),
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
