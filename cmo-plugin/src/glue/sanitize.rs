// SPDX-License-Identifier: GPL-2.0-or-later
//! Events of QEMU for the sanitizer's shadow.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ffi::{c_uint, c_void};
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use qemu_plugin_sys::qemu_plugin_cb_flags::{QEMU_PLUGIN_CB_NO_REGS, QEMU_PLUGIN_CB_R_REGS};
use qemu_plugin_sys::qemu_plugin_mem_rw::{QEMU_PLUGIN_MEM_RW, QEMU_PLUGIN_MEM_W};
use qemu_plugin_sys::{
    qemu_plugin_get_hwaddr, qemu_plugin_hwaddr_is_io, qemu_plugin_hwaddr_phys_addr, qemu_plugin_id_t, qemu_plugin_insn,
    qemu_plugin_insn_haddr, qemu_plugin_insn_vaddr, qemu_plugin_mem_is_store, qemu_plugin_mem_size_shift,
    qemu_plugin_meminfo_t, qemu_plugin_register_vcpu_init_cb, qemu_plugin_register_vcpu_insn_exec_cb,
    qemu_plugin_register_vcpu_mem_cb, qemu_plugin_tb, qemu_plugin_tb_get_insn, qemu_plugin_tb_n_insns,
};
use serde::Serialize;

use super::operands::Operands;
use super::qemu::{Qemu, Registers};
use super::word::word;
use crate::counts::{Ended, write_beside};
use crate::events::{Event, decode};
use crate::shadow::{
    Context, Features, MOST_PES, Place, Ram, Shadow, Stage1, Store, Suspect, WrittenMachine, WrittenSection,
};

/// HCR_EL2.VM.
const HCR_VM: u64 = 1;
/// HCR_EL2.TGE.
const HCR_TGE: u64 = 1 << 27;
/// HCR_EL2.FB.
const HCR_FB: u64 = 1 << 9;
/// HCR_EL2.BSU.
const HCR_BSU: u64 = 3 << 10;
/// SCTLR_EL1.M and C. Without one of them, loads and stores do not use the caches.
const SCTLR_CACHED: u64 = 1 | 1 << 2;
/// Size in bytes of the block that DC ZVA stores to, if the CPU does not tell.
const ZERO_BLOCK: u64 = 64;
/// Lowest physical address without a shadow. RAM of the emulated machine ends far below it.
const END: u64 = 1 << 38;
/// Number of uses of one translation. A change that the plugin does not see is noticed after that many.
const USES: u32 = 64;

