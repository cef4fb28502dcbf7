use super::*;

/// Midnight of 2 January 1970, and the minutes since 1970 until then.
const MIDNIGHT: i64 = 86_400;
const MINUTES: i64 = MIDNIGHT / 60;

fn cron(spec: Value, status: Value) -> Entry<CronJob> {
    let mut object = json!({
        "metadata": {"name": "c", "namespace": "a", "uid": "u", "resourceVersion": "5",
            "creationTimestamp": "1970-01-01T23:59:00Z"},
        "spec": {"schedule": "0 * * * *", "concurrencyPolicy": "Allow", "jobTemplate":
            {"metadata": {"labels": {"x": "y"}}, "spec": {"completions": 1}}},
        "status": status,
    });
    for (field, value) in spec.as_object().into_iter().flatten() {
        object["spec"][field] = value.clone();
    }
    Entry::decode(object.to_string().into()).unwrap()
}

/// The Job of the hour, in this state.
fn of_hour(hour: i64, conditions: Value) -> Value {
    let time = Time::from_unix(MIDNIGHT + hour * 3600);
    json!({
        "metadata": {"name": format!("c-{}", MINUTES + hour * 60), "namespace": "a",
            "uid": format!("j{hour}"), "resourceVersion": "7",
            "annotations": {SCHEDULED: time.to_string()},
            "ownerReferences": [{"kind": "CronJob", "uid": "u", "controller": true}]},
        "status": {"conditions": conditions, "startTime": time, "completionTime": time},
    })
}

fn done(kind: &str) -> Value {
    json!([{"type": kind, "status": "True"}])
}

fn summary(plan: &Plan) -> Vec<String> {
    let line = |step: &Step| match step {
        Step::Patch(patch) => {
            let mut status = patch.body["status"].clone();
            for active in status["active"].as_array_mut().into_iter().flatten() {
                *active = active["name"].take();
            }
            status.to_string().replace('"', "")
        }
        Step::Create(create) => format!("+{}", create.object["metadata"]["name"].as_str().unwrap()),
        Step::Delete(delete) => format!("-{}", delete.target.name),
        Step::Absent(target) => format!("absent {}", target.name),
        Step::Event(event) => event.reason.to_string(),
        other => panic!("{other:?}"),
    };
    plan.steps.iter().map(line).collect()
}

fn plan(cron: &Entry<CronJob>, jobs: &[Value], at: i64) -> Plan {
    let view = View::default().with::<Job>(jobs);
    CronJobs { zone: Zone::UTC }.plan(cron, &view, Time::from_unix(MIDNIGHT + at)).unwrap()
}

#[test]
fn plans() {
    let none = json!({});
    let last = |hour: i64, active: &[i64]| {
        let active: Vec<Value> = active
            .iter()
            .map(|hour| {
                json!({"apiVersion": "batch/v1", "kind": "Job", "namespace": "a",
                    "name": format!("c-{}", MINUTES + hour * 60), "uid": format!("j{hour}"),
                    "resourceVersion": "7"})
            })
            .collect();
        json!({"active": active, "lastScheduleTime": Time::from_unix(MIDNIGHT + hour * 3600)})
    };
    let running = |hour: i64| of_hour(hour, json!([]));
    let complete = |hour: i64| of_hour(hour, done("Complete"));
    let stranger = json!({"metadata": {"name": "by-hand", "namespace": "a", "uid": "s",
        "ownerReferences": [{"kind": "CronJob", "uid": "u", "controller": true}]}});
    for (case, spec, status, jobs, at, expected) in [
        ("not yet", none.clone(), none.clone(), vec![], -30, vec![]),
        ("due", none.clone(), none.clone(), vec![], 0, vec!["+c-1440"]),
        (
            "started",
            none.clone(),
            none.clone(),
            vec![running(0)],
            0,
            vec!["{active:[c-1440],lastScheduleTime:1970-01-02T00:00:00Z}"],
        ),
        ("at rest", none.clone(), last(0, &[0]), vec![running(0)], 9, vec![]),
        (
            "done",
            none.clone(),
            last(0, &[0]),
            vec![complete(0)],
            9,
            vec!["{active:null,lastSuccessfulTime:1970-01-02T00:00:00Z}", "SawCompletedJob"],
        ),
        (
            "gone",
            none.clone(),
            last(0, &[0]),
            vec![],
            9,
            vec!["absent c-1440", "{active:null}", "MissingJob"],
        ),
        ("two at once", none.clone(), last(0, &[0]), vec![running(0)], 3600, vec!["+c-1500"]),
        (
            "one at a time",
            json!({"concurrencyPolicy": "Forbid"}),
            last(0, &[0]),
            vec![running(0)],
            3600,
            vec!["JobAlreadyActive"],
        ),
        (
            "the newest only",
            json!({"concurrencyPolicy": "Replace"}),
            last(0, &[0]),
            vec![running(0)],
            3600,
            vec!["{active:null}", "-c-1440", "+c-1500"],
        ),
        ("suspended", json!({"suspend": true}), last(0, &[]), vec![], 3600, vec![]),
        ("the last of those missed", none.clone(), last(0, &[]), vec![], 9000, vec!["+c-1560"]),
        ("too late", json!({"startingDeadlineSeconds": 60}), last(0, &[]), vec![], 3700, vec![]),
        (
            "many were missed",
            json!({"schedule": "* * * * *"}),
            last(0, &[]),
            vec![],
            6061,
            vec!["TooManyMissedTimes", "+c-1541"],
        ),
        (
            "a Job by hand",
            none.clone(),
            last(0, &[]),
            vec![stranger],
            3600,
            vec!["UnexpectedJob", "+c-1500"],
        ),
        (
            "a zone that there is not",
            json!({"timeZone": "Mars/Base"}),
            last(0, &[]),
            vec![],
            3600,
            vec!["UnknownTimeZone"],
        ),
        (
            "never",
            json!({"schedule": "0 0 31 2 *"}),
            last(0, &[]),
            vec![],
            3600,
            vec!["InvalidSchedule"],
        ),
    ] {
        assert_eq!(summary(&plan(&cron(spec, status), &jobs, at)), expected, "{case}");
    }
}

