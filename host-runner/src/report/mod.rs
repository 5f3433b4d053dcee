//! What people read, made from the stored result alone.

pub mod storm;
pub mod table;