/// Physical memory of the emulated machine.
struct EmulatedRam(&'static Qemu);

impl Ram for EmulatedRam {
    fn read(&self, pa: u64, entries: &mut [u64]) {
        self.0.read_memory(pa, entries);
    }
}

/// Place that accesses memory, with its index in the shadow.
struct Site {
    place: Place,
    index: u32,
}

/// Number of pages of guests whose memory type a thread remembers.
const PAGES_KNOWN: usize = 256;

/// State of the mode.
struct Sanitizer {
    qemu: &'static Qemu,
    out: PathBuf,
    registers: OnceLock<Registers>,
    shadow: OnceLock<Shadow<EmulatedRam>>,
    sites: Mutex<HashMap<(u64, u8, bool), &'static Site>>,
    /// Grows when translations of addresses may have changed on any PE.
    generation: AtomicU32,
    /// True for a PE whose guest does not use the caches.
    uncached: Vec<AtomicBool>,
    zero_block: AtomicU32,
}

static SANITIZER: OnceLock<Sanitizer> = OnceLock::new();

fn sanitizer() -> &'static Sanitizer {
    SANITIZER.get().expect("set before any callback is registered")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Prepares the mode, and registers its callbacks but for translation and exit.
///
/// # Errors
///
/// The reason why the mode does not work.
pub(super) fn install(id: qemu_plugin_id_t, out: PathBuf) -> Result<(), String> {
    let sanitizer = Sanitizer {
        qemu: Qemu::look_up()?,
        out,
        registers: OnceLock::new(),
        shadow: OnceLock::new(),
        sites: Mutex::default(),
        generation: AtomicU32::new(0),
        uncached: (0..MOST_PES).map(|_| AtomicBool::new(false)).collect(),
        zero_block: AtomicU32::new(ZERO_BLOCK as u32),
    };
    sanitizer.write(Ended::No).map_err(|error| format!("cannot write {}: {error}", sanitizer.out.display()))?;
    SANITIZER.set(sanitizer).map_err(|_| "loaded twice into one QEMU".to_owned())?;
    // SAFETY: `id` is the id of this plugin, and the callback is a function of this library.
    unsafe { qemu_plugin_register_vcpu_init_cb(id, Some(vcpu_began)) };
    Ok(())
}

extern "C" fn vcpu_began(_id: qemu_plugin_id_t, _vcpu: c_uint) {
    let sanitizer = sanitizer();
    if sanitizer.registers.get().is_some() {
        return;
    }
    match sanitizer.qemu.registers() {
        Ok(registers) => drop(sanitizer.registers.set(registers)),
        Err(problem) => {
            // QEMU has no way to take an error here, and running on would look like a check.
            let _ = writeln!(io::stderr(), "cmo-plugin: {problem}");
            std::process::exit(1);
        }
    }
}

#[derive(Serialize)]
struct Written {
    ended: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    machine: Option<WrittenMachine>,
    sections: Vec<WrittenSection>,
}

impl Sanitizer {
    fn registers(&self) -> &Registers {
        self.registers.get().expect("set when the first vCPU began")
    }

    /// Returns the shadow. The first caller reads the features of the machine, in a callback of a vCPU.
    fn shadow(&self) -> &Shadow<EmulatedRam> {
        self.shadow.get_or_init(|| {
            let read = |name: &str| self.registers().named(name).map_or(0, |register| self.qemu.read(register));
            if let Some(register) = self.registers().named("DCZID_EL0") {
                self.zero_block.store(4 << (self.qemu.read(register) & 0xf), Ordering::Relaxed);
            }
            let features =
                Features::of(read("CTR_EL0"), read("CLIDR"), read("ID_AA64MMFR0_EL1"), read("ID_AA64MMFR2_EL1"));
            Shadow::new(features, EmulatedRam(self.qemu), END)
        })
    }

    fn write(&self, ended: Ended) -> io::Result<()> {
        let machine = self.shadow.get().map(Shadow::written_machine);
        let sections = self.shadow.get().map_or_else(Vec::new, Shadow::written);
        let written = Written { ended: ended == Ended::Yes, machine, sections };
        write_beside(&self.out, &serde_json::to_vec(&written).map_err(io::Error::other)?)
    }

    /// Writes the reports so far. A failure is printed, because QEMU has no way to take it.
    fn save(&self, ended: Ended) {
        if let Err(error) = self.write(ended) {
            let _ = writeln!(io::stderr(), "cmo-plugin: cannot write {}: {error}", self.out.display());
        }
    }

    fn site(&self, place: Place) -> &'static Site {
        let mut sites = lock(&self.sites);
        sites.entry((place.pc, place.el, place.guest)).or_insert_with(|| {
            let index = self.shadow().place(place);
            Box::leak(Box::new(Site { place, index }))
        })
    }

    /// Translates an address of a host at EL1 by stage 1 alone.
    ///
    /// Under protected KVM the host runs on a stage 2 that maps each address to itself, and that lacks what the host has
    /// not touched lately. An operation by address would fault there, and be repeated; the emulator executes it at once.
    fn translate_by_stage1(&self, context: u64, va: u64) -> Option<u64> {
        let (guest, el) = (context & 1 != 0, context >> 1);
        if guest || el > 1 {
            return None;
        }
        let read = |ipa: u64| {
            let mut entry = [0];
            self.qemu.read_memory(ipa, &mut entry);
            Some(entry[0])
        };
        self.stage1().translate(va, read).map(|translated| translated.ipa)
    }

    /// Reads the registers of stage 1 of the EL1&0 translation regime.
    fn stage1(&self) -> Stage1 {
        let read = |name: &str| self.registers().named(name).map_or(0, |register| self.qemu.read(register));
        let ttbr = [read("TTBR0_EL1"), read("TTBR1_EL1")];
        Stage1 { tcr: read("TCR_EL1"), ttbr, mair: read("MAIR_EL1") }
    }

    /// Returns whether an access of the guest on `pe` to `va` goes around the caches.
    fn is_uncached(&self, pe: usize, va: u64) -> bool {
        if self.uncached[pe % MOST_PES].load(Ordering::Relaxed) {
            return true;
        }
        /// Answer for one page: the page with its PE, the generation, and the answer.
        type Known = Cell<(u64, u32, bool)>;
        thread_local! {
            static KNOWN: [Known; PAGES_KNOWN] = const { [const { Cell::new((u64::MAX, 0, false)) }; PAGES_KNOWN] };
        }
        let generation = self.generation.load(Ordering::Relaxed).wrapping_add(LOCAL_GENERATION.get());
        // Addresses have at most 52 bits below their sign, so the PE has room above the page.
        let page = (va << 8 >> 20) | (pe as u64) << 52;
        KNOWN.with(|known| {
            let known = &known[page as usize % PAGES_KNOWN];
            let (of, made, answer) = known.get();
            if (of, made) == (page, generation) {
                return answer;
            }
            let answer = !self.shadow().is_cacheable(pe, &self.stage1(), va);
            known.set((page, generation, answer));
            answer
        })
    }

    /// Reads the register of an instruction; 31 is XZR.
    fn register(&self, rt: u64) -> u64 {
        self.registers().x.get(rt as usize).map_or(0, |register| self.qemu.read(*register))
    }

    /// Returns the physical address of `va` in the context of the running instruction.
    fn translate(&self, vcpu: u32, context: u64, va: u64) -> Option<u64> {
        struct Cached {
            key: (u32, u64, u64),
            generation: u32,
            uses: u32,
            pa: u64,
        }
        thread_local! {
            static LAST: RefCell<Cached> =
                const { RefCell::new(Cached { key: (u32::MAX, 0, 0), generation: 0, uses: 0, pa: 0 }) };
        }
        let generation = self.generation.load(Ordering::Relaxed).wrapping_add(LOCAL_GENERATION.get());
        let key = (vcpu, context, va >> 12);
        LAST.with_borrow_mut(|last| {
            if last.key != key || last.generation != generation || last.uses == USES {
                let whole = self.qemu.translate(vcpu, va & !0xfff);
                let pa = whole.or_else(|| self.translate_by_stage1(context, va & !0xfff))?;
                *last = Cached { key, generation, uses: 0, pa };
            }
            last.uses += 1;
            Some(last.pa | (va & 0xfff))
        })
    }
}

