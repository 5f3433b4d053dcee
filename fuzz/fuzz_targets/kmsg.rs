//! Fuzz target for kernel logs: records of /dev/kmsg, saved logs, and the attribution of their events.
#![no_main]

use klog::attribution::attribute_all;
use klog::kmsg::KmsgRecord;
use klog::text;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = KmsgRecord::parse(data);
    for event in text::events(data).expect("memory can be read") {
        assert!(event.repeats > 0);
        let _ = attribute_all(&event);
    }
});
