//! Facts about this machine from KVM and from a small guest, for `faultline doctor`. Reading them changes nothing.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use abi::Op;
use hostfacts::affinity;

use crate::inspection::{CpuKind, Kvm};
use crate::runner::ending::{bad_end, facts};
use guest::spec::GuestSpec;
use record::machine::Machine;
use record::result::VcpuFacts;

/// Time limit of a guest that only starts and ends. It takes milliseconds on hardware, and more on an emulated machine.
const LIMIT: Duration = Duration::from_secs(60);

/// Returns the state of KVM on this machine.
pub fn kvm() -> Kvm {
    match vmm::limits() {
        Ok(limits) => Kvm::Present(limits),
        Err(vmm::Error::NoPermission) => Kvm::NoPermission,
        Err(error) => Kvm::Absent(error.to_string()),
    }
}

/// Runs a guest on one CPU of each MIDR_EL1, and returns the registers that it read.
pub fn cpu_kinds(machine: &Machine, image: &[u8]) -> Vec<CpuKind> {
    let mut kinds: BTreeMap<Option<u64>, Vec<usize>> = BTreeMap::new();
    for cpu in &machine.cpus_online {
        kinds.entry(machine.midr.get(cpu).copied()).or_default().push(*cpu);
    }
    let kind = |(midr, cpus): (Option<u64>, Vec<usize>)| {
        let guest = match cpus.iter().find(|cpu| machine.cpus_allowed.contains(cpu)) {
            Some(cpu) => boot_on(*cpu, image),
            None => Err("this process may not run on any of them (affinity or cpuset)".into()),
        };
        CpuKind { midr: midr.map(|midr| format!("{midr:#x}")), cpus, guest }
    };
    kinds.into_iter().map(kind).collect()
}

/// Boots the guest from a thread that may use this CPU only. vCPU threads inherit the affinity of the thread that
/// creates them.
fn boot_on(cpu: usize, image: &[u8]) -> Result<VcpuFacts, String> {
    thread::scope(|scope| {
        let named = thread::Builder::new().name(format!("inspect-{cpu}"));
        let pinned = named.spawn_scoped(scope, || {
            affinity::pin(None, cpu).map_err(|error| format!("cannot run on CPU {cpu}: {error}"))?;
            boot(image)
        });
        pinned
            .map_err(|error| format!("no thread for CPU {cpu}: {error}"))?
            .join()
            .expect("the runner aborts instead of unwinding")
    })
}

fn boot(image: &[u8]) -> Result<VcpuFacts, String> {
    let spec = GuestSpec { regions: Vec::new(), programs: vec![vec![Op::end()]], records: 8, ..GuestSpec::default() };
    let run = vmm::run(&spec, image, LIMIT, &mut vmm::Unwatched).map_err(|error| error.to_string())?;
    if let Some(verdict) = bad_end(&run) {
        return Err(verdict.reason);
    }
    run.vcpus.first().map(facts).ok_or_else(|| "the guest left nothing".into())
}