thread_local! {
    /// Grows when translations of addresses may have changed on this PE.
    static LOCAL_GENERATION: Cell<u32> = const { Cell::new(0) };
}

fn forget_translations() {
    LOCAL_GENERATION.set(LOCAL_GENERATION.get().wrapping_add(1));
}

/// Instruction that needs its place and its registers.
struct AtSite {
    site: &'static Site,
    rd: u32,
    rn: u32,
}

/// Instruments each block that QEMU translates.
pub(super) extern "C" fn translated(_id: qemu_plugin_id_t, tb: *mut qemu_plugin_tb) {
    let sanitizer = sanitizer();
    let (qemu, registers) = (sanitizer.qemu, sanitizer.registers());
    let el = (qemu.read(registers.cpsr) >> 2 & 3) as u8;
    let hcr = qemu.read(registers.hcr);
    let guest = el <= 1 && hcr & (HCR_VM | HCR_TGE) == HCR_VM && qemu.read(registers.vttbr) >> 48 != 0;
    // SAFETY: QEMU passes the block that it translates, which is valid during this callback.
    let count = unsafe { qemu_plugin_tb_n_insns(tb) };
    for index in 0..count {
        // SAFETY: `index` is below the number of instructions of the block.
        let insn = unsafe { qemu_plugin_tb_get_insn(tb, index) };
        // SAFETY: `insn` belongs to the block of the running callback.
        let (word, pc, host) = unsafe { (word(insn), qemu_plugin_insn_vaddr(insn), qemu_plugin_insn_haddr(insn)) };
        let Some(word) = word else { continue };
        let place = Place { pc, el, guest };
        if let Some(event) = decode(word) {
            // SAFETY: as above.
            unsafe { instrument(sanitizer, insn, event, place, hcr) };
        }
        let pa = if host.is_null() { None } else { page_of(sanitizer, host.addr() as u64, pc) };
        if let Some(suspect) = pa.and_then(|pa| sanitizer.shadow().translate(place, pa, word)) {
            let suspect: &'static (Suspect, AtomicBool) = Box::leak(Box::new((suspect, AtomicBool::new(false))));
            // SAFETY: `insn` belongs to the block, and `executed_suspect` takes this pointer, which is never freed.
            unsafe { on_execution(insn, executed_suspect, std::ptr::from_ref(suspect).cast_mut().cast()) };
        }
    }
}

