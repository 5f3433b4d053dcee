//! Kernel messages: reads a kernel log and says what the kernel complained about.

pub mod attribution;
#[cfg(test)]
mod corpus;
pub mod kmsg;
pub mod message;
pub mod quiet;
pub mod record;
pub mod text;
