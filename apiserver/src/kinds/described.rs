//! The descriptions of the fields that columns show, as `schema/columns.txt` names them; build.rs
//! takes the texts from the schemas.

include!(concat!(env!("OUT_DIR"), "/columns.rs"));
