//! The run of a guest from its memory to its report.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use guest::report::{End, GuestRun};
use guest::spec::{GuestSpec, InitialBytes, RegionSpec};
use hostfacts::affinity;
use vm_memory::Bytes;

use crate::error::Error;
use crate::host::Host;
use crate::kvm;
use crate::memory::HostMemory;
use crate::serve;
use crate::shared::Shared;
use crate::threads::VcpuThreads;
use crate::vm::{Parts, Vm};
use crate::watch::Watch;

/// Runs the image as `spec` describes, for at most `limit`.
///
/// # Errors
///
/// The step of the set-up that failed. Everything that the guest does is in the [`GuestRun`].
pub fn run(spec: &GuestSpec, image: &[u8], limit: Duration, watch: &mut dyn Watch) -> Result<GuestRun, Error> {
    // Without this check, an impossible IPA would be reported as missing memory.
    kvm::ipa_bits(&kvm::open()?, spec)?;
    let memory = |region: &RegionSpec| HostMemory::new(region).map_err(|error| Error::Memory(*region, error));
    let regions = spec.regions.iter().map(memory).collect::<Result<Vec<_>, _>>()?;
    for contents in &spec.contents {
        put(spec, &regions, contents).map_err(|error| Error::Contents(contents.ipa, error))?;
    }
    run_on(Parts { spec, image, regions: &regions }, "vcpu", limit, watch)
}

/// Writes the bytes into the region that holds their IPA.
fn put(spec: &GuestSpec, regions: &[HostMemory], contents: &InitialBytes) -> io::Result<()> {
    let holds = |region: &RegionSpec| (region.ipa..region.ipa + region.bytes).contains(&contents.ipa);
    let n = spec.regions.iter().position(holds).ok_or(io::ErrorKind::InvalidInput)?;
    let offset = (contents.ipa - spec.regions[n].ipa) as usize;
    regions[n].slice().write_slice(&contents.bytes, offset).map_err(io::Error::other)
}

/// Runs a guest on memory that exists already. The name of each vCPU thread is `thread_name-N`.
///
/// # Errors
///
/// Those of [`run`].
pub fn run_on(parts: Parts<'_>, thread_name: &str, limit: Duration, watch: &mut dyn Watch) -> Result<GuestRun, Error> {
    let vcpus = parts.spec.programs.len();
    let mut vm = Vm::new(parts)?;
    let shared = Arc::new(Shared::new(parts.spec.programs.clone()));
    let cpus = affinity::allowed();
    let mut notes = Vec::new();
    if vcpus > cpus.len() {
        notes.push(format!("{vcpus} vCPUs share {} CPUs", cpus.len()));
    }
    let (threads, messages) = VcpuThreads::start(std::mem::take(&mut vm.vcpus), &shared, &cpus, thread_name)?;
    let host = Host::new(parts, &vm.fd, &shared, &cpus);
    let end = serve::until_the_end(&messages, &vm, &host, limit, watch);
    // A vCPU that waits for an answer continues when its message is dropped.
    drop(messages);
    let registers = threads.stop();
    drop(host);
    let mut reports = vm.reports(vcpus)?;
    if end != End::PoweredOff {
        for (report, registers) in reports.iter_mut().zip(registers) {
            report.registers = registers;
        }
    }
    let console = shared.console().text();
    let cpus = cpus.into_iter().take(vcpus).collect();
    Ok(GuestRun { end, vcpus: reports, cpus, console, boot: vm.boot()?, notes })
}

/// Returns the CPUs to which the threads of this many vCPUs are pinned.
pub fn cpus(vcpus: usize) -> Vec<usize> {
    let mut cpus = affinity::allowed();
    cpus.truncate(vcpus);
    cpus
}
