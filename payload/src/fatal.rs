//! End of a guest that cannot continue: it reports an unexpected exception or a panic, and powers off.

use core::panic::PanicInfo;

use aarch64_cpu::registers::{ELR_EL1, ESR_EL1, FAR_EL1, Readable};
use abi::channel::State;
use abi::line::{END, PREFIX};
use abi::record::{Body, Exception, Place};
use abi::{Outcome, Record};
use payload::interpreter::Sink;

use crate::job::JOB;
use crate::{console, per_cpu, psci};

/// Registers at an unexpected exception, as the vectors store them.
#[repr(C)]
pub(crate) struct Frame {
    /// Registers x0 to x30.
    x: [u64; 31],
    /// Offset of the vector from VBAR_EL1, in bytes.
    vector: u64,
}

const _: () = assert!(size_of::<Frame>() == 256);

/// Reports an exception that nothing expects, in the channel and on the console. The vectors call it.
pub(crate) extern "C" fn unexpected_exception(frame: &Frame) -> ! {
    let (esr, far, elr) = (ESR_EL1.get(), FAR_EL1.get(), ELR_EL1.get());
    let cpu = per_cpu::this_cpu();
    let vector = frame.vector;
    if let Some(channel) = JOB.get().and_then(|job| job.channel()) {
        let mut vcpu = channel.vcpu(cpu);
        vcpu.resume();
        let place = Place { op: vcpu.current_op(), ..Place::default() };
        let exception = Exception { esr_el1: esr, far_el1: far, elr_el1: elr, vector };
        vcpu.record(Record::new(place, Outcome::from_esr(esr), Body::Exception(exception)));
        vcpu.set_state(State::Died);
    }
    panic!(
        "cpu {cpu}: exception at vector {vector:#x}: ESR_EL1 {esr:#x} FAR_EL1 {far:#x} ELR_EL1 {elr:#x} x0 {:#x} x1 {:#x} x30 {:#x}",
        frame.x[0], frame.x[1], frame.x[30]
    );
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    console::last_line(format_args!("faultline payload: {info}"));
    if JOB.get().is_none_or(|job| job.channel().is_none()) {
        console::last_line(format_args!("{PREFIX} result name=payload status=fail value=0 unit=none"));
        console::last_line(format_args!("{PREFIX} {END}"));
    }
    psci::system_off()
}
