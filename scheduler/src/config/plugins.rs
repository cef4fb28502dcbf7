//! Which plugins have a say: the default ones, unless a profile enables or disables some, at all
//! extension points (`multiPoint`) or at one. What a point says goes before `multiPoint`.

use serde::Deserialize;

use crate::plugins::{PLUGINS, Plugin, find};
use crate::profile::{Enabled, Profile};

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Plugins {
    multi_point: Set,
    pre_enqueue: Set,
    queue_sort: Set,
    pre_filter: Set,
    filter: Set,
    post_filter: Set,
    pre_score: Set,
    score: Set,
    reserve: Set,
    permit: Set,
    pre_bind: Set,
    bind: Set,
    post_bind: Set,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Set {
    enabled: Vec<Named>,
    disabled: Vec<Named>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    name: String,
    weight: Option<i64>,
}

/// Plugins without which there is no scheduling: nothing else would do their work.
const NEEDED: &[&str] = &["SchedulingGates", "PrioritySort", "DefaultBinder"];
const PREEMPTION: &str = "DefaultPreemption";

fn is_known(name: &str) -> bool {
    name == PREEMPTION || NEEDED.contains(&name) || find(name).is_some()
}

fn filters(name: &str) -> bool {
    find(name).is_some_and(|plugin| plugin.filters())
}

fn scores(name: &str) -> bool {
    find(name).is_some_and(|plugin| plugin.weight() > 0)
}

impl Set {
    fn enables(&self, name: &str) -> Option<&Named> {
        self.enabled.iter().find(|own| own.name == name)
    }

    fn disables(&self, name: &str) -> bool {
        self.disabled.iter().any(|own| own.name == name || own.name == "*")
    }

    /// Whether the plugin has a say at this point, where it has one unless something else is said.
    fn has(&self, name: &str, otherwise: bool) -> bool {
        self.enables(name).is_some() || (otherwise && !self.disables(name))
    }
}

impl Plugins {
    pub fn apply(&self, profile: &mut Profile) -> Result<(), String> {
        self.check()?;
        let by_default = |name: &str| self.multi_point.has(name, true);
        profile.preempts = self.post_filter.has(PREEMPTION, by_default(PREEMPTION));
        for name in NEEDED {
            let point = match *name {
                "SchedulingGates" => &self.pre_enqueue,
                "PrioritySort" => &self.queue_sort,
                _ => &self.bind,
            };
            if !point.has(name, by_default(name)) {
                return Err(format!("plugins: {name:?} cannot be disabled: nothing replaces it"));
            }
        }
        let enabled = |plugin: &&'static dyn Plugin| {
            let name = plugin.name();
            let scores = scores(name) && self.score.has(name, by_default(name));
            // Whoever names a plugin without a weight gives it the weight 1.
            let said = self.score.enables(name).or(self.multi_point.enables(name));
            let weight = match said.map(|said| said.weight.unwrap_or(0)) {
                Some(0) => 1,
                Some(weight) => weight,
                None => plugin.weight(),
            };
            Enabled {
                plugin: *plugin,
                filters: filters(name) && self.filter.has(name, by_default(name)),
                weight: if scores { weight } else { 0 },
            }
        };
        profile.plugins = PLUGINS.iter().map(enabled).collect();
        profile.plugins.retain(|enabled| enabled.filters || enabled.weight > 0);
        Ok(())
    }

    /// Of each point its name, and which plugins can be spoken of there.
    fn points(&self) -> [(&'static str, &Set, fn(&str) -> bool); 13] {
        [
            ("multiPoint", &self.multi_point, |_| true),
            ("preEnqueue", &self.pre_enqueue, |name| name == "SchedulingGates"),
            ("queueSort", &self.queue_sort, |name| name == "PrioritySort"),
            ("preFilter", &self.pre_filter, |_| false),
            ("filter", &self.filter, filters),
            ("postFilter", &self.post_filter, |name| name == PREEMPTION),
            ("preScore", &self.pre_score, |_| false),
            ("score", &self.score, scores),
            ("reserve", &self.reserve, |_| false),
            ("permit", &self.permit, |_| false),
            ("preBind", &self.pre_bind, |_| false),
            ("bind", &self.bind, |name| name == "DefaultBinder"),
            ("postBind", &self.post_bind, |_| false),
        ]
    }

    fn check(&self) -> Result<(), String> {
        for (point, set, extends) in self.points() {
            let all = |own: &&Named| own.name == "*";
            // Where nothing extends a point, to disable everything there means nothing.
            let disabled = set.disabled.iter().filter(|own| !all(own));
            for own in set.enabled.iter().chain(disabled) {
                let name = &own.name;
                if !is_known(name) {
                    return Err(format!("plugins.{point}: plugin {name:?} does not exist"));
                }
                if !extends(name) {
                    let why = "cannot be enabled or disabled there alone";
                    return Err(format!("plugins.{point}: {name:?} {why}"));
                }
                if own.weight.is_some_and(|weight| !(0..=1_000_000).contains(&weight)) {
                    return Err(format!("plugins.{point}: the weight of {name:?} is out of range"));
                }
            }
        }
        Ok(())
    }
}
