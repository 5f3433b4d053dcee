// SPDX-License-Identifier: GPL-2.0-or-later
//! Functions of QEMU that the first version of the plugin interface does not have. They are looked up by name.
//!
//! Registers and values of stores came with API 4 (QEMU 10). Up to API 4 there is no official way to translate a
//! virtual address or to read physical memory, so functions of QEMU itself do it.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::sync::OnceLock;

use qemu_plugin_sys::qemu_plugin_meminfo_t;

/// Array of GLib, as QEMU returns it.
#[repr(C)]
struct GArray {
    data: *mut c_char,
    len: c_uint,
}

/// Array of bytes of GLib.
#[repr(C)]
struct GByteArray {
    data: *mut u8,
    len: c_uint,
}

/// Descriptor of a register (`qemu_plugin_reg_descriptor`). More fields follow.
#[repr(C)]
struct RegisterDescriptor {
    handle: *mut c_void,
    name: *const c_char,
}

/// Value of an access (`qemu_plugin_mem_value`).
#[repr(C)]
struct MemValue {
    kind: c_int,
    low: u64,
    high: u64,
}

/// Kind of a [`MemValue`] of 64 bits.
const MEM_VALUE_U64: c_int = 3;

// Types of the functions that are looked up.
type GetRegisters = unsafe extern "C" fn() -> *mut GArray;
type ReadRegister = unsafe extern "C" fn(*mut c_void, *mut GByteArray) -> c_int;
type MemGetValue = unsafe extern "C" fn(qemu_plugin_meminfo_t) -> MemValue;
type ArrayElementSize = unsafe extern "C" fn(*mut GArray) -> c_uint;
type ByteArrayNew = unsafe extern "C" fn() -> *mut GByteArray;
type ByteArraySetSize = unsafe extern "C" fn(*mut GByteArray, c_uint) -> *mut GByteArray;
type PhysPage = unsafe extern "C" fn(*mut c_void, u64, *mut u64) -> u64;
type PhysicalMemoryRw = unsafe extern "C" fn(u64, *mut c_void, u64, bool);
type GetCpu = unsafe extern "C" fn(c_int) -> *mut c_void;

/// Functions that are looked up.
pub(super) struct Qemu {
    get_registers: GetRegisters,
    read_register: ReadRegister,
    mem_get_value: MemGetValue,
    array_element_size: ArrayElementSize,
    byte_array_new: ByteArrayNew,
    byte_array_set_size: ByteArraySetSize,
    /// `hwaddr cpu_get_phys_page_attrs_debug(CPUState *, vaddr, MemTxAttrs *)`.
    phys_page: PhysPage,
    /// `void cpu_physical_memory_rw(hwaddr, void *, hwaddr, bool)`.
    physical_memory_rw: PhysicalMemoryRw,
    /// `CPUState *qemu_get_cpu(int)`.
    get_cpu: GetCpu,
}

static QEMU: OnceLock<Qemu> = OnceLock::new();

/// Handle of a register, from QEMU.
#[derive(Clone, Copy)]
pub(super) struct Register(*mut c_void);

// SAFETY: a handle is a number of QEMU, which no thread dereferences.
unsafe impl Send for Register {}
// SAFETY: as above.
unsafe impl Sync for Register {}

/// Registers that the sanitizer reads.
pub(super) struct Registers {
    by_name: HashMap<String, Register>,
    /// X0 to X30.
    pub(super) x: Vec<Register>,
    pub(super) cpsr: Register,
    pub(super) hcr: Register,
    pub(super) vttbr: Register,
    pub(super) vtcr: Register,
}

fn symbol(name: &str) -> Result<*mut c_void, String> {
    let c_name = CString::new(name).expect("names have no NUL");
    // SAFETY: the name ends in NUL. RTLD_DEFAULT searches the objects that are loaded.
    let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c_name.as_ptr()) };
    if found.is_null() { Err(format!("needs a QEMU with `{name}` (QEMU 10 has it)")) } else { Ok(found) }
}

