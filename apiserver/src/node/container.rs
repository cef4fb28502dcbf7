//! Which container a request means, and whether it can be talked to.

use proto::status::Status;
use serde::Deserialize;

/// What is read of a pod here.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Pod {
    pub metadata: Metadata,
    pub spec: Spec,
    pub status: PodStatus,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Metadata {
    pub name: String,
    pub annotations: proto::meta::Labels,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Spec {
    pub node_name: String,
    pub containers: Vec<Named>,
    pub init_containers: Vec<Named>,
    pub ephemeral_containers: Vec<Named>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Named {
    pub name: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct PodStatus {
    pub phase: String,
}

impl Pod {
    /// The container named, or the only one. 400 in Kubernetes' words otherwise.
    pub fn container<'a>(&'a self, named: &'a str) -> Result<&'a str, Status> {
        let (pod, spec) = (&self.metadata.name, &self.spec);
        if !named.is_empty() {
            let mut all = [&spec.containers, &spec.init_containers, &spec.ephemeral_containers]
                .into_iter()
                .flatten();
            return match all.any(|container| container.name == named) {
                true => Ok(named),
                false => Err(Status::bad_request(format!(
                    "container {named} is not valid for pod {pod}"
                ))),
            };
        }
        let annotated = self.metadata.annotations.get("kubectl.kubernetes.io/default-container");
        match (spec.containers.as_slice(), annotated) {
            ([one], _) => Ok(&one.name),
            ([], _) => Err(Status::bad_request(format!(
                "a container name must be specified for pod {pod}"
            ))),
            (many, annotated) => {
                let default = annotated.and_then(|name| many.iter().find(|c| c.name == *name));
                if let Some(container) = default {
                    return Ok(&container.name);
                }
                let mut message = format!(
                    "a container name must be specified for pod {pod}, choose one of: [{}]",
                    names(many)
                );
                if !spec.init_containers.is_empty() {
                    message += &format!(
                        " or one of the init containers: [{}]",
                        names(&spec.init_containers)
                    );
                }
                Err(Status::bad_request(message))
            }
        }
    }

    /// The node it is on; 400 while it has none.
    pub fn node(&self) -> Result<&str, Status> {
        match self.spec.node_name.as_str() {
            "" => Err(Status::bad_request(format!(
                "pod {} does not have a host assigned",
                self.metadata.name
            ))),
            node => Ok(node),
        }
    }
}

fn names(containers: &[Named]) -> String {
    let names: Vec<&str> = containers.iter().map(|container| container.name.as_str()).collect();
    names.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_container() {
        let pod = |text: &str| -> Pod { serde_json::from_str(text).unwrap() };
        let two =
            pod(r#"{"metadata":{"name":"p"},"spec":{"containers":[{"name":"a"},{"name":"b"}],
                "initContainers":[{"name":"i"}]}}"#);
        assert_eq!(two.container("b").unwrap(), "b");
        assert_eq!(two.container("i").unwrap(), "i");
        assert_eq!(two.container("x").unwrap_err().message, "container x is not valid for pod p");
        assert_eq!(
            two.container("").unwrap_err().message,
            "a container name must be specified for pod p, choose one of: [a b] or one of the \
             init containers: [i]"
        );
        let one = pod(r#"{"metadata":{"name":"p"},"spec":{"containers":[{"name":"a"}]}}"#);
        assert_eq!(one.container("").unwrap(), "a");
        assert_eq!(one.node().unwrap_err().message, "pod p does not have a host assigned");
    }
}
