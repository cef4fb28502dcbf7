//! Limits of huge pages.

use std::fs;
use std::path::PathBuf;

use super::{CgroupError, Cgroups, failed, v2};

impl Cgroups {
    /// Huge pages have a controller of their own, which may be in either hierarchy, even on a hybrid
    /// machine. Where there is none nothing is counted: then only 0, the limit of whoever asked for
    /// nothing, goes without saying.
    pub fn limit_huge_pages(
        &self,
        path: &str,
        limits: &[(String, u64)],
    ) -> Result<(), CgroupError> {
        if limits.is_empty() {
            return Ok(());
        }
        let v1 = self.v1_folder("hugetlb", path);
        let unified = self.unified_folder(path).filter(|_| v1.is_none());
        let (folder, name) = match (v1, unified) {
            (Some(folder), _) => {
                fs::create_dir_all(&folder).map_err(failed("create cgroup", &folder))?;
                (folder, "limit_in_bytes")
            }
            (None, Some(folder)) => {
                let enabled = v2::enable_one(self.unified.as_deref(), path, "hugetlb");
                if limits.iter().any(|(_, limit)| *limit > 0) {
                    enabled?;
                }
                (folder, "max")
            }
            (None, None) => (PathBuf::new(), ""),
        };
        for (size, limit) in limits {
            let file = folder.join(format!("hugetlb.{size}.{name}"));
            if *limit > 0 || file.exists() {
                fs::write(&file, limit.to_string())
                    .map_err(failed("limit huge pages with", &file))?;
            }
        }
        Ok(())
    }
}
