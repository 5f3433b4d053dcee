//! Waits for new files and bytes in the run directory.

use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

use crate::init::protocol::{RESULTS, RUN_NAME};

/// An inotify watch of the results, and of the run directory as soon as it exists.
pub struct Watch {
    inotify: Option<OwnedFd>,
    sees_run_directory: bool,
}

impl Watch {
    /// Watches the results.
    pub fn new() -> Self {
        let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)
            .and_then(|fd| inotify::add_watch(&fd, RESULTS, WatchFlags::CREATE | WatchFlags::MOVED_TO).map(|_| fd));
        Self { inotify: inotify.ok(), sees_run_directory: false }
    }

    /// Returns the descriptor that becomes readable at the next change, or none on a kernel without inotify.
    pub fn descriptor(&self) -> Option<&OwnedFd> {
        self.inotify.as_ref()
    }

    /// Discards the pending notifications, and begins to watch the run directory if it exists now.
    pub fn advance(&mut self) {
        let Some(inotify) = &self.inotify else { return };
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(inotify, &mut buffer);
        while reader.next().is_ok() {}
        if !self.sees_run_directory {
            let changes = WatchFlags::CREATE | WatchFlags::MODIFY | WatchFlags::MOVED_TO;
            let directory = Path::new(RESULTS).join(RUN_NAME);
            self.sees_run_directory = inotify::add_watch(inotify, &directory, changes).is_ok();
        }
    }
}
