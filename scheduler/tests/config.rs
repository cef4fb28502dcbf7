//! The configuration file: what it may say, and what comes of it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use client::{Entry, Key, Rng};
use scheduler::config::Config;
use scheduler::cycle::Decider;
use scheduler::plugins::strategy::Strategy;
use scheduler::profile::{Profile, SpreadDefaults};
use scheduler::snapshot::{PodInfo, Snapshot};
use serde_json::{Value, json};

const HEAD: &str = "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n";

fn parse(rest: &str) -> Result<Config, String> {
    Config::parse(&format!("{HEAD}{rest}"), Path::new("f")).map_err(|error| {
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        format!("{error}: {}", cause.unwrap_or_default())
    })
}

/// The only profile, which says this.
fn profile(rest: &str) -> Arc<Profile> {
    parse(&format!("profiles:\n- {rest}")).unwrap().profiles[0].clone()
}

fn weights(profile: &Profile) -> Vec<(&'static str, i64)> {
    let scoring = profile.plugins.iter().filter(|enabled| enabled.weight > 0);
    scoring.map(|enabled| (enabled.plugin.name(), enabled.weight)).collect()
}

fn filters(profile: &Profile, name: &str) -> bool {
    profile.plugins.iter().any(|enabled| enabled.filters && enabled.plugin.name() == name)
}

#[test]
fn without_a_word_all_is_as_usual() {
    for text in ["", "profiles: []\n", "profiles:\n- {}\n", "extenders: []\n"] {
        let config = parse(text).unwrap();
        let usual = weights(&Profile::default());
        assert_eq!(weights(&config.profiles[0]), usual, "{text}");
        assert_eq!(config.profiles[0].name, "default-scheduler");
        assert!(config.profiles[0].preempts && filters(&config.profiles[0], "NodePorts"));
        assert_eq!(config.first_backoff, Duration::from_secs(1));
        assert_eq!(config.longest_backoff, Duration::from_secs(10));
    }
    let expected = [
        ("TaintToleration", 3),
        ("NodeAffinity", 2),
        ("NodeResourcesFit", 1),
        ("PodTopologySpread", 2),
        ("InterPodAffinity", 2),
        ("DynamicResources", 2),
        ("NodeResourcesBalancedAllocation", 1),
        ("ImageLocality", 1),
    ];
    assert_eq!(weights(&Profile::default()), expected);
}

#[test]
fn plugins_are_chosen_and_weighed() {
    let only = profile(
        "plugins: {multiPoint: {enabled: [{name: NodeResourcesFit, weight: 5}], disabled: [{name: '*'}]},
            preEnqueue: {enabled: [{name: SchedulingGates}]},
            queueSort: {enabled: [{name: PrioritySort}]}, bind: {enabled: [{name: DefaultBinder}]}}",
    );
    assert_eq!(weights(&only), [("NodeResourcesFit", 5)]);
    assert!(filters(&only, "NodeResourcesFit") && !filters(&only, "NodePorts") && !only.preempts);

    let some = profile(
        "plugins: {multiPoint: {disabled: [{name: ImageLocality}]}, filter: {disabled: [{name: NodePorts}]},
            score: {enabled: [{name: NodeAffinity, weight: 9}], disabled: [{name: InterPodAffinity}]},
            postFilter: {disabled: [{name: '*'}]}}",
    );
    assert!(!filters(&some, "NodePorts") && filters(&some, "InterPodAffinity") && !some.preempts);
    let scoring = weights(&some);
    assert!(scoring.contains(&("NodeAffinity", 9)) && scoring.contains(&("TaintToleration", 3)));
    assert!(!scoring.iter().any(|(name, _)| ["ImageLocality", "InterPodAffinity"].contains(name)));
}

