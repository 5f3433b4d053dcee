//! Fuzz target for plan files.
#![no_main]

use host_runner::plan::file;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    let is_plan_file = file::is_plan_file(&text);
    match file::parse("fuzz.toml", &text) {
        Ok(plan) => {
            assert!(is_plan_file && !plan.steps.is_empty());
            assert!(plan.steps.iter().all(|step| !step.words.is_empty() && step.line <= text.lines().count()));
        }
        Err(error) => assert!(error.to_string().starts_with("fuzz.toml:")),
    }
});