impl Qemu {
    /// Looks up the functions.
    ///
    /// # Errors
    ///
    /// The name of the first one that this QEMU lacks.
    pub(super) fn look_up() -> Result<&'static Self, String> {
        macro_rules! function {
            ($name:literal, $type:ty) => {
                // SAFETY: QEMU and GLib declare a function of this name with the type of the field.
                unsafe { std::mem::transmute::<*mut c_void, $type>(symbol($name)?) }
            };
        }
        let found = Self {
            get_registers: function!("qemu_plugin_get_registers", GetRegisters),
            read_register: function!("qemu_plugin_read_register", ReadRegister),
            mem_get_value: function!("qemu_plugin_mem_get_value", MemGetValue),
            array_element_size: function!("g_array_get_element_size", ArrayElementSize),
            byte_array_new: function!("g_byte_array_new", ByteArrayNew),
            byte_array_set_size: function!("g_byte_array_set_size", ByteArraySetSize),
            phys_page: function!("cpu_get_phys_page_attrs_debug", PhysPage),
            physical_memory_rw: function!("cpu_physical_memory_rw", PhysicalMemoryRw),
            get_cpu: function!("qemu_get_cpu", GetCpu),
        };
        symbol("current_cpu")?;
        Ok(QEMU.get_or_init(|| found))
    }

    /// Returns the registers of the vCPU whose initialisation callback is running.
    ///
    /// # Errors
    ///
    /// The name of the first register that this QEMU lacks.
    pub(super) fn registers(&self) -> Result<Registers, String> {
        // SAFETY: QEMU's callback is running, so there is a current vCPU. The result is an array of descriptors.
        let array = unsafe { (self.get_registers)() };
        // SAFETY: QEMU returned the array just now, and GLib's function reads its head.
        let size = unsafe { (self.array_element_size)(array) } as usize;
        // SAFETY: QEMU returned the array just now.
        let GArray { data: first, len } = unsafe { &*array };
        let count = *len as usize;
        let descriptor = |n: usize| {
            // SAFETY: QEMU fills the array with `count` descriptors of this size, which begin with these fields. The
            // name is a C string of QEMU.
            let (handle, name) = unsafe {
                let descriptor = &*first.add(n * size).cast::<RegisterDescriptor>();
                (descriptor.handle, CStr::from_ptr(descriptor.name))
            };
            (name.to_string_lossy().into_owned(), Register(handle))
        };
        let by_name: HashMap<_, _> = (0..count).map(descriptor).collect();
        let get = |name: &str| by_name.get(name).copied().ok_or_else(|| format!("this CPU has no register {name}"));
        Ok(Registers {
            x: (0..31).map(|n| get(&format!("x{n}"))).collect::<Result<_, _>>()?,
            cpsr: get("cpsr")?,
            hcr: get("HCR_EL2")?,
            vttbr: get("VTTBR_EL2")?,
            vtcr: get("VTCR_EL2")?,
            by_name,
        })
    }

    /// Reads a register of the current vCPU, up to 64 bits. The callback must have been registered with read access.
    pub(super) fn read(&self, register: Register) -> u64 {
        thread_local! {
            static BYTES: Cell<*mut GByteArray> = const { Cell::new(std::ptr::null_mut()) };
        }
        let mut bytes = BYTES.get();
        if bytes.is_null() {
            // SAFETY: GLib makes a new array, which this thread keeps.
            bytes = unsafe { (self.byte_array_new)() };
            BYTES.set(bytes);
        }
        // SAFETY: the array belongs to this thread, and the handle is from QEMU. QEMU appends the value.
        let count = unsafe {
            (self.byte_array_set_size)(bytes, 0);
            (self.read_register)(register.0, bytes)
        };
        let mut value = [0; 8];
        let count = usize::try_from(count).unwrap_or(0).min(8);
        // SAFETY: QEMU has appended `count` bytes or more.
        value[..count].copy_from_slice(unsafe { std::slice::from_raw_parts((*bytes).data, count) });
        u64::from_le_bytes(value)
    }

    /// Returns the value that the access of the running callback stored, if it has eight bytes.
    pub(super) fn stored(&self, info: qemu_plugin_meminfo_t) -> Option<u64> {
        // SAFETY: `info` is from the running callback.
        let value = unsafe { (self.mem_get_value)(info) };
        (value.kind == MEM_VALUE_U64).then_some(value.low)
    }

    /// Translates a virtual address in the present context of a vCPU whose callback is running.
    pub(super) fn translate(&self, vcpu: u32, va: u64) -> Option<u64> {
        thread_local! {
            static CPUS: RefCell<Vec<*mut c_void>> = const { RefCell::new(Vec::new()) };
        }
        let cpu = CPUS.with_borrow_mut(|cpus| {
            let index = vcpu as usize;
            if cpus.len() <= index {
                cpus.resize(index + 1, std::ptr::null_mut());
            }
            if cpus[index].is_null() {
                // SAFETY: the function only looks the vCPU up.
                cpus[index] = unsafe { (self.get_cpu)(vcpu as c_int) };
            }
            cpus[index]
        });
        self.translate_on(cpu, va)
    }

    /// Translates a virtual address in the present context of the vCPU that runs on this thread.
    pub(super) fn translate_current(&self, va: u64) -> Option<u64> {
        thread_local! {
            static CURRENT: Cell<*mut *mut c_void> = const { Cell::new(std::ptr::null_mut()) };
        }
        let mut current = CURRENT.get();
        if current.is_null() {
            // The symbol is thread-local, and dlsym returns the address for the calling thread.
            current = symbol("current_cpu").ok()?.cast();
            CURRENT.set(current);
        }
        // SAFETY: `current_cpu` is a pointer of this thread.
        self.translate_on(unsafe { *current }, va)
    }

    fn translate_on(&self, cpu: *mut c_void, va: u64) -> Option<u64> {
        if cpu.is_null() {
            return None;
        }
        let mut attributes = [0u64; 8];
        // SAFETY: the vCPU exists and does not run meanwhile. `attributes` has room for MemTxAttrs.
        let pa = unsafe { (self.phys_page)(cpu, va & !0xfff, attributes.as_mut_ptr()) };
        (pa != u64::MAX).then_some((pa & !0xfff) | (va & 0xfff))
    }

    /// Reads physical memory.
    pub(super) fn read_memory(&self, pa: u64, entries: &mut [u64]) {
        // SAFETY: the buffer has room for as many bytes, and the function writes to it only.
        unsafe {
            (self.physical_memory_rw)(pa, entries.as_mut_ptr().cast(), size_of_val(entries) as u64, false);
        }
    }
}

impl Registers {
    /// Returns a register that only some machines have.
    pub(super) fn named(&self, name: &str) -> Option<Register> {
        self.by_name.get(name).copied()
    }
}