#[test]
fn plugins_are_told() {
    let told = profile(
        "pluginConfig:
  - {name: NodeResourcesFit, args: {ignoredResourceGroups: [example.com], scoringStrategy: {
      type: RequestedToCapacityRatio, resources: [{name: cpu, weight: 3}, {name: example.com/gpu}],
      requestedToCapacityRatio: {shape: [{utilization: 0, score: 0}, {utilization: 100, score: 10}]}}}}
  - {name: InterPodAffinity, args: {hardPodAffinityWeight: 7}}
  - {name: PodTopologySpread, args: {defaultingType: List, defaultConstraints: [
      {maxSkew: 2, topologyKey: rack, whenUnsatisfiable: ScheduleAnyway}]}}
  - {name: DefaultPreemption, args: {minCandidateNodesPercentage: 5}}
  - {name: VolumeBinding, args: {kind: VolumeBindingArgs, bindTimeoutSeconds: 30}}
  - {name: NodeAffinity, args: {addedAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {
      nodeSelectorTerms: [{matchExpressions: [{key: pool, operator: In, values: [a]}]}]}}}}
  percentageOfNodesToScore: 40",
    );
    let args = &told.args;
    assert!(args.ignores("example.com/gpu") && !args.ignores("example.org/gpu"));
    assert_eq!(args.strategy, Strategy::RequestedToCapacityRatio(vec![(0, 0), (100, 100)]));
    assert_eq!(args.resources, [("cpu".to_string(), 3), ("example.com/gpu".to_string(), 1)]);
    assert_eq!(args.hard_pod_affinity_weight, 7);
    assert!(matches!(&args.spread, SpreadDefaults::List(list) if list[0].topology_key == "rack"));
    assert_eq!(args.min_candidate_nodes_percentage, 5);
    assert_eq!(args.bind_timeout, Duration::from_secs(30));
    assert_eq!(told.percentage_of_nodes_to_score, 40);

    // What is added for every pod excludes nodes, in words of its own.
    let entry = |value: Value| Arc::new(Entry::decode(value.to_string().into()).unwrap());
    let mut cluster = Snapshot::default();
    let labels = json!({"kubernetes.io/hostname": "n"});
    cluster.put_node(entry(json!({"metadata": {"name": "n", "labels": labels},
        "status": {"allocatable": {"cpu": "1", "memory": "1Gi", "pods": "10"}}})));
    let pod = json!({"metadata": {"name": "p", "namespace": "default", "uid": "p"}});
    let pod = Entry::decode(pod.to_string().into()).unwrap();
    let pod = Arc::new(PodInfo::new(Key::new("default", "p"), Arc::new(pod)));
    let refused = Decider::new(told, Rng::seeded(1)).schedule(&pod, &cluster).unwrap_err();
    let reasons: Vec<_> = refused.reasons.keys().collect();
    assert_eq!(reasons, ["node(s) didn't match scheduler-enforced node affinity"]);
}

#[test]
fn of_several_profiles_each_has_a_name() {
    let two = parse("profiles: [{schedulerName: a}, {schedulerName: b}]\nleaderElection: {leaderElect: false, resourceName: mine}\n").unwrap();
    let names: Vec<&str> = two.profiles.iter().map(|profile| profile.name.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
    assert_eq!((two.leader_elect, two.lease.name.as_str()), (Some(false), "mine"));
}

#[test]
fn what_is_wrong_is_refused() {
    for (text, why) in [
        ("profile: []", "unknown field `profile`"),
        ("profiles: [{plugin: {}}]", "unknown field `plugin`"),
        ("profiles: [{plugins: {filters: {}}}]", "unknown field `filters`"),
        ("extenders: [{urlPrefix: 'http://x'}]", "calls no extenders"),
        ("profiles: [{plugins: {score: {enabled: [{name: Foo}]}}}]", "\"Foo\" does not exist"),
        (
            "profiles: [{plugins: {score: {enabled: [{name: NodePorts}]}}}]",
            "profiles[0].plugins.score: \"NodePorts\" cannot be enabled or disabled there alone",
        ),
        ("profiles: [{plugins: {multiPoint: {disabled: [{name: '*'}]}}}]", "nothing replaces it"),
        ("profiles: [{schedulerName: a}, {schedulerName: a}]", "is taken"),
        ("profiles: [{schedulerName: a}, {}]", "schedulerName: Required value"),
        ("percentageOfNodesToScore: 101", "not in valid range [0-100]"),
        ("podInitialBackoffSeconds: 0", "must be greater than 0"),
        ("podInitialBackoffSeconds: 20", "podMaxBackoffSeconds: must not be less"),
        ("leaderElection: {leaseDuration: 1m}", "leaseDuration: only \"15s\" is supported"),
        ("profiles: [{pluginConfig: [{name: Foo}]}]", "Foo: there is nothing to configure"),
        (
            "profiles: [{pluginConfig: [{name: InterPodAffinity, args: {weight: 1}}]}]",
            "unknown field `weight`",
        ),
        (
            "profiles: [{pluginConfig: [{name: InterPodAffinity, args: {kind: VolumeBindingArgs}}]}]",
            "not the kind InterPodAffinityArgs",
        ),
        (
            "profiles: [{pluginConfig: [{name: NodeAffinity, args: {addedAffinity: {required: [1]}}}]}]",
            "unknown field \"required\"",
        ),
        (
            "profiles: [{pluginConfig: [{name: NodeResourcesFit, args: {scoringStrategy: {type: RequestedToCapacityRatio}}}]}]",
            "requestedToCapacityRatio: Required value",
        ),
        (
            "profiles: [{pluginConfig: [{name: PodTopologySpread, args: {defaultConstraints: [
                {maxSkew: 1, topologyKey: z, whenUnsatisfiable: ScheduleAnyway}]}}]}]",
            "it must be List",
        ),
        (
            "profiles: [{pluginConfig: [{name: DefaultPreemption, args: {minCandidateNodesPercentage: 0, minCandidateNodesAbsolute: 0}}]}]",
            "cannot be zero at the same time",
        ),
    ] {
        let said = parse(text).err().unwrap_or_default();
        assert!(said.contains(why), "{text}: {said}");
    }
    let other = Config::parse("apiVersion: v1\nkind: Pod\n", Path::new("f"));
    assert!(other.is_err_and(|why| why.to_string().contains("apiVersion \"v1\" is not known")));
}
