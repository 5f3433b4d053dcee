//! What a guest may leave in the channel: records, CTR_EL0, counters. All that judges them has to live with any bytes.
#![no_main]

use abi::channel::State;
use abi::{Ctr, Kind, Op, OpCode, Outcome, Record};
use guest::run::{Boot, End, GuestRun, VcpuReport, trouble};
use units::stats;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let words: Vec<u64> =
        data.as_chunks::<8>().0.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect();
    let word = |n: usize| words.get(n).copied().unwrap_or(0);
    let records: Vec<Record> = words.as_chunks::<8>().0.iter().map(|words| Record::from_words(*words)).collect();
    for record in &records {
        let _ = (Kind::from_raw(record.kind), Outcome::from_raw(record.outcome), Outcome::from_esr(record.data[3]));
        let _ = (OpCode::from_raw(record.kind), abi::slot::decode(record.data[2]));
    }
    let ctr = Ctr(word(0));
    let _ = (ctr.imin_line_bytes(), ctr.dmin_line_bytes(), ctr.l1ip().name(), ctr.idc(), ctr.dic());
    let _ = abi::ctr::clidr_implies_idc(word(1));
    let _ = stats::timing(words.clone(), word(2));
    let [head, start, bytes, stride] = [word(3), word(4), word(5), word(6)];
    let op = Op { code: head as u16, flags: 0, tag: 0, start, bytes, stride, args: [0; 4] };
    assert_eq!(op.to_words()[1], start);
    let vcpu = VcpuReport {
        state: State::from_raw(word(7)),
        current_op: word(1),
        dropped: word(8),
        ctr_el0: word(0),
        cntfrq_el0: word(2),
        records,
        ..VcpuReport::default()
    };
    let end = if word(9) & 1 == 0 { End::PoweredOff } else { End::TimedOut };
    let console = String::from_utf8_lossy(data).into_owned();
    let run = GuestRun { end, vcpus: vec![vcpu], cpus: vec![0], console, boot: Boot::default(), notes: Vec::new() };
    let _ = trouble(&run);
});
