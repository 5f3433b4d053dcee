//! What the watching thread does while a guest runs: events, programs that follow one another, the end.

use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::time::{Duration, Instant};

use abi::Op;

use crate::host::Host;
use crate::vcpu::{Left, Message};
use crate::{Guest, Watch};
use guest::report::End;

/// How often the watching thread looks up when nothing happens.
const TICK: Duration = Duration::from_millis(200);

/// Serves the guest until it ends or has to.
pub fn until_the_end(
    messages: &Receiver<Message>,
    guest: &Guest,
    host: &Host<'_>,
    limit: Duration,
    watch: &mut dyn Watch,
) -> End {
    let deadline = Instant::now() + limit;
    let mut waiting: Vec<SyncSender<()>> = Vec::new();
    let mut looked = Instant::now();
    loop {
        match messages.recv_timeout(TICK) {
            Ok(Message::Event { vcpu, op, done }) => {
                host.shared.carry_out(|| watch.event(vcpu, &op, host));
                // The vCPU waits for this; it is only gone when the run stops.
                let _ = done.send(());
            }
            Ok(Message::Next { done }) => {
                waiting.push(done);
                if waiting.len() == host.vcpus() {
                    if let Err(what) = next(guest, host, watch) {
                        return End::Trapped(what);
                    }
                    // As above.
                    for done in waiting.drain(..) {
                        let _ = done.send(());
                    }
                }
            }
            Ok(Message::Left(Left::PoweredOff)) => return End::PoweredOff,
            Ok(Message::Left(Left::Trapped(what))) => return End::Trapped(what),
            Ok(Message::Left(Left::Stopped)) | Err(RecvTimeoutError::Timeout) => (),
            Err(RecvTimeoutError::Disconnected) => return End::Trapped("all vCPU threads ended".into()),
        }
        // Programs that follow fast on one another are not held up by looking around.
        if looked.elapsed() >= TICK {
            watch.tick();
            looked = Instant::now();
        }
        if watch.interrupted() {
            return End::Interrupted;
        }
        if Instant::now() > deadline {
            return End::TimedOut;
        }
    }
}

/// Gives all vCPUs, which wait for it, their next programs: one that ends where there are no more.
fn next(guest: &Guest, host: &Host<'_>, watch: &mut dyn Watch) -> Result<(), String> {
    let trapped = |what: &dyn std::fmt::Display| format!("next program: {what}");
    host.settle();
    host.return_home();
    let reports = guest.reports(host.vcpus()).map_err(|error| trapped(&error))?;
    let programs = watch.next(&reports, host).unwrap_or_else(|| vec![vec![Op::end()]; host.vcpus()]);
    let fits = |(n, program): (usize, &Vec<Op>)| guest.layout.has_room(n, program.len());
    if programs.len() != host.vcpus() || !programs.iter().enumerate().all(fits) {
        return Err(trapped(&"has no room in the channel"));
    }
    for (n, program) in programs.iter().enumerate() {
        guest.layout.put_program(&guest.channel.slice(), n, program).map_err(|error| trapped(&error))?;
    }
    host.set_programs(programs);
    Ok(())
}
