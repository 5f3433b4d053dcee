//! Reports of stored runs, for people and labs.

pub mod compare;
pub mod formats;
pub mod html;
mod junit;
mod kcidb;
mod ktap;
mod lava;
mod linaro;
mod prom;
pub mod subject;
pub mod table;
