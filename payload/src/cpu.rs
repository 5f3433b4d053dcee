//! The interpreter's [`Cpu`] on the real one.

use core::sync::atomic::{AtomicU64, Ordering};

use abi::channel::doorbell;
use abi::op::{Attr, Barrier, MAX_RENDEZVOUS};
use abi::{Ctr, ctr};
use payload::interpreter::{Access, Clean, Cpu, Look};

use crate::{asm, exceptions, tables};

/// Arrivals at each rendezvous since boot.
static ARRIVED: [AtomicU64; MAX_RENDEZVOUS as usize] = [const { AtomicU64::new(0) }; MAX_RENDEZVOUS as usize];

/// How often a vCPU looks whether the others have arrived before it waits in WFE.
const MEET_LOOKS: u64 = 10_000;

/// This CPU, for the length of one program.
pub struct RealCpu {
    index: u64,
    ctr_el0: u64,
    clidr_el1: u64,
    doorbell: Option<u64>,
    /// How often this CPU has been at each rendezvous.
    visits: [u32; MAX_RENDEZVOUS as usize],
}

impl RealCpu {
    /// Returns this CPU, number `index`; `doorbell` is the mapped doorbell page, where there is a host to ask.
    pub fn new(index: usize, clidr_el1: u64, doorbell: Option<u64>) -> Self {
        let visits = [0; MAX_RENDEZVOUS as usize];
        Self { index: index as u64, ctr_el0: asm::ctr_el0(), clidr_el1, doorbell, visits }
    }

    /// Waits for the host's next program, at the op that asks for it.
    pub fn next_program(&self, op: u32) {
        self.ring(doorbell::NEXT, op);
    }

    fn ring(&self, offset: u64, op: u32) {
        if let Some(page) = self.doorbell {
            // SAFETY: the page is mapped as device memory for good; a 64-bit write there is its whole protocol.
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
        // SAFETY: only regions under test are executable in the lower VA range, and programs put nothing but slots
        // there.
        unsafe { exceptions::fetch(ipa) }
    }

    #[inline]
    fn load(&mut self, ipa: u64, look: Look) -> Access {
        // SAFETY: programs name memory under test; the one device in the lower range, the console, is not there.
        // `prepare` mapped the window, and made table walks possible with caches off.
        unsafe {
            match look {
                Look::Cacheable => exceptions::load(ipa),
                Look::NonCacheable => exceptions::load(ipa + tables::NON_CACHEABLE_WINDOW),
                Look::CachesOff => exceptions::load_caches_off(ipa),
            }
        }
    }

    fn prepare(&mut self, look: Look, ipa: u64, bytes: u64) -> bool {
        match look {
            Look::Cacheable => true,
            Look::NonCacheable => tables::map_non_cacheable(ipa, bytes).is_ok(),
            Look::CachesOff => {
                tables::clean_to_poc(self.ctr().dmin_line_bytes());
                true
            }
        }
    }

    #[inline]
    fn store(&mut self, ipa: u64, value: u64) -> Access {
        // SAFETY: memory under test is not known to Rust.
        unsafe { exceptions::store(ipa, value) }
    }

    #[inline]
    fn clean_d(&mut self, clean: Clean, ipa: u64) {
        // SAFETY: programs name mapped memory; an address that is not ends the guest with its syndrome on record.
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
        // SAFETY: as for `clean_d`.
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

    fn rendezvous(&mut self, number: u64, vcpus: u64, sleep: bool, op: u32) {
        let Some(arrived) = ARRIVED.get(number as usize) else { return };
        if sleep {
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
        // SAFETY: the host compiles the threads of a race so: they touch memory under test and the doorbell alone.
        unsafe { exceptions::call(ipa) }
    }

    #[inline]
    fn peek(&mut self, ipa: u64) -> u64 {
        // SAFETY: programs name memory under test, which Rust does not know of; one that is not mapped ends the guest.
        unsafe { (ipa as *const u64).read_volatile() }
    }

    #[inline]
    fn poke(&mut self, ipa: u64, value: u64) {
        // SAFETY: as for `peek`.
        unsafe { (ipa as *mut u64).write_volatile(value) };
    }

    fn meet(&mut self, ipa: u64, vcpus: u64) {
        // SAFETY: as for `peek`; races name an aligned word that is used for nothing else.
        let arrived = unsafe { AtomicU64::from_ptr(ipa as *mut u64) };
        let before = arrived.fetch_add(1, Ordering::AcqRel);
        let all = before - before % vcpus + vcpus;
        if before + 1 == all {
            asm::sev();
        }
        let mut looks = 0;
        while arrived.load(Ordering::Acquire) < all {
            looks += 1;
            // Spinning leaves all threads at the same time; but one that waits for long should not take a CPU.
            if looks > MEET_LOOKS {
                asm::wfe();
            }
        }
    }

    fn spin(&mut self, rounds: u64) {
        asm::spin(rounds);
    }
}
