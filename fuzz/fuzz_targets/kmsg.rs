//! Kernel logs of any kind: /dev/kmsg records, saved logs, and what is made of them.
#![no_main]

use klog::attribution::attribute;
use klog::kmsg::KmsgRecord;
use klog::saved;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = KmsgRecord::parse(data);
    for complaint in saved::complaints(data).expect("memory can be read") {
        assert!(complaint.repeats > 0);
        let _ = attribute(&complaint);
    }
});
