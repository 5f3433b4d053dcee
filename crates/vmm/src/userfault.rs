//! A server of pages through userfaultfd: it supplies each page when the guest first touches it, as in post-copy live
//! migration. Kernel: Documentation/admin-guide/mm/userfaultfd.rst, include/uapi/linux/userfaultfd.h.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::mm::{UserfaultfdFlags, userfaultfd};

/// One page with its contents. Bytes outside the pieces are zero.
#[derive(Clone, Debug)]
pub struct Page {
    /// Host VA of the page.
    pub va: u64,
    /// Pieces of the contents: offset and bytes.
    pub pieces: Vec<(usize, Vec<u8>)>,
}

const UFFD_API: u64 = 0xaa;
const UFFDIO_REGISTER_MODE_MISSING: u64 = 1;
const UFFD_EVENT_PAGEFAULT: u8 = 0x12;

/// `struct uffdio_api`.
#[repr(C)]
struct UffdioApi {
    api: u64,
    features: u64,
    ioctls: u64,
}

/// `struct uffdio_range`.
#[repr(C)]
#[derive(Clone, Copy)]
struct UffdioRange {
    start: u64,
    len: u64,
}

/// `struct uffdio_register`.
#[repr(C)]
struct UffdioRegister {
    range: UffdioRange,
    mode: u64,
    ioctls: u64,
}

/// `struct uffdio_copy`.
#[repr(C)]
struct UffdioCopy {
    dst: u64,
    src: u64,
    len: u64,
    mode: u64,
    copy: i64,
}

/// Size of `struct uffd_msg` in bytes. Byte 0 holds the event, and bytes 16 to 23 hold the address of a page fault.
const UFFD_MSG_BYTES: usize = 32;

/// Returns `_IOWR(0xaa, number, T)`, or `_IOR` if `direction` is 2.
const fn ioctl_of<T>(direction: u64, number: u64) -> u64 {
    direction << 30 | (size_of::<T>() as u64) << 16 | UFFD_API << 8 | number
}

const UFFDIO_API: u64 = ioctl_of::<UffdioApi>(3, 0x3f);
const UFFDIO_REGISTER: u64 = ioctl_of::<UffdioRegister>(3, 0);
const UFFDIO_UNREGISTER: u64 = ioctl_of::<UffdioRange>(2, 1);
const UFFDIO_COPY: u64 = ioctl_of::<UffdioCopy>(3, 3);

fn ioctl<T>(fd: &OwnedFd, request: u64, argument: &mut T) -> io::Result<()> {
    // SAFETY: each request encodes the size of the structure that it is used with, and the kernel writes nothing
    // beyond.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), request as _, std::ptr::from_mut(argument)) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A registered range of host VAs whose contents are still present.
pub struct RegisteredRange {
    fd: Arc<OwnedFd>,
    range: UffdioRange,
    page_bytes: u64,
}

/// A thread that supplies pages. Its drop ends it, and the pages that are still missing become zero.
pub struct PageServer {
    registered: Arc<RegisteredRange>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<io::Result<BTreeMap<u64, Page>>>>,
}

impl PageServer {
    /// Registers a range in pages of this size.
    ///
    /// # Errors
    ///
    /// The error of userfaultfd(2) or of an ioctl: EPERM without the permission, ENOSYS or EINVAL if the kernel lacks
    /// it.
    pub fn register(va: u64, bytes: u64, page_bytes: u64) -> io::Result<RegisteredRange> {
        // SAFETY: the call only creates a file descriptor.
        let fd = unsafe { userfaultfd(UserfaultfdFlags::CLOEXEC | UserfaultfdFlags::NONBLOCK)? };
        ioctl(&fd, UFFDIO_API, &mut UffdioApi { api: UFFD_API, features: 0, ioctls: 0 })?;
        let range = UffdioRange { start: va, len: bytes };
        ioctl(&fd, UFFDIO_REGISTER, &mut UffdioRegister { range, mode: UFFDIO_REGISTER_MODE_MISSING, ioctls: 0 })?;
        Ok(RegisteredRange { fd: Arc::new(fd), range, page_bytes })
    }

    /// Supplies all pages that nobody has touched, and ends the server.
    ///
    /// # Errors
    ///
    /// The error of the first page that could not be supplied, now or before. The memory has lost its contents then.
    pub fn finish(mut self) -> io::Result<()> {
        let left = self.end_thread()?;
        left.values().try_for_each(|page| self.registered.supply(page))
    }

    fn end_thread(&mut self) -> io::Result<BTreeMap<u64, Page>> {
        self.stop.store(true, Ordering::SeqCst);
        let died = |_| io::Error::other("the page server died");
        self.thread.take().map_or(Ok(BTreeMap::new()), |thread| thread.join().map_err(died)?)
    }
}

impl RegisteredRange {
    /// Starts to supply `pages`, and zeros for all other pages.
    ///
    /// # Errors
    ///
    /// If no thread can be started.
    pub fn serve(self, pages: Vec<Page>) -> io::Result<PageServer> {
        let registered = Arc::new(self);
        let stop = Arc::new(AtomicBool::new(false));
        let mut left: BTreeMap<u64, Page> = pages.into_iter().map(|page| (page.va, page)).collect();
        let (for_thread, stopping) = (Arc::clone(&registered), Arc::clone(&stop));
        let body = move || {
            while !stopping.load(Ordering::SeqCst) {
                for_thread.serve_one_fault(&mut left)?;
            }
            Ok(left)
        };
        let thread = Some(thread::Builder::new().name("userfault".into()).spawn(body)?);
        Ok(PageServer { registered, stop, thread })
    }

    /// Waits at most 1 ms for a fault and supplies its page.
    fn serve_one_fault(&self, left: &mut BTreeMap<u64, Page>) -> io::Result<()> {
        let mut fds = [PollFd::new(&*self.fd, PollFlags::IN)];
        let timeout = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };
        if poll(&mut fds, Some(&timeout)).unwrap_or(0) == 0 {
            return Ok(());
        }
        let mut msg = [0; UFFD_MSG_BYTES];
        // The read fails if an earlier fault on the same page has made the page present.
        let Ok(UFFD_MSG_BYTES) = rustix::io::read(&*self.fd, &mut msg) else { return Ok(()) };
        let address = u64::from_le_bytes(msg[16..24].try_into().unwrap_or_default());
        if msg[0] == UFFD_EVENT_PAGEFAULT {
            let va = address & !(self.page_bytes - 1);
            self.supply(&left.remove(&va).unwrap_or(Page { va, pieces: Vec::new() }))?;
        }
        Ok(())
    }

    /// Makes a page present, unless it is present already.
    fn supply(&self, page: &Page) -> io::Result<()> {
        let mut contents = vec![0; self.page_bytes as usize];
        for (offset, bytes) in &page.pieces {
            contents[*offset..*offset + bytes.len()].copy_from_slice(bytes);
        }
        let src = contents.as_ptr() as u64;
        let mut copy = UffdioCopy { dst: page.va, src, len: self.page_bytes, mode: 0, copy: 0 };
        match ioctl(&self.fd, UFFDIO_COPY, &mut copy) {
            Err(error) if error.raw_os_error() != Some(libc::EEXIST) => Err(error),
            _ => Ok(()),
        }
    }
}

impl Drop for PageServer {
    fn drop(&mut self) {
        let _ = self.end_thread();
        // This wakes threads that still wait for a page. An error does not matter, because the close of the descriptor
        // does the same.
        let mut range = self.registered.range;
        let _ = ioctl(&self.registered.fd, UFFDIO_UNREGISTER, &mut range);
    }
}