/// Returns the physical address of an instruction from the address of its word in QEMU.
fn page_of(sanitizer: &Sanitizer, host: u64, pc: u64) -> Option<u64> {
    thread_local! {
        static PAGES: RefCell<HashMap<u64, u64>> = RefCell::default();
    }
    let page = PAGES.with_borrow_mut(|pages| match pages.get(&(host >> 12)) {
        Some(pa) => Some(*pa),
        None => {
            let pa = sanitizer.qemu.translate_current(pc & !0xfff)?;
            pages.insert(host >> 12, pa);
            Some(pa)
        }
    })?;
    Some(page | (pc & 0xfff))
}

type Callback = unsafe extern "C" fn(c_uint, *mut c_void);

/// Calls `callback` before each execution of an instruction.
///
/// # Safety
///
/// `insn` must belong to the block whose translation callback is running, and `callback` must take `data`.
unsafe fn on_execution(insn: *mut qemu_plugin_insn, callback: Callback, data: *mut c_void) {
    // SAFETY: the caller promises it.
    unsafe { qemu_plugin_register_vcpu_insn_exec_cb(insn, Some(callback), QEMU_PLUGIN_CB_R_REGS, data) };
}

/// Attaches the callback of an event to its instruction.
///
/// # Safety
///
/// `insn` must belong to the block whose translation callback is running.
unsafe fn instrument(sanitizer: &Sanitizer, insn: *mut qemu_plugin_insn, event: Event, place: Place, hcr: u64) {
    let of = |rt: u32, flags: u32| Operands::new(rt, place, flags).pointer();
    let (callback, data): (Callback, *mut c_void) = match event {
        Event::Case => (began_case, of(0, 0)),
        Event::Clean { rt, poc, invalidates } => (cleaned, of(rt, u32::from(poc) | u32::from(invalidates) << 1)),
        Event::Invalidate { rt } => (invalidated, of(rt, 0)),
        Event::InvalidateAll { all_pes } => {
            let broadcast = place.guest && hcr & HCR_FB != 0;
            (invalidated_all, of(0, u32::from(all_pes || broadcast)))
        }
        Event::Barrier { for_all } => {
            let upgraded = place.guest && hcr & HCR_BSU != 0;
            (barrier, of(0, u32::from(for_all || upgraded)))
        }
        Event::Zero { rt } => {
            let at = AtSite { site: sanitizer.site(place), rd: rt, rn: 31 };
            (zeroed, Box::into_raw(Box::new(at)).cast())
        }
        Event::Copy { rd, rn } => {
            let at = AtSite { site: sanitizer.site(place), rd, rn };
            (copied, Box::into_raw(Box::new(at)).cast())
        }
        Event::Unseen => (not_seen, of(0, 0)),
        Event::Access { only_loads } => {
            let loads = place.guest && !sanitizer.shadow().features().fwb;
            if only_loads && !loads {
                return;
            }
            let site: *const Site = sanitizer.site(place);
            // SAFETY: `insn` belongs to the block, and both functions take a `Site`, which is never freed.
            unsafe {
                if loads {
                    let (flags, which) = (QEMU_PLUGIN_CB_R_REGS, QEMU_PLUGIN_MEM_RW);
                    qemu_plugin_register_vcpu_mem_cb(insn, Some(accessed), flags, which, site as *mut c_void);
                } else {
                    let (flags, which) = (QEMU_PLUGIN_CB_NO_REGS, QEMU_PLUGIN_MEM_W);
                    qemu_plugin_register_vcpu_mem_cb(insn, Some(stored), flags, which, site as *mut c_void);
                }
            }
            return;
        }
        Event::WriteVttbr { rt } => {
            let at = AtSite { site: sanitizer.site(place), rd: rt, rn: 31 };
            (wrote_vttbr, Box::into_raw(Box::new(at)).cast())
        }
        Event::WriteSctlr { rt } => (wrote_sctlr, of(rt, 0)),
        Event::WriteTranslation => (wrote_translation, of(0, 0)),
        Event::ExceptionReturn => {
            let site: *const Site = sanitizer.site(place);
            (returned, site as *mut c_void)
        }
        Event::InvalidateTlb { stage2, all_guests } => {
            (invalidated_tlb, of(0, u32::from(stage2 && place.el == 2) | u32::from(all_guests) << 1))
        }
    };
    // SAFETY: the caller promises it. Each callback takes the data that stands beside it.
    unsafe { on_execution(insn, callback, data) };
}

