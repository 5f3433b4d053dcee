//! Fuzz target for stored runs: results and journals, whole or torn, and the verdicts and tables made from them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use record::journal::Journal;
use record::reproduction::reproduction;
use record::result::RunResult;
use record::verdict;

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    let journal = Journal::parse(&text);
    let _ = (journal.done().count(), journal.under_way(), journal.not_begun());
    let Ok(result) = serde_json::from_slice::<RunResult>(data) else { return };
    let again = serde_json::to_vec(&result).expect("what was read can be written");
    assert_eq!(serde_json::from_slice::<RunResult>(&again).expect("and read again").run, result.run);
    let _ = (verdict::of_cases(&result.cases), reproduction(&result, &result));
    report::table::print(&mut std::io::sink(), &[scenarios::viewed(&result)]).expect("a sink takes everything");
});
