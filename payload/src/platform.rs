//! What the device tree says: console, conduit, memory, CPUs, channel.

use abi::channel::{COMPATIBLE, MAX_VCPUS};
use dtoolkit::fdt::{Fdt, FdtNode};
use dtoolkit::standard::NodeStandard;
use dtoolkit::{Node, Property, ToCellInt};

use crate::console::Model;

/// A range of IPA.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Range {
    /// First address.
    pub base: u64,
    /// Length in bytes.
    pub bytes: u64,
}

/// The channel's memory and doorbell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChannelNode {
    /// The memslot.
    pub memory: Range,
    /// The doorbell page.
    pub doorbell: Range,
}

/// The UART of `stdout-path`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uart {
    /// What it is.
    pub model: Model,
    /// Its registers.
    pub registers: Range,
}

/// Everything the guest takes from the tree.
pub struct Platform {
    /// Console, if the tree names one that this guest drives.
    pub uart: Option<Uart>,
    /// PSCI by SMC instead of HVC.
    pub psci_by_smc: bool,
    /// First range of memory.
    pub memory: Range,
    /// MPIDR affinities of the CPUs, in the tree's order.
    pub cpus: [u64; MAX_VCPUS],
    /// How many of `cpus` there are.
    pub cpu_count: usize,
    /// Present when a faultline host runs this guest.
    pub channel: Option<ChannelNode>,
}

/// Reads the tree; what it does not say stays empty.
pub fn read(fdt: &Fdt<'_>) -> Platform {
    let mut cpus = [0; MAX_VCPUS];
    let mut cpu_count = 0;
    if let Ok(node) = fdt.cpus() {
        for cpu in node.cpus().take(MAX_VCPUS) {
            let id = cpu.ids().ok().and_then(|mut ids| ids.next()).and_then(|id| id.to_int::<u64>().ok());
            cpus[cpu_count] = id.unwrap_or(0);
            cpu_count += 1;
        }
    }
    let psci = fdt.find_node("/psci");
    let method = psci.as_ref().and_then(|node| text(node, "method"));
    let root = fdt.root();
    Platform {
        uart: stdout(fdt),
        psci_by_smc: method == Some("smc"),
        memory: fdt.find_node("/memory").and_then(|node| nth_reg(node, 0)).unwrap_or_default(),
        cpus,
        cpu_count: cpu_count.max(1),
        channel: root
            .children()
            .find(|node| node.is_compatible(COMPATIBLE))
            .and_then(|node| Some(ChannelNode { memory: nth_reg(node, 0)?, doorbell: nth_reg(node, 1)? })),
    }
}

/// Finds the UART that `/chosen` names by path or alias.
fn stdout(fdt: &Fdt<'_>) -> Option<Uart> {
    let chosen = fdt.find_node("/chosen")?;
    let path = text(&chosen, "stdout-path")?;
    let path = path.split(':').next()?;
    let path = if path.starts_with('/') { path } else { text(&fdt.find_node("/aliases")?, path)? };
    let node = fdt.find_node(path)?;
    let registers = nth_reg(node, 0)?;
    let model = if node.is_compatible("arm,pl011") {
        Model::Pl011
    } else if ["ns16550a", "ns16550", "snps,dw-apb-uart"].iter().any(|name| node.is_compatible(name)) {
        let shift = node.property("reg-shift").and_then(|p| p.value_as::<u32>().ok()).unwrap_or(0);
        Model::Ns16550 { shift }
    } else {
        return None;
    };
    Some(Uart { model, registers })
}

fn text<'a>(node: &FdtNode<'a>, name: &str) -> Option<&'a str> {
    node.property(name)?.value_as::<&'a str>().ok()
}

fn nth_reg(node: FdtNode<'_>, n: usize) -> Option<Range> {
    let reg = node.reg().ok()??.nth(n)?;
    Some(Range { base: reg.address().ok()?, bytes: reg.size().ok()? })
}
