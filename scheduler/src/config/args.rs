//! What plugins are told (`pluginConfig`).

use std::time::Duration;

use proto::view::pod::{NodeAffinity, TopologySpreadConstraint};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_yaml::Value;

use crate::plugins::BEST;
use crate::plugins::strategy::{Strategy, Weights};
use crate::profile::{Args, SpreadDefaults};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PluginConfig {
    pub name: String,
    #[serde(default)]
    args: Value,
}

/// Declares what may be said to a plugin: besides this, only of which kind it is.
macro_rules! told {
    ($($name:ident { $($field:ident: $type:ty,)* })*) => {$(
        #[derive(Default, Deserialize)]
        #[serde(rename_all = "camelCase", deny_unknown_fields, default)]
        struct $name {
            $($field: $type,)*
            api_version: Option<String>,
            kind: Option<String>,
        }
        impl $name {
            fn check_kind(&self) -> Result<(), String> {
                let version = self.api_version.as_deref();
                let kind = self.kind.as_deref();
                match version.is_none_or(|version| version == "kubescheduler.config.k8s.io/v1")
                    && kind.is_none_or(|kind| kind == stringify!($name))
                {
                    true => Ok(()),
                    false => Err(format!("args: not the kind {}", stringify!($name))),
                }
            }
        }
    )*};
}

