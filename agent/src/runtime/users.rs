//! Who a container's process is: from the request, the image, and the image's passwd and group
//! files, which are read out of its layers without mounting anything.

use std::io::Read;
use std::path::{Path, PathBuf};

use proto::cri;
use rustix::fs::{Mode, OFlags, ResolveFlags};

/// The ids of a process and its home.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    pub home: String,
}

#[derive(Debug, thiserror::Error)]
pub enum UserError {
    #[error("unable to find user {0}: no matching entries in passwd file")]
    NoUser(String),
    #[error("unable to find group {0}: no matching entries in group file")]
    NoGroup(String),
    #[error("invalid user id {0}")]
    InvalidId(i64),
}

/// The passwd and group files of an image.
#[derive(Default)]
pub struct Accounts {
    passwd: String,
    group: String,
}

struct Account<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

impl Accounts {
    /// Reads the files from the highest layer that has them.
    pub fn read(layers: &Path, names: &[String]) -> Accounts {
        let read = |file: &str| {
            names.iter().rev().find_map(|name| within(&layers.join(name), file)).unwrap_or_default()
        };
        Accounts { passwd: read("etc/passwd"), group: read("etc/group") }
    }

    /// The user that the security context asks for, or else the image's (`user[:group]`).
    pub fn resolve(
        &self,
        context: &cri::LinuxContainerSecurityContext,
        image_user: &str,
    ) -> Result<User, UserError> {
        let (image_user, image_group) = image_user.split_once(':').unwrap_or((image_user, ""));
        let asked = match (&context.run_as_user, context.run_as_username.as_str()) {
            (Some(uid), _) => Some(id(uid.value)?.to_string()),
            (None, "") => None,
            (None, name) => Some(name.to_owned()),
        };
        let from_image = asked.is_none();
        let wanted = asked.unwrap_or_else(|| image_user.to_owned());
        let wanted = if wanted.is_empty() { "0".to_owned() } else { wanted };
        let account = self.accounts().find(|account| match wanted.parse::<u32>() {
            Ok(uid) => account.uid == uid,
            Err(_) => account.name == wanted,
        });
        let uid = match (&account, wanted.parse::<u32>()) {
            (Some(account), _) => account.uid,
            (None, Ok(uid)) => uid,
            (None, Err(_)) => return Err(UserError::NoUser(wanted)),
        };
        let gid = match &context.run_as_group {
            Some(group) => id(group.value)?,
            None if from_image && !image_group.is_empty() => self.group(image_group)?,
            None => account.as_ref().map_or(0, |account| account.gid),
        };
        let mut groups = Vec::new();
        let merge = context.supplemental_groups_policy() == cri::SupplementalGroupsPolicy::Merge;
        if let Some(account) = account.as_ref().filter(|_| merge) {
            groups.extend(self.groups_of(account.name));
        }
        for group in &context.supplemental_groups {
            groups.push(id(*group)?);
        }
        groups.push(gid);
        groups.sort_unstable();
        groups.dedup();
        let home = account.map_or("/", |account| account.home);
        let home = if home.is_empty() { "/" } else { home }.to_owned();
        Ok(User { uid, gid, groups, home })
    }

    fn accounts(&self) -> impl Iterator<Item = Account<'_>> {
        self.passwd.lines().filter_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            let (uid, gid) = (fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?);
            Some(Account { name: fields[0], uid, gid, home: fields.get(5).copied().unwrap_or("") })
        })
    }

    fn group(&self, wanted: &str) -> Result<u32, UserError> {
        if let Ok(gid) = wanted.parse() {
            return Ok(gid);
        }
        let found = self.group.lines().find(|line| line.split(':').next() == Some(wanted));
        let gid = found.and_then(|line| line.split(':').nth(2)?.parse().ok());
        gid.ok_or_else(|| UserError::NoGroup(wanted.to_owned()))
    }

    fn groups_of(&self, user: &str) -> impl Iterator<Item = u32> {
        self.group.lines().filter_map(move |line| {
            let mut fields = line.split(':').skip(2);
            let gid = fields.next()?.parse().ok()?;
            fields.next()?.split(',').any(|member| member == user).then_some(gid)
        })
    }
}

fn id(value: i64) -> Result<u32, UserError> {
    u32::try_from(value).map_err(|_| UserError::InvalidId(value))
}

/// A file of a layer; links on the way stay within the layer.
fn within(layer: &Path, file: &str) -> Option<String> {
    let root = rustix::fs::open(layer, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let fd = rustix::fs::openat2(
        &root,
        PathBuf::from(file),
        flags,
        Mode::empty(),
        ResolveFlags::IN_ROOT,
    )
    .ok()?;
    let file = std::fs::File::from(fd);
    if !file.metadata().ok()?.is_file() {
        return None; // Among others, the mark of a removed file.
    }
    let mut bytes = Vec::new();
    file.take(1 << 20).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found() {
        let accounts = Accounts {
            passwd: "root:x:0:0:root:/root:/bin/sh\nweb:x:101:102:web:/srv:/bin/false\n".to_owned(),
            group: "root:x:0:\nweb:x:102:\nextra:x:200:web,other\n".to_owned(),
        };
        let nobody = cri::LinuxContainerSecurityContext::default();
        let find = |context: &cri::LinuxContainerSecurityContext, image: &str| {
            let user = accounts.resolve(context, image).unwrap();
            (user.uid, user.gid, user.groups, user.home)
        };
        assert_eq!(find(&nobody, ""), (0, 0, vec![0], "/root".to_owned()));
        assert_eq!(find(&nobody, "web"), (101, 102, vec![102, 200], "/srv".to_owned()));
        assert_eq!(find(&nobody, "web:extra"), (101, 200, vec![200], "/srv".to_owned()));
        assert_eq!(find(&nobody, "1234:5"), (1234, 5, vec![5], "/".to_owned()));
        assert!(accounts.resolve(&nobody, "ghost").is_err());
        let asked = cri::LinuxContainerSecurityContext {
            run_as_user: Some(cri::Int64Value { value: 1000 }),
            supplemental_groups: vec![7],
            ..Default::default()
        };
        assert_eq!(find(&asked, "web"), (1000, 0, vec![0, 7], "/".to_owned()));
    }
}