extern "C" fn began_case(_vcpu: c_uint, _data: *mut c_void) {
    let sanitizer = sanitizer();
    sanitizer.shadow().begin_case(sanitizer.register(0));
    sanitizer.save(Ended::No);
}

extern "C" fn cleaned(vcpu: c_uint, data: *mut c_void) {
    let (sanitizer, operands) = (sanitizer(), Operands::of(data));
    let va = sanitizer.register(operands.rt());
    if let Some(pa) = sanitizer.translate(vcpu, operands.context(), va) {
        sanitizer.shadow().clean(vcpu as usize, operands.guest(), pa, operands.flag(0), operands.flag(1));
    }
}

extern "C" fn invalidated(vcpu: c_uint, data: *mut c_void) {
    let (sanitizer, operands) = (sanitizer(), Operands::of(data));
    let va = sanitizer.register(operands.rt());
    if let Some(pa) = sanitizer.translate(vcpu, operands.context(), va) {
        sanitizer.shadow().invalidate(vcpu as usize, operands.guest(), pa);
    }
}

extern "C" fn invalidated_all(vcpu: c_uint, data: *mut c_void) {
    let operands = Operands::of(data);
    sanitizer().shadow().invalidate_all(vcpu as usize, operands.guest(), operands.flag(0));
}

extern "C" fn barrier(vcpu: c_uint, data: *mut c_void) {
    sanitizer().shadow().barrier(vcpu as usize, Operands::of(data).flag(0));
}