told! {
    DefaultPreemptionArgs {
        min_candidate_nodes_percentage: Option<i64>,
        min_candidate_nodes_absolute: Option<i64>,
    }
    InterPodAffinityArgs {
        hard_pod_affinity_weight: Option<i64>,
        ignore_preferred_terms_of_existing_pods: bool,
    }
    NodeAffinityArgs {
        added_affinity: Option<Value>,
    }
    NodeResourcesBalancedAllocationArgs {
        resources: Vec<Weighed>,
    }
    NodeResourcesFitArgs {
        ignored_resources: Vec<String>,
        ignored_resource_groups: Vec<String>,
        scoring_strategy: Option<ScoringStrategy>,
    }
    PodTopologySpreadArgs {
        default_constraints: Vec<Value>,
        defaulting_type: Option<String>,
    }
    VolumeBindingArgs {
        bind_timeout_seconds: Option<i64>,
    }
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct ScoringStrategy {
    #[serde(rename = "type")]
    kind: Option<String>,
    resources: Vec<Weighed>,
    requested_to_capacity_ratio: Option<Ratio>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Weighed {
    name: String,
    weight: Option<i64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Ratio {
    shape: Vec<Point>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Point {
    #[serde(default)]
    utilization: i64,
    #[serde(default)]
    score: i64,
}

/// Of points in the file; scores of plugins go further.
const MOST_SCORE: i64 = 10;

impl PluginConfig {
    pub fn apply(self, args: &mut Args) -> Result<(), String> {
        match self.name.as_str() {
            "DefaultPreemption" => self.preemption(args),
            "InterPodAffinity" => {
                let told: InterPodAffinityArgs = self.read()?;
                told.check_kind()?;
                let weight = told.hard_pod_affinity_weight.unwrap_or(1);
                args.hard_pod_affinity_weight = within("hardPodAffinityWeight", weight, 0, 100)?;
                args.ignore_preferred_terms_of_existing_pods =
                    told.ignore_preferred_terms_of_existing_pods;
                Ok(())
            }
            "NodeAffinity" => {
                let told: NodeAffinityArgs = self.read()?;
                told.check_kind()?;
                let added = told.added_affinity.map(|added| strict::<NodeAffinity>(&added));
                args.added_affinity = added.transpose()?;
                Ok(())
            }
            "NodeResourcesBalancedAllocation" => {
                let told: NodeResourcesBalancedAllocationArgs = self.read()?;
                told.check_kind()?;
                if told.resources.iter().any(|one| one.weight.is_some_and(|weight| weight > 1)) {
                    return Err("resources: the weight must be 1".into());
                }
                set_weights(&mut args.balanced, &told.resources)
            }
            "NodeResourcesFit" => self.fit(args),
            "PodTopologySpread" => self.spread(args),
            "VolumeBinding" => {
                let told: VolumeBindingArgs = self.read()?;
                told.check_kind()?;
                let seconds = told.bind_timeout_seconds.unwrap_or(600);
                let seconds = within("bindTimeoutSeconds", seconds, 0, i64::MAX)?;
                args.bind_timeout = Duration::from_secs(seconds as u64);
                Ok(())
            }
            _ => Err("there is nothing to configure".into()),
        }
    }

    fn read<T: DeserializeOwned + Default>(&self) -> Result<T, String> {
        match &self.args {
            Value::Null => Ok(T::default()),
            args => serde_yaml::from_value(args.clone()).map_err(|why| format!("args: {why}")),
        }
    }

    fn preemption(&self, args: &mut Args) -> Result<(), String> {
        let told: DefaultPreemptionArgs = self.read()?;
        told.check_kind()?;
        let percentage = told.min_candidate_nodes_percentage.unwrap_or(10);
        let absolute = told.min_candidate_nodes_absolute.unwrap_or(100);
        let percentage = within("minCandidateNodesPercentage", percentage, 0, 100)?;
        let absolute = within("minCandidateNodesAbsolute", absolute, 0, i64::MAX)?;
        if percentage == 0 && absolute == 0 {
            let why = "cannot be zero at the same time";
            return Err(format!("minCandidateNodesPercentage and minCandidateNodesAbsolute {why}"));
        }
        args.min_candidate_nodes_percentage = percentage as usize;
        args.min_candidate_nodes_absolute = absolute as usize;
        Ok(())
    }

    fn fit(&self, args: &mut Args) -> Result<(), String> {
        let told: NodeResourcesFitArgs = self.read()?;
        told.check_kind()?;
        args.ignored_resources = told.ignored_resources;
        args.ignored_resource_groups = told.ignored_resource_groups;
        let Some(strategy) = told.scoring_strategy else { return Ok(()) };
        set_weights(&mut args.resources, &strategy.resources)?;
        let kind = strategy.kind.as_deref().unwrap_or("LeastAllocated");
        args.strategy = match (kind, strategy.requested_to_capacity_ratio) {
            ("LeastAllocated", None) => Strategy::LeastAllocated,
            ("MostAllocated", None) => Strategy::MostAllocated,
            ("RequestedToCapacityRatio", Some(ratio)) => {
                Strategy::RequestedToCapacityRatio(shape(&ratio.shape)?)
            }
            ("RequestedToCapacityRatio", None) => {
                return Err("scoringStrategy.requestedToCapacityRatio: Required value".into());
            }
            ("LeastAllocated" | "MostAllocated", Some(_)) => {
                let why = "only for the type RequestedToCapacityRatio";
                return Err(format!("scoringStrategy.requestedToCapacityRatio: {why}"));
            }
            (other, _) => return Err(format!("scoringStrategy.type: {other:?} is not known")),
        };
        Ok(())
    }

    fn spread(&self, args: &mut Args) -> Result<(), String> {
        let told: PodTopologySpreadArgs = self.read()?;
        told.check_kind()?;
        let list = told.default_constraints.iter().map(strict::<TopologySpreadConstraint>);
        let list = list.collect::<Result<Vec<_>, _>>()?;
        args.spread = match told.defaulting_type.as_deref() {
            None | Some("System") if list.is_empty() => SpreadDefaults::System,
            None | Some("System") => {
                return Err(
                    "defaultingType: when defaultConstraints is set, it must be List".into()
                );
            }
            Some("List") => SpreadDefaults::List(list),
            Some(other) => return Err(format!("defaultingType: {other:?} is not known")),
        };
        let SpreadDefaults::List(list) = &args.spread else { return Ok(()) };
        for constraint in list {
            let when = constraint.when_unsatisfiable.as_str();
            if constraint.max_skew < 1
                || constraint.topology_key.is_empty()
                || !matches!(when, "DoNotSchedule" | "ScheduleAnyway")
            {
                let why = "each needs maxSkew, topologyKey and whenUnsatisfiable";
                return Err(format!("defaultConstraints: {why}"));
            }
            if constraint.label_selector.is_some() {
                let why = "must not have a selector: it follows from each pod";
                return Err(format!("defaultConstraints: {why}"));
            }
        }
        Ok(())
    }
}

fn within(field: &str, value: i64, least: i64, most: i64) -> Result<i64, String> {
    match (least..=most).contains(&value) {
        true => Ok(value),
        false => Err(format!("{field}: {value} is not in valid range [{least}-{most}]")),
    }
}

/// Without any, the default stays.
fn set_weights(weights: &mut Weights, told: &[Weighed]) -> Result<(), String> {
    if told.is_empty() {
        return Ok(());
    }
    let weigh = |one: &Weighed| {
        let weight = match one.weight.unwrap_or(0) {
            0 => 1,
            weight => within("resources: weight", weight, 1, 100)?,
        };
        Ok((one.name.clone(), weight))
    };
    *weights = told.iter().map(weigh).collect::<Result<_, String>>()?;
    Ok(())
}

fn shape(points: &[Point]) -> Result<Vec<(i64, i64)>, String> {
    if points.is_empty() {
        return Err("shape: at least one point must be specified".into());
    }
    if points.windows(2).any(|pair| pair[0].utilization >= pair[1].utilization) {
        return Err("shape: utilization values must be sorted in increasing order".into());
    }
    let point = |point: &Point| {
        let utilization = within("shape: utilization", point.utilization, 0, 100)?;
        let score = within("shape: score", point.score, 0, MOST_SCORE)?;
        Ok((utilization, score * (BEST / MOST_SCORE)))
    };
    points.iter().map(point).collect()
}

/// Reads a view and refuses what it does not know.
fn strict<T: DeserializeOwned + Serialize>(value: &Value) -> Result<T, String> {
    let read: T = serde_yaml::from_value(value.clone()).map_err(|why| format!("args: {why}"))?;
    let known = serde_yaml::to_value(&read).map_err(|why| format!("args: {why}"))?;
    match unknown(value, &known) {
        Some(field) => Err(format!("args: unknown field {field:?}")),
        None => Ok(read),
    }
}

/// The first field that says something and is not in `known`.
fn unknown(value: &Value, known: &Value) -> Option<String> {
    match (value, known) {
        (Value::Mapping(fields), known) => fields.iter().find_map(|(name, value)| {
            let empty = match value {
                Value::Null => true,
                Value::Bool(said) => !said,
                Value::Number(number) => number.as_i64() == Some(0),
                Value::String(text) => text.is_empty(),
                Value::Sequence(items) => items.is_empty(),
                Value::Mapping(fields) => fields.is_empty(),
                Value::Tagged(_) => false,
            };
            match known.get(name) {
                Some(known) => unknown(value, known),
                None if empty => None,
                None => Some(name.as_str().unwrap_or_default().to_string()),
            }
        }),
        (Value::Sequence(items), Value::Sequence(known)) => {
            items.iter().zip(known).find_map(|(item, known)| unknown(item, known))
        }
        _ => None,
    }
}
