//! What a guest is given and what it leaves behind, and the host events that its program may ask for: plain data.

pub mod ctr;
pub mod event;
pub mod limits;
pub mod region;
pub mod run;
