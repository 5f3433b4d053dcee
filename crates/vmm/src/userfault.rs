//! A server of pages through userfaultfd: what a guest has not touched yet comes when it does, as in post-copy live
//! migration. Kernel: Documentation/admin-guide/mm/userfaultfd.rst, include/uapi/linux/userfaultfd.h.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::mm::{UserfaultfdFlags, userfaultfd};

/// One page with its contents; what no piece covers is zero.
#[derive(Clone, Debug)]
pub struct Page {
    /// Host VA of its start.
    pub va: u64,
    /// Offsets and bytes.
    pub pieces: Vec<(usize, Vec<u8>)>,
}

const UFFD_API: u64 = 0xaa;
const UFFDIO_REGISTER_MODE_MISSING: u64 = 1;
const UFFD_EVENT_PAGEFAULT: u8 = 0x12;

/// `struct uffdio_api`.
#[repr(C)]
struct Api {
    api: u64,
    features: u64,
    ioctls: u64,
}

/// `struct uffdio_range`.
#[repr(C)]
#[derive(Clone, Copy)]
struct VaRange {
    start: u64,
    len: u64,
}

/// `struct uffdio_register`.
#[repr(C)]
struct Register {
    range: VaRange,
    mode: u64,
    ioctls: u64,
}

/// `struct uffdio_copy`.
#[repr(C)]
struct Copy {
    dst: u64,
    src: u64,
    len: u64,
    mode: u64,
    copied: i64,
}

/// `struct uffd_msg`: the event, and for a page fault the address.
#[repr(C)]
struct Msg {
    event: u8,
    reserved: [u8; 7],
    flags: u64,
    address: u64,
    last: u64,
}

const _: () = assert!(size_of::<Msg>() == 32);

/// `_IOWR(0xaa, number, T)`, or `_IOR` with `direction` 2.
const fn ioctl_of<T>(direction: u64, number: u64) -> u64 {
    direction << 30 | (size_of::<T>() as u64) << 16 | UFFD_API << 8 | number
}

const UFFDIO_API: u64 = ioctl_of::<Api>(3, 0x3f);
const UFFDIO_REGISTER: u64 = ioctl_of::<Register>(3, 0);
const UFFDIO_UNREGISTER: u64 = ioctl_of::<VaRange>(2, 1);
const UFFDIO_COPY: u64 = ioctl_of::<Copy>(3, 3);

fn ioctl<T>(fd: &OwnedFd, request: u64, argument: &mut T) -> io::Result<()> {
    // SAFETY: each request is used with the structure whose size is in it; the kernel writes nothing beyond.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), request as _, std::ptr::from_mut(argument)) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A registered range whose contents are still there.
pub struct Registered {
    fd: Arc<OwnedFd>,
    range: VaRange,
    page_bytes: u64,
}

/// A thread that serves pages until it is dropped; then all that nobody asked for are there, too.
pub struct Server {
    registered: Arc<Registered>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<BTreeMap<u64, Page>>>,
}

impl Server {
    /// Registers a range, in pages of this size.
    ///
    /// # Errors
    ///
    /// What userfaultfd(2) or its ioctls said: EPERM without the right, ENOSYS or EINVAL where the kernel has it not.
    pub fn register(va: u64, bytes: u64, page_bytes: u64) -> io::Result<Registered> {
        // SAFETY: creates a file descriptor.
        let fd = unsafe { userfaultfd(UserfaultfdFlags::CLOEXEC | UserfaultfdFlags::NONBLOCK)? };
        ioctl(&fd, UFFDIO_API, &mut Api { api: UFFD_API, features: 0, ioctls: 0 })?;
        let range = VaRange { start: va, len: bytes };
        ioctl(&fd, UFFDIO_REGISTER, &mut Register { range, mode: UFFDIO_REGISTER_MODE_MISSING, ioctls: 0 })?;
        Ok(Registered { fd: Arc::new(fd), range, page_bytes })
    }
}

impl Registered {
    /// Serves `pages` from now on, and zeros elsewhere.
    ///
    /// # Errors
    ///
    /// If no thread could be had.
    pub fn serve(self, pages: Vec<Page>) -> io::Result<Server> {
        let registered = Arc::new(self);
        let stop = Arc::new(AtomicBool::new(false));
        let mut left: BTreeMap<u64, Page> = pages.into_iter().map(|page| (page.va, page)).collect();
        let (for_thread, stopping) = (Arc::clone(&registered), Arc::clone(&stop));
        let body = move || {
            while !stopping.load(Ordering::SeqCst) {
                for_thread.answer(&mut left);
            }
            left
        };
        let thread = Some(thread::Builder::new().name("userfault".into()).spawn(body)?);
        Ok(Server { registered, stop, thread })
    }

    /// Answers a fault, if one comes within a moment.
    fn answer(&self, left: &mut BTreeMap<u64, Page>) {
        let mut fds = [PollFd::new(&*self.fd, PollFlags::IN)];
        let moment = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };
        if poll(&mut fds, Some(&moment)).unwrap_or(0) == 0 {
            return;
        }
        let mut bytes = [0; size_of::<Msg>()];
        // Another thread's fault on the same page may have been answered with it.
        let Ok(32) = rustix::io::read(&*self.fd, &mut bytes) else { return };
        let address = u64::from_le_bytes(bytes[16..24].try_into().unwrap_or_default());
        if bytes[0] == UFFD_EVENT_PAGEFAULT {
            let va = address & !(self.page_bytes - 1);
            self.copy(&left.remove(&va).unwrap_or(Page { va, pieces: Vec::new() }));
        }
    }

    /// Puts a page in its place, unless one is there.
    fn copy(&self, page: &Page) {
        let mut contents = vec![0; self.page_bytes as usize];
        for (offset, bytes) in &page.pieces {
            contents[*offset..*offset + bytes.len()].copy_from_slice(bytes);
        }
        let mut copy = Copy { dst: page.va, src: contents.as_ptr() as u64, len: self.page_bytes, mode: 0, copied: 0 };
        // EEXIST: it is there. Anything else leaves the page missing, and the guest waiting for it until its time limit.
        let _ = ioctl(&self.fd, UFFDIO_COPY, &mut copy);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let left = self.thread.take().and_then(|thread| thread.join().ok()).unwrap_or_default();
        left.values().for_each(|page| self.registered.copy(page));
        // Closing the descriptor does the same; faults still waiting are woken.
        let mut range = self.registered.range;
        let _ = ioctl(&self.registered.fd, UFFDIO_UNREGISTER, &mut range);
    }
}
