//! ImageLocality: better where the pod's images are already, the more of them by size, and the
//! less the fewer nodes have them, so that nodes do not attract all pods of an image.

use std::sync::Arc;

use super::{BEST, Event, Judge, Plugin};
use crate::profile::Args;
use crate::snapshot::{Change, NodeInfo, PodInfo, Snapshot};

pub struct ImageLocality;

/// Each image, and how many nodes have it.
struct Images(Vec<(String, usize)>);

const MEGABYTE: i64 = 1024 * 1024;
const LEAST: i64 = 23 * MEGABYTE;
/// For each container.
const MOST: i64 = 1000 * MEGABYTE;

impl Plugin for ImageLocality {
    fn name(&self) -> &'static str {
        "ImageLocality"
    }

    fn weight(&self) -> i64 {
        1
    }

    fn filters(&self) -> bool {
        false
    }

    fn cures(&self) -> &'static [Event] {
        &[]
    }

    fn judge(&self, pod: &Arc<PodInfo>, cluster: &Snapshot, _: &Args) -> Option<Box<dyn Judge>> {
        let images = pod.images().map(|image| {
            let image = full_name(image);
            let nodes = cluster.image(&image);
            (image, nodes)
        });
        Some(Box::new(Images(images.collect())))
    }
}

impl Judge for Images {
    fn follow(&mut self, change: &Change, cluster: &Snapshot) -> bool {
        !matches!(change, Change::Images)
            || self.0.iter().all(|(image, nodes)| cluster.image(image) == *nodes)
    }

    fn score(&self, node: &NodeInfo, cluster: &Snapshot) -> Option<i64> {
        let all = cluster.nodes().len() as f64;
        let images = &node.object.status.images;
        let share = |(image, nodes): &(String, usize)| {
            if *nodes == 0 {
                return 0;
            }
            let here = images.iter().find(|own| own.names.contains(image));
            here.map_or(0, |here| (here.size_bytes as f64 * (*nodes as f64 / all)) as i64)
        };
        let sum: i64 = self.0.iter().map(share).sum();
        let most = MOST * self.0.len() as i64;
        Some(if most == 0 { 0 } else { BEST * (sum.clamp(LEAST, most) - LEAST) / (most - LEAST) })
    }
}

/// As nodes report it: with a tag.
fn full_name(image: &str) -> String {
    match image.rfind(':') > image.rfind('/') {
        true => image.to_string(),
        false => format!("{image}:latest"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_without_a_tag_are_the_latest() {
        assert_eq!(full_name("web"), "web:latest");
        assert_eq!(full_name("host:5000/web"), "host:5000/web:latest");
        assert_eq!(full_name("host:5000/web:1"), "host:5000/web:1");
    }
}
