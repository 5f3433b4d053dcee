//! State that the vCPU threads of one guest share with each other and with the serving thread.

use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError, RwLock};

use abi::Op;
use abi::op::MAX_RENDEZVOUS;

use crate::console::Console;

/// Number of arrivals at each rendezvous at which vCPUs wait in the host.
type Arrivals = [u64; MAX_RENDEZVOUS as usize];

/// State that the threads of one guest share.
pub struct Shared {
    /// The host's own copy of the programs.
    programs: RwLock<Vec<Vec<Op>>>,
    /// Thread id of each vCPU; 0 before its thread runs.
    threads: Vec<AtomicI32>,
    arrivals: Mutex<Arrivals>,
    /// Signals that `arrivals` or `stop` changed.
    arrived: Condvar,
    stop: AtomicBool,
    console: Mutex<Console>,
    /// Held during a host event.
    event: Mutex<()>,
    events_done: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// Returns the state of a guest with these programs.
    pub fn new(programs: Vec<Vec<Op>>) -> Self {
        Self {
            threads: programs.iter().map(|_| AtomicI32::new(0)).collect(),
            programs: RwLock::new(programs),
            arrivals: Mutex::new([0; MAX_RENDEZVOUS as usize]),
            arrived: Condvar::new(),
            stop: AtomicBool::new(false),
            console: Mutex::new(Console::new()),
            event: Mutex::new(()),
            events_done: AtomicU64::new(0),
        }
    }

    /// Replaces the programs while all vCPUs wait.
    pub fn set_programs(&self, programs: Vec<Vec<Op>>) {
        *self.programs.write().unwrap_or_else(PoisonError::into_inner) = programs;
    }

    /// Returns op `index` of the program of `vcpu`.
    pub fn op(&self, vcpu: usize, index: u64) -> Option<Op> {
        let programs = self.programs.read().unwrap_or_else(PoisonError::into_inner);
        programs.get(vcpu)?.get(usize::try_from(index).ok()?).copied()
    }

    /// Stores the id of this thread, which runs vCPU `index`.
    pub fn register_thread(&self, index: usize) {
        if let Some(thread) = self.threads.get(index) {
            thread.store(rustix::thread::gettid().as_raw_nonzero().get(), Ordering::SeqCst);
        }
    }

    /// Returns the id of the thread of vCPU `index`.
    pub fn thread(&self, index: usize) -> Option<i32> {
        self.threads.get(index).map(|thread| thread.load(Ordering::SeqCst)).filter(|id| *id != 0)
    }

    /// Asks all vCPU threads to stop. A thread inside the guest notices it only after a signal.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
        // The lock makes sure that no thread is between its check of `stop` and its wait.
        drop(lock(&self.arrivals));
        self.arrived.notify_all();
    }

    /// Returns whether the vCPU threads must stop.
    pub fn stopping(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    /// Carries out a host event. vCPUs that run meanwhile may find their memory missing for a moment.
    pub fn carry_out(&self, event: impl FnOnce()) {
        let _guard = lock(&self.event);
        event();
        self.events_done.fetch_add(1, Ordering::SeqCst);
    }

    /// Returns the number of host events that have ended.
    pub fn events_done(&self) -> u64 {
        self.events_done.load(Ordering::SeqCst)
    }

    /// Waits until no host event is under way, and returns whether one has ended since their number was `before`.
    pub fn event_ended_since(&self, before: u64) -> bool {
        drop(lock(&self.event));
        self.events_done() != before
    }

    /// Returns the guest's console.
    pub fn console(&self) -> MutexGuard<'_, Console> {
        lock(&self.console)
    }

    /// Blocks until all vCPUs of the rendezvous `op` have arrived, or until the run stops.
    pub fn arrive(&self, op: &Op) {
        let [number, vcpus, ..] = op.args;
        let slot = (number % MAX_RENDEZVOUS) as usize;
        let mut arrivals = lock(&self.arrivals);
        arrivals[slot] += 1;
        let all = arrivals[slot].next_multiple_of(vcpus.max(1));
        self.arrived.notify_all();
        while arrivals[slot] < all && !self.stopping() {
            arrivals = self.arrived.wait(arrivals).unwrap_or_else(PoisonError::into_inner);
        }
    }
}
