//! The vCPU threads of one guest: their start, their CPUs and their stop.

use std::os::unix::thread::JoinHandleExt;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use hostfacts::affinity;
use kvm_ioctls::VcpuFd;

use crate::error::Error;
use crate::registers;
use crate::shared::Shared;
use crate::vcpu::{Message, VcpuEnd, VcpuLoop};

/// Signal that makes KVM_RUN return with EINTR.
const KICK_SIGNAL: i32 = libc::SIGUSR1;
/// Time between two signals to a vCPU thread that must stop.
const KICK_INTERVAL: Duration = Duration::from_millis(10);

/// The running vCPU threads of one guest.
pub struct VcpuThreads {
    shared: Arc<Shared>,
    /// Each thread returns the registers of its vCPU, or nothing if the guest powered itself off.
    handles: Vec<JoinHandle<Vec<String>>>,
}

impl VcpuThreads {
    /// Starts a thread for each vCPU and pins it to one of `cpus`. The name of a thread is `name-N` for vCPU N.
    ///
    /// # Errors
    ///
    /// [`Error::Thread`].
    pub fn start(
        vcpus: Vec<VcpuFd>,
        shared: &Arc<Shared>,
        cpus: &[usize],
        name: &str,
    ) -> Result<(Self, Receiver<Message>), Error> {
        let (sender, messages) = channel();
        let mut threads = Self { shared: Arc::clone(shared), handles: Vec::new() };
        for (index, fd) in vcpus.into_iter().enumerate() {
            let (shared, messages) = (Arc::clone(shared), sender.clone());
            let cpu = cpus[index % cpus.len()];
            let body = move || {
                // If the CPU went offline, the vCPU runs on any other.
                let _ = affinity::pin(None, cpu);
                run_vcpu(fd, index, &shared, messages)
            };
            match thread::Builder::new().name(format!("{name}-{index}")).spawn(body) {
                Ok(handle) => threads.handles.push(handle),
                Err(error) => {
                    threads.stop();
                    return Err(Error::Thread(index, error));
                }
            }
        }
        Ok((threads, messages))
    }

    /// Stops all threads, however long the kernel keeps them, and returns the registers of each vCPU.
    pub fn stop(self) -> Vec<Vec<String>> {
        // SAFETY: the handler does nothing. The only use of the signal is that KVM_RUN returns EINTR.
        let handler = unsafe { signal_hook::low_level::register(KICK_SIGNAL, || ()) };
        self.shared.stop();
        while self.handles.iter().any(|thread| !thread.is_finished()) {
            if handler.is_ok() {
                for thread in self.handles.iter().filter(|thread| !thread.is_finished()) {
                    // SAFETY: the thread is not joined yet, so its pthread_t is valid. The signal has a handler.
                    unsafe { libc::pthread_kill(thread.as_pthread_t() as libc::pthread_t, KICK_SIGNAL) };
                }
            }
            thread::sleep(KICK_INTERVAL);
        }
        if let Ok(handler) = handler {
            signal_hook::low_level::unregister(handler);
        }
        self.handles.into_iter().map(|thread| thread.join().unwrap_or_default()).collect()
    }
}

fn run_vcpu(mut fd: VcpuFd, index: usize, shared: &Shared, messages: Sender<Message>) -> Vec<String> {
    let end = VcpuLoop { index, shared, messages: messages.clone() }.run(&mut fd);
    let registers = if matches!(end, VcpuEnd::PoweredOff) { Vec::new() } else { registers::report(&fd) };
    // The serving thread no longer listens after the end of the run.
    let _ = messages.send(Message::Ended(end));
    registers
}
