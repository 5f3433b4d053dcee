//! Implementation of the interpreter's [`Cpu`] by the CPU that executes it.

use core::sync::atomic::{AtomicU64, Ordering};

use abi::channel::doorbell;
use abi::op::{Attr, Barrier, MAX_RENDEZVOUS};
use abi::{Ctr, ctr};
use payload::interpreter::{Access, Clean, Cpu, LoadMode, WaitIn};

use crate::{access, asm, tables};

/// Number of arrivals at each rendezvous since boot.
static ARRIVED: [AtomicU64; MAX_RENDEZVOUS as usize] = [const { AtomicU64::new(0) }; MAX_RENDEZVOUS as usize];

/// Number of times that a vCPU polls for the arrival of the others before it waits in WFE.
const MEET_POLLS: u64 = 10_000;

/// CPU that executes this code, while it runs its programs.
pub(crate) struct RealCpu {
    index: u64,
    ctr_el0: u64,
    clidr_el1: u64,
    doorbell: Option<u64>,
    /// Number of times that this CPU has been at each rendezvous.
    visits: [u32; MAX_RENDEZVOUS as usize],
}

impl RealCpu {
    /// Returns this CPU, number `index`. `doorbell` is the address of the mapped doorbell page, if there is one.
    pub(crate) fn new(index: usize, clidr_el1: u64, doorbell: Option<u64>) -> Self {
        let visits = [0; MAX_RENDEZVOUS as usize];
        Self { index: index as u64, ctr_el0: asm::ctr_el0(), clidr_el1, doorbell, visits }
    }

    /// Asks the host for the next program, and waits for it. `op` is the op that asks.
    pub(crate) fn next_program(&self, op: u32) {
        self.ring(doorbell::NEXT, op);
    }

    /// Writes a register of the doorbell page, if there is one.
    fn ring(&self, offset: u64, op: u32) {
        if let Some(page) = self.doorbell {
            // SAFETY: the page stays mapped as device memory, and its registers take 64-bit writes.
            unsafe { ((page + offset) as *mut u64).write_volatile(self.index << 32 | u64::from(op)) };
        }
    }
}

impl Cpu for RealCpu {
    fn ctr(&self) -> Ctr {
        Ctr(self.ctr_el0)
    }

    fn clidr_implies_idc(&self) -> bool {
        ctr::clidr_implies_idc(self.clidr_el1)
    }

    fn ticks(&mut self) -> u64 {
        asm::cntvct_el0_ordered()
    }

    #[inline]
    fn fetch(&mut self, ipa: u64) -> Access {
        // SAFETY: only regions under test are executable in the lower VA range, and programs write only slots and
        // instructions that trap there.
        unsafe { access::fetch(ipa) }
    }

    #[inline]
    fn load(&mut self, ipa: u64, mode: LoadMode) -> Access {
        // SAFETY: programs load from memory under test, which contains no device. `prepare_load` has mapped the window,
        // and has cleaned the tables for table walks with the caches off.
        unsafe {
            match mode {
                LoadMode::Cacheable => access::load(ipa),
                LoadMode::NonCacheable => access::load(ipa + tables::NON_CACHEABLE_WINDOW),
                LoadMode::CachesOff => access::load_caches_off(ipa),
            }
        }
    }

    fn prepare_load(&mut self, mode: LoadMode, ipa: u64, bytes: u64) -> bool {
        match mode {
            LoadMode::Cacheable => true,
            LoadMode::NonCacheable => tables::map_non_cacheable(ipa, bytes).is_ok(),
            LoadMode::CachesOff => {
                tables::clean_to_poc(self.ctr().dmin_line_bytes());
                true
            }
        }
    }

    #[inline]
    fn store(&mut self, ipa: u64, value: u64) -> Access {
        // SAFETY: programs store to memory under test, which Rust does not use.
        unsafe { access::store(ipa, value) }
    }

    #[inline]
    fn clean_d(&mut self, clean: Clean, ipa: u64) {
        // SAFETY: programs clean mapped memory. An address without a mapping ends the guest with a record of its
        // exception.
        unsafe {
            match clean {
                Clean::ToPou => asm::dc_cvau(ipa),
                Clean::ToPoc => asm::dc_cvac(ipa),
                Clean::AndInvalidate => asm::dc_civac(ipa),
            }
        }
    }

    #[inline]
    fn inval_i(&mut self, ipa: u64) {
        // SAFETY: programs invalidate mapped memory. An address without a mapping ends the guest with a record of its
        // exception.
        unsafe { asm::ic_ivau(ipa) }
    }

    fn inval_i_all(&mut self) {
        asm::ic_ialluis();
    }

    fn barrier(&mut self, barrier: Barrier) {
        match barrier {
            Barrier::DmbIsh => asm::dmb_ish(),
            Barrier::DsbIsh => asm::dsb_ish(),
            Barrier::Isb => asm::isb(),
            Barrier::DmbIshst => asm::dmb_ishst(),
            Barrier::DmbIshld => asm::dmb_ishld(),
        }
    }

    fn remap(&mut self, ipa: u64, bytes: u64, attr: Attr, max_block_bytes: u64) -> bool {
        tables::remap(ipa, bytes, attr.into(), max_block_bytes).is_ok()
    }

    fn rendezvous(&mut self, number: u64, vcpus: u64, wait: WaitIn) {
        let Some(arrived) = ARRIVED.get(number as usize) else { return };
        if let WaitIn::Host { op } = wait {
            self.ring(doorbell::ARRIVE, op);
        }
        let visits = &mut self.visits[number as usize];
        *visits += 1;
        let all = u64::from(*visits) * vcpus;
        if arrived.fetch_add(1, Ordering::AcqRel) + 1 == all {
            asm::sev();
        }
        while arrived.load(Ordering::Acquire) < all {
            asm::wfe();
        }
    }

    fn event(&mut self, op: u32) {
        self.ring(doorbell::EVENT, op);
    }

    fn wait(&mut self, ticks: u64) {
        let end = asm::cntvct_el0_ordered().wrapping_add(ticks);
        while asm::cntvct_el0_ordered() < end {}
    }

    #[inline]
    fn call(&mut self, ipa: u64) -> Access {
        // SAFETY: the host compiles the functions of a race so that they access only memory under test and the
        // doorbell.
        unsafe { access::call(ipa) }
    }

    #[inline]
    fn peek(&mut self, ipa: u64) -> u64 {
        // SAFETY: programs name memory under test, which Rust does not use. An address without a mapping ends the
        // guest.
        unsafe { (ipa as *const u64).read_volatile() }
    }

    #[inline]
    fn poke(&mut self, ipa: u64, value: u64) {
        // SAFETY: programs name memory under test, which Rust does not use. An address without a mapping ends the
        // guest.
        unsafe { (ipa as *mut u64).write_volatile(value) };
    }

    fn meet(&mut self, ipa: u64, vcpus: u64) {
        // SAFETY: races name an aligned word of memory under test, and use it for nothing else.
        let arrived = unsafe { AtomicU64::from_ptr(ipa as *mut u64) };
        let before = arrived.fetch_add(1, Ordering::AcqRel);
        let all = before - before % vcpus + vcpus;
        if before + 1 == all {
            asm::sev();
        }
        let mut polls = 0;
        while arrived.load(Ordering::Acquire) < all {
            polls += 1;
            // All threads leave a busy loop at nearly the same time, but a long wait must not occupy a CPU.
            if polls > MEET_POLLS {
                asm::wfe();
            }
        }
    }

    fn spin(&mut self, rounds: u64) {
        asm::spin(rounds);
    }
}