/// Records a store to `size` bytes from `va` on, page by page.
fn stored_range(vcpu: u32, site: &Site, va: u64, size: u64) {
    let (sanitizer, context) = (sanitizer(), Operands::new(0, site.place, 0).context());
    let (mut at, end) = (va, va.saturating_add(size));
    while at < end {
        let next = end.min((at | 0xfff) + 1);
        match sanitizer.translate(vcpu, context, at) {
            Some(pa) => {
                let (pe, place, site) = (vcpu as usize, &site.place, site.index);
                let store = Store { pe, place, site, pa, size: next - at, uncached: false };
                sanitizer.shadow().store(&store, || None);
            }
            // The page will fault, and the instruction is executed again.
            None => return,
        }
        at = next;
    }
}

extern "C" fn zeroed(vcpu: c_uint, data: *mut c_void) {
    // SAFETY: `instrument` registered this function with an `AtSite` that is never freed.
    let at = unsafe { &*data.cast_const().cast::<AtSite>() };
    let size = u64::from(sanitizer().zero_block.load(Ordering::Relaxed));
    let va = sanitizer().register(u64::from(at.rd));
    stored_range(vcpu, at.site, va / size * size, size);
}

extern "C" fn copied(vcpu: c_uint, data: *mut c_void) {
    // SAFETY: `instrument` registered this function with an `AtSite` that is never freed.
    let at = unsafe { &*data.cast_const().cast::<AtSite>() };
    let (va, size) = (sanitizer().register(u64::from(at.rd)), sanitizer().register(u64::from(at.rn)));
    stored_range(vcpu, at.site, va, size);
}

extern "C" fn not_seen(_vcpu: c_uint, _data: *mut c_void) {
    sanitizer().shadow().unseen_store();
}

/// Returns the physical address of the access of the running callback; none if it is not to RAM.
///
/// # Safety
///
/// `info` and `va` must be those of the running callback.
#[inline]
unsafe fn address(info: qemu_plugin_meminfo_t, va: u64) -> Option<u64> {
    // SAFETY: the caller promises it. The handle is used only here.
    unsafe {
        let address = qemu_plugin_get_hwaddr(info, va);
        let is_ram = !address.is_null() && !qemu_plugin_hwaddr_is_io(address);
        is_ram.then(|| qemu_plugin_hwaddr_phys_addr(address))
    }
}

/// Records a store that uses the caches.
extern "C" fn stored(vcpu: c_uint, info: qemu_plugin_meminfo_t, va: u64, data: *mut c_void) {
    // SAFETY: `instrument` registered this function with a `Site` that is never freed.
    let site = unsafe { &*data.cast_const().cast::<Site>() };
    // SAFETY: both are those of the running callback.
    let Some(pa) = (unsafe { address(info, va) }) else { return };
    record_store(sanitizer(), vcpu, info, site, pa, false);
}

#[inline]
fn record_store(sanitizer: &Sanitizer, vcpu: u32, info: qemu_plugin_meminfo_t, site: &Site, pa: u64, uncached: bool) {
    // SAFETY: `info` is from the running callback.
    let shift = unsafe { qemu_plugin_mem_size_shift(info) };
    let (pe, place, site) = (vcpu as usize, &site.place, site.index);
    let store = Store { pe, place, site, pa, size: 1 << shift, uncached };
    sanitizer.shadow().store(&store, || if shift == 3 { sanitizer.qemu.stored(info) } else { None });
}

/// Records an access of a guest, which may go around the caches.
extern "C" fn accessed(vcpu: c_uint, info: qemu_plugin_meminfo_t, va: u64, data: *mut c_void) {
    // SAFETY: `instrument` registered this function with a `Site` that is never freed.
    let site = unsafe { &*data.cast_const().cast::<Site>() };
    // SAFETY: both are those of the running callback.
    let Some(pa) = (unsafe { address(info, va) }) else { return };
    let (sanitizer, pe) = (sanitizer(), vcpu as usize);
    // SAFETY: `info` is from the running callback.
    if unsafe { qemu_plugin_mem_is_store(info) } {
        record_store(sanitizer, vcpu, info, site, pa, sanitizer.is_uncached(pe, va));
    } else {
        sanitizer.shadow().load(pe, &site.place, pa, || !sanitizer.is_uncached(pe, va));
    }
}