#[test]
fn it_is_woken_for_the_next_time() {
    let wakes = |spec: Value, at: i64| {
        let again = plan(&cron(spec, json!({"lastScheduleTime": "1970-01-02T00:00:00Z"})), &[], at);
        again.again.map(|time| time.0.as_second() - MIDNIGHT)
    };
    assert_eq!(wakes(json!({}), 9), Some(3600));
    assert_eq!(wakes(json!({"startingDeadlineSeconds": 60}), 3700), Some(7200));
    assert_eq!(wakes(json!({"schedule": "@every 7s"}), 5), Some(7));
    assert_eq!(wakes(json!({"timeZone": "Asia/Kolkata"}), 9), Some(1800));
    assert_eq!(wakes(json!({"suspend": true}), 9), None);
    // What was started has to be noted at once.
    assert_eq!(wakes(json!({}), 3600), Some(3600));
}

#[test]
fn jobs_come_from_the_template() {
    let cron = cron(json!({"timeZone": "Asia/Kolkata"}), json!({}));
    let job = job(&cron, "c-1440", Time::from_unix(MIDNIGHT)).unwrap();
    let metadata = &job["metadata"];
    assert_eq!(metadata["labels"], json!({"x": "y"}));
    assert_eq!(metadata["annotations"], json!({SCHEDULED: "1970-01-02T05:30:00+05:30"}));
    assert_eq!(metadata["ownerReferences"][0]["uid"], "u");
    assert_eq!(job["spec"], json!({"completions": 1}));
}

#[test]
fn history_is_limited() {
    let jobs: Vec<Value> = (0..5).map(|hour| of_hour(hour, done("Complete"))).collect();
    let failed = (5..8).map(|hour| of_hour(hour, done("Failed")));
    let jobs: Vec<Value> = jobs.into_iter().chain(failed).collect();
    let spec = json!({"successfulJobsHistoryLimit": 3, "failedJobsHistoryLimit": 1,
        "suspend": true});
    let status = json!({"lastScheduleTime": Time::from_unix(MIDNIGHT + 7 * 3600),
        "lastSuccessfulTime": Time::from_unix(MIDNIGHT + 4 * 3600)});
    let plan = plan(&cron(spec, status), &jobs, 7 * 3600 + 60);
    assert_eq!(summary(&plan), ["-c-1440", "-c-1500", "-c-1740", "-c-1800"]);
}

