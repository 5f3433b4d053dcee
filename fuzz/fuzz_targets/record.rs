//! Fuzz target for the memory that a guest writes: records, CTR_EL0, counters. The guest is hostile, so everything that
//! judges these must accept any bytes.
#![no_main]

use abi::channel::State;
use abi::record::Place;
use abi::{Ctr, Op, OpCode, Outcome, Record};
use guest::report::{Boot, End, GuestRun, VcpuReport, trouble};
use units::stats;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let words: Vec<u64> =
        data.as_chunks::<8>().0.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect();
    let word = |n: usize| words.get(n).copied().unwrap_or(0);
    let records: Vec<Record> = words.as_chunks::<8>().0.iter().map(|words| Record::from_words(*words)).collect();
    for (record, words) in records.iter().zip(words.as_chunks::<8>().0) {
        assert_eq!(record.to_words(), *words);
        if let (Some(outcome), Some(body)) = (record.outcome(), record.body()) {
            let place = Place { op: record.op, tag: record.tag, pass: record.pass };
            assert_eq!(Record::new(place, outcome, body).body(), Some(body));
        }
        let _ = (Outcome::from_esr(words[5]), OpCode::from_raw(words[0] as u16), abi::slot::decode(words[4]));
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
