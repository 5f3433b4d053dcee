//! The loop of a vCPU thread: it runs the vCPU and handles its exits.

use std::sync::mpsc::{Sender, SyncSender, sync_channel};

use abi::channel::doorbell;
use abi::{Op, OpCode};
use kvm_bindings::{KVM_SYSTEM_EVENT_CRASH, KVM_SYSTEM_EVENT_RESET, KVM_SYSTEM_EVENT_SHUTDOWN};
use kvm_ioctls::{VcpuExit, VcpuFd};

use crate::layout;
use crate::shared::Shared;

/// Message from a vCPU thread to the serving thread.
pub enum Message {
    /// The vCPU has ended its program and waits for the next one.
    Next {
        /// Lets the vCPU continue when it is used or dropped.
        done: SyncSender<()>,
    },
    /// The vCPU asks for a host event and waits for its end.
    Event {
        /// Index of the vCPU.
        vcpu: usize,
        /// The op, from the host's own copy of the program.
        op: Op,
        /// Lets the vCPU continue when it is used or dropped.
        done: SyncSender<()>,
    },
    /// The vCPU thread has ended.
    Ended(VcpuEnd),
}

/// Reason why a vCPU thread ended.
#[derive(Debug)]
pub enum VcpuEnd {
    /// The guest powered itself off.
    PoweredOff,
    /// The run stopped.
    Stopped,
    /// The vCPU did something that the VMM does not handle, described here.
    Trapped(String),
}

/// The work of one vCPU thread.
pub struct VcpuLoop<'a> {
    /// Index of the vCPU.
    pub index: usize,
    /// State that all threads share.
    pub shared: &'a Shared,
    /// Channel to the serving thread.
    pub messages: Sender<Message>,
}

impl VcpuLoop<'_> {
    /// Runs the vCPU until the guest is off, the run stops, or an exit cannot be handled.
    pub fn run(&self, fd: &mut VcpuFd) -> VcpuEnd {
        self.shared.register_thread(self.index);
        loop {
            if self.shared.stopping() {
                return VcpuEnd::Stopped;
            }
            let before = self.shared.events_done();
            let end = match fd.run() {
                Ok(exit) => self.handle_exit(exit),
                Err(error) if error.errno() == libc::EINTR || error.errno() == libc::EAGAIN => None,
                // A host event had removed the memory for a moment. The access is repeated.
                Err(error) if error.errno() == libc::EFAULT && self.shared.event_ended_since(before) => None,
                Err(error) => self.trapped(format!("KVM_RUN failed: {error}")),
            };
            if let Some(end) = end {
                return end;
            }
        }
    }

    fn trapped(&self, what: String) -> Option<VcpuEnd> {
        Some(VcpuEnd::Trapped(format!("vcpu-{}: {what}", self.index)))
    }

    fn handle_exit(&self, exit: VcpuExit<'_>) -> Option<VcpuEnd> {
        match exit {
            VcpuExit::MmioWrite(ipa, data) => self.handle_write(ipa, data),
            VcpuExit::MmioRead(ipa, data) => {
                data.fill(0);
                match uart_register(ipa) {
                    Some(register) => data[0] = self.shared.console().read(register),
                    None => return self.trapped(format!("the guest read {ipa:#x}, where nothing is")),
                }
                None
            }
            VcpuExit::Intr => None,
            VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_SHUTDOWN, _) => Some(VcpuEnd::PoweredOff),
            VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_RESET, _) => self.trapped("the guest reset itself".into()),
            VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_CRASH, _) => self.trapped("the guest crashed".into()),
            other => self.trapped(format!("unexpected exit {other:?}")),
        }
    }

    fn handle_write(&self, ipa: u64, data: &[u8]) -> Option<VcpuEnd> {
        if let (Some(register), Some(byte)) = (uart_register(ipa), data.first()) {
            self.shared.console().write(register, *byte);
            return None;
        }
        let value = <[u8; 8]>::try_from(data).map(u64::from_le_bytes);
        match (ipa.checked_sub(layout::DOORBELL), value) {
            (Some(offset @ (doorbell::EVENT | doorbell::ARRIVE | doorbell::NEXT)), Ok(value)) => {
                self.handle_doorbell(offset, value)
            }
            _ => self.trapped(format!("the guest wrote {} bytes to {ipa:#x}, where nothing is", data.len())),
        }
    }

    /// Handles a doorbell write. It takes the op from the host's own copy of the program, so a guest can only ask for
    /// something that its program contains.
    fn handle_doorbell(&self, offset: u64, value: u64) -> Option<VcpuEnd> {
        let (vcpu, index) = (value >> 32, value & 0xffff_ffff);
        let op = self.shared.op(self.index, index).filter(|_| vcpu == self.index as u64);
        match (offset, op.map(|op| (op, OpCode::from_raw(op.code)))) {
            (doorbell::NEXT, Some((_, Some(OpCode::Next)))) => self.ask(|done| Message::Next { done }),
            (doorbell::ARRIVE, Some((op, Some(OpCode::Rendezvous)))) => self.shared.arrive(&op),
            (doorbell::EVENT, Some((op, Some(OpCode::Event)))) => {
                self.ask(|done| Message::Event { vcpu: self.index, op, done });
            }
            _ => return self.trapped(format!("rang the doorbell for op {index} of vCPU {vcpu}")),
        }
        None
    }

    /// Sends a message and waits until the serving thread has acted on it.
    fn ask(&self, message: impl FnOnce(SyncSender<()>) -> Message) {
        let (done, wait) = sync_channel(1);
        // Both fail only if the run stops, and the loop notices that.
        let _ = self.messages.send(message(done));
        let _ = wait.recv();
    }
}

fn uart_register(ipa: u64) -> Option<u8> {
    let offset = ipa.checked_sub(layout::UART).filter(|offset| *offset < 8)?;
    u8::try_from(offset).ok()
}
