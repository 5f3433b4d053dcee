//! The options of `exec`.

use std::ffi::OsString;

use clap::Args as ClapArgs;

use crate::options::Common;

/// Options of `exec`.
#[derive(ClapArgs, Clone, Debug)]
#[command(args_override_self = true)]
pub struct Args {
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap would take the comment for the help text of the group")]
    pub common: Common,
    /// Program and its arguments; the options above come before it
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "PROGRAM")]
    pub program: Vec<OsString>,
}
