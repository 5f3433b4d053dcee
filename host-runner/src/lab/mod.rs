//! lab
pub mod cmo;
pub mod policy;
