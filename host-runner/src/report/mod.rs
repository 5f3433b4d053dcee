//! What people and labs read, made from the stored result alone.

pub mod coherence;
pub mod formats;
pub mod html;
mod junit;
mod kcidb;
mod ktap;
mod lava;
mod linaro;
mod litmus;
pub mod measure;
mod prom;
pub mod runs;
pub mod storm;
pub mod subject;
pub mod table;
pub mod words;