/// A year of a CronJob whose Jobs are done at once: when they were meant, as its zone shows it.
fn year(schedule: &str, zone: &str) -> Vec<String> {
    let begin: Time = "2026-01-01T12:00:00Z".parse().unwrap();
    let end: Time = "2027-01-01T12:00:00Z".parse().unwrap();
    let mut cron = cron(json!({"schedule": schedule, "timeZone": zone}), json!({}));
    cron.view.metadata.creation_timestamp = Some(begin);
    let (mut now, mut meant, mut jobs) = (begin, Vec::new(), Vec::new());
    while now < end {
        let view = View::default().with::<Job>(&jobs);
        let plan = CronJobs { zone: Zone::UTC }.plan(&cron, &view, now).unwrap();
        for step in &plan.steps {
            match step {
                Step::Create(create) => {
                    let mut job = (*create.object).clone();
                    let annotations = &job["metadata"]["annotations"];
                    meant.push(annotations[SCHEDULED].as_str().unwrap().to_string());
                    job["metadata"]["uid"] = job["metadata"]["name"].clone();
                    job["status"] = json!({"conditions": done("Complete"), "startTime": now,
                        "completionTime": now});
                    jobs = vec![job];
                }
                Step::Patch(patch) => {
                    let time = |field: &str| -> Option<Time> {
                        patch.body["status"][field].as_str().map(|text| text.parse().unwrap())
                    };
                    let status = &mut cron.view.status;
                    status.last_schedule_time =
                        time("lastScheduleTime").or(status.last_schedule_time);
                    status.last_successful_time =
                        time("lastSuccessfulTime").or(status.last_successful_time);
                }
                other => panic!("{other:?}"),
            }
        }
        assert!(plan.again.is_some_and(|again| again > now || !plan.steps.is_empty()));
        now = plan.again.unwrap();
    }
    meant
}

#[test]
fn a_year_in_zones_whose_clocks_change() {
    let near = |meant: &[String], day: &str| -> Vec<String> {
        meant.iter().filter(|time| time.starts_with(day)).cloned().collect()
    };
    // On 8 March there is no half past two.
    let meant = year("30 2 * * *", "America/New_York");
    assert_eq!(meant.len(), 364);
    assert_eq!(near(&meant, "2026-03-08"), [""; 0]);
    // On 1 November half past one comes twice.
    let meant = year("30 1 * * *", "America/New_York");
    assert_eq!(meant.len(), 366);
    let twice = ["2026-11-01T01:30:00-04:00", "2026-11-01T01:30:00-05:00"];
    assert_eq!(near(&meant, "2026-11-01"), twice);
    let meant = year("0 12 13 * 5", "Europe/Berlin");
    let fridays_and_thirteenths = 53 + 12 - 3;
    assert_eq!(meant.len(), fridays_and_thirteenths);
    assert_eq!(year("0 0 29 2 *", "UTC"), [""; 0]);
}

/// A year in New York, with a night that lacks an hour and one that has an hour twice. Whoever is
/// late for a time by some minutes still starts its Job, and starts it once.
#[test]
fn a_year_has_a_job_for_each_time_that_the_clocks_show() {
    let start: Time = "2026-01-01T05:00:00Z".parse().unwrap();
    let end = start.plus(Duration::from_secs(365 * 86_400));
    for (schedule, expected) in
        [("0 12 * * *", 365), ("30 1 * * *", 366), ("30 2 * * *", 364), ("30 1 * 11 *", 31)]
    {
        let (mut now, mut status, mut starts) = (start, json!({}), Vec::new());
        while now < end {
            let spec = json!({"schedule": schedule, "timeZone": "America/New_York"});
            let mut object = cron(spec, status.clone()).value();
            object["metadata"]["creationTimestamp"] = start.to_string().into();
            let entry = Entry::decode(object.to_string().into()).unwrap();
            let view = View::default().with::<Job>(&[]);
            let plan = CronJobs { zone: Zone::UTC }.plan(&entry, &view, now).unwrap();
            let created = plan.steps.iter().find_map(|step| match step {
                Step::Create(create) => Some(&create.object["metadata"]),
                _ => None,
            });
            if let Some(metadata) = created {
                let meant = metadata["annotations"][SCHEDULED].as_str().unwrap().to_string();
                status["lastScheduleTime"] = meant.parse::<Time>().unwrap().to_string().into();
                starts.push(meant);
            } else {
                now = plan.again.expect("there is a next time").plus(Duration::from_secs(200));
            }
        }
        let once: std::collections::BTreeSet<&String> = starts.iter().collect();
        assert_eq!((starts.len(), once.len()), (expected, expected), "{schedule}");
        assert!(starts.iter().all(|time| time.ends_with("-05:00") || time.ends_with("-04:00")));
    }
}