extern "C" fn wrote_vttbr(vcpu: c_uint, data: *mut c_void) {
    // SAFETY: `instrument` registered this function with an `AtSite` that is never freed.
    let at = unsafe { &*data.cast_const().cast::<AtSite>() };
    let sanitizer = sanitizer();
    forget_translations();
    let (vttbr, vtcr) = (sanitizer.register(u64::from(at.rd)), sanitizer.qemu.read(sanitizer.registers().vtcr));
    sanitizer.shadow().load_stage2(vcpu as usize, vttbr, vtcr, &at.site.place);
}

extern "C" fn wrote_sctlr(vcpu: c_uint, data: *mut c_void) {
    let (sanitizer, operands) = (sanitizer(), Operands::of(data));
    forget_translations();
    if operands.guest() {
        let cached = sanitizer.register(operands.rt()) & SCTLR_CACHED == SCTLR_CACHED;
        sanitizer.uncached[vcpu as usize % MOST_PES].store(!cached, Ordering::Relaxed);
    }
}

extern "C" fn wrote_translation(_vcpu: c_uint, _data: *mut c_void) {
    forget_translations();
}

extern "C" fn returned(vcpu: c_uint, data: *mut c_void) {
    // SAFETY: `instrument` registered this function with a `Site` that is never freed.
    let site = unsafe { &*data.cast_const().cast::<Site>() };
    forget_translations();
    let sanitizer = sanitizer();
    if !site.place.guest && sanitizer.shadow().has_unmapped(vcpu as usize) {
        let name = if site.place.el == 2 { "SPSR_EL2" } else { "SPSR_EL1" };
        // SPSR_ELx.M is 0 for EL0.
        if sanitizer.registers().named(name).is_none_or(|spsr| sanitizer.qemu.read(spsr) & 0xf == 0) {
            sanitizer.shadow().return_to_user(vcpu as usize);
        }
    }
    if site.place.el != 2 {
        return;
    }
    let (qemu, registers) = (sanitizer.qemu, sanitizer.registers());
    let hcr = qemu.read(registers.hcr);
    if hcr & (HCR_VM | HCR_TGE) != HCR_VM || qemu.read(registers.vttbr) >> 48 == 0 {
        return;
    }
    let context = Context { hcr, vtcr: qemu.read(registers.vtcr) };
    sanitizer.shadow().enter_guest(vcpu as usize, context, &site.place);
    if let Some(sctlr) = registers.named("SCTLR") {
        let cached = qemu.read(sctlr) & SCTLR_CACHED == SCTLR_CACHED;
        sanitizer.uncached[vcpu as usize % MOST_PES].store(!cached, Ordering::Relaxed);
    }
}

extern "C" fn invalidated_tlb(vcpu: c_uint, data: *mut c_void) {
    let (sanitizer, operands) = (sanitizer(), Operands::of(data));
    sanitizer.generation.fetch_add(1, Ordering::Relaxed);
    if operands.flag(0) {
        sanitizer.shadow().invalidate_tlb(vcpu as usize, operands.flag(1));
    }
}

extern "C" fn executed_suspect(vcpu: c_uint, data: *mut c_void) {
    // SAFETY: `translated` registered this function with this pair, which is never freed.
    let (suspect, is_done) = unsafe { &*data.cast_const().cast::<(Suspect, AtomicBool)>() };
    if !is_done.load(Ordering::Relaxed) && sanitizer().shadow().execute(vcpu as usize, suspect) {
        is_done.store(true, Ordering::Relaxed);
    }
}

/// Writes the final reports when QEMU exits.
pub(super) extern "C" fn exiting(_id: qemu_plugin_id_t, _data: *mut c_void) {
    sanitizer().save(Ended::Yes);
}
