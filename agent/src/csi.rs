//! Drivers of storage, as the Container Storage Interface has them: how they make themselves known
//! to the node, and how their volumes come to pods. A driver does all mounting itself; what is
//! remembered here is on the disk, written before each call, so that whatever was begun can be
//! undone after a restart.
//! <https://kubernetes-csi.github.io/docs/>

mod driver;
mod mount;
mod plugins;
mod volume;

pub use driver::Driver;
pub use mount::{Error, Mounted, grow, in_use, mount, unmount};
pub use plugins::{Plugins, Registration};
pub use volume::{Attachment, Wanted, attachment_name, inline_handle, unique_name};
