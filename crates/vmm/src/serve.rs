//! The serving thread's work while a guest runs: host events, new programs, and the end of the run.

use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::time::{Duration, Instant};

use abi::Op;
use guest::report::End;

use crate::host::Host;
use crate::vcpu::{Message, VcpuEnd};
use crate::vm::Vm;
use crate::watch::Watch;

/// Time between two ticks of the watch.
const TICK: Duration = Duration::from_millis(200);

/// Serves the guest until it ends, or until the time limit or the watch ends the run.
pub fn until_the_end(
    messages: &Receiver<Message>,
    vm: &Vm,
    host: &Host<'_>,
    limit: Duration,
    watch: &mut dyn Watch,
) -> End {
    let deadline = Instant::now() + limit;
    let mut waiting: Vec<SyncSender<()>> = Vec::new();
    let mut last_tick = Instant::now();
    loop {
        match messages.recv_timeout(TICK) {
            Ok(Message::Event { vcpu, op, done }) => {
                host.shared.carry_out(|| watch.event(vcpu, &op, host));
                // The vCPU waits for this message. Its thread is gone only if the run stops.
                let _ = done.send(());
            }
            Ok(Message::Next { done }) => {
                waiting.push(done);
                if waiting.len() == host.vcpus() {
                    if let Err(what) = start_next_programs(vm, host, watch) {
                        return End::Trapped(format!("next program: {what}"));
                    }
                    for done in waiting.drain(..) {
                        // As above.
                        let _ = done.send(());
                    }
                }
            }
            Ok(Message::Ended(VcpuEnd::PoweredOff)) => return End::PoweredOff,
            Ok(Message::Ended(VcpuEnd::Trapped(what))) => return End::Trapped(what),
            Ok(Message::Ended(VcpuEnd::Stopped)) | Err(RecvTimeoutError::Timeout) => (),
            Err(RecvTimeoutError::Disconnected) => return End::Trapped("all vCPU threads ended".into()),
        }
        // A tick after each message would slow down short programs.
        if last_tick.elapsed() >= TICK {
            watch.tick();
            last_tick = Instant::now();
        }
        if watch.interrupted() {
            return End::Interrupted;
        }
        if Instant::now() > deadline {
            return End::TimedOut;
        }
    }
}

/// Gives all vCPUs, which wait, their next programs. If the watch has none, the programs end the guest.
fn start_next_programs(vm: &Vm, host: &Host<'_>, watch: &mut dyn Watch) -> Result<(), String> {
    // The next programs get new contents, so pages that were lost do not matter to them.
    let _ = host.settle();
    host.move_vcpus_back();
    let reports = vm.reports(host.vcpus()).map_err(|error| error.to_string())?;
    let programs = watch.next(&reports, host).unwrap_or_else(|| vec![vec![Op::end()]; host.vcpus()]);
    let fits = |(n, program): (usize, &Vec<Op>)| vm.has_room(n, program.len());
    if programs.len() != host.vcpus() || !programs.iter().enumerate().all(fits) {
        return Err("has no room in the channel".into());
    }
    for (n, program) in programs.iter().enumerate() {
        vm.put_program(n, program).map_err(|error| error.to_string())?;
    }
    host.set_programs(programs);
    Ok(())
}
