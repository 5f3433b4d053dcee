//! Facts that the guest reads from the device tree: console, PSCI conduit, memory, CPUs, channel.

use abi::channel::{COMPATIBLE, MAX_VCPUS};
use dtoolkit::fdt::{Fdt, FdtNode};
use dtoolkit::standard::NodeStandard;
use dtoolkit::{Node, Property, ToCellInt};

/// Range of IPAs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct IpaRange {
    /// First IPA.
    pub(crate) base: u64,
    /// Length in bytes.
    pub(crate) bytes: u64,
}

/// Node that announces the channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ChannelNode {
    /// Memory of the channel.
    pub(crate) memory: IpaRange,
    /// Doorbell page.
    pub(crate) doorbell: IpaRange,
}

/// Model of a UART.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UartModel {
    /// Arm PL011.
    Pl011,
    /// 16550 whose registers are `1 << shift` bytes apart.
    Ns16550 {
        /// Value of `reg-shift`.
        shift: u32,
    },
}

/// UART of `stdout-path`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Uart {
    /// Model.
    pub(crate) model: UartModel,
    /// Registers.
    pub(crate) registers: IpaRange,
}

/// Facts about the emulated or virtual hardware, from the device tree.
pub(crate) struct Platform {
    /// Console, if the device tree names one that the guest can drive.
    pub(crate) uart: Option<Uart>,
    /// True if the conduit of PSCI is SMC, false if it is HVC.
    pub(crate) psci_by_smc: bool,
    /// First range of memory, empty if there is none.
    pub(crate) memory: IpaRange,
    /// MPIDR affinities of the CPUs, in the order of the device tree.
    pub(crate) cpus: [u64; MAX_VCPUS],
    /// Number of valid entries in `cpus`, at least 1.
    pub(crate) cpu_count: usize,
    /// Channel, if the host announces one.
    pub(crate) channel: Option<ChannelNode>,
}

/// Reads the device tree. A fact that the tree lacks stays empty.
pub(crate) fn read(fdt: &Fdt<'_>) -> Platform {
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

/// Returns the UART that `/chosen` names by its path or an alias.
fn stdout(fdt: &Fdt<'_>) -> Option<Uart> {
    let chosen = fdt.find_node("/chosen")?;
    let path = text(&chosen, "stdout-path")?;
    let path = path.split(':').next()?;
    let path = if path.starts_with('/') { path } else { text(&fdt.find_node("/aliases")?, path)? };
    let node = fdt.find_node(path)?;
    let registers = nth_reg(node, 0)?;
    let model = if node.is_compatible("arm,pl011") {
        UartModel::Pl011
    } else if ["ns16550a", "ns16550", "snps,dw-apb-uart"].iter().any(|name| node.is_compatible(name)) {
        let shift = node.property("reg-shift").and_then(|p| p.value_as::<u32>().ok()).unwrap_or(0);
        UartModel::Ns16550 { shift }
    } else {
        return None;
    };
    Some(Uart { model, registers })
}

fn text<'a>(node: &FdtNode<'a>, name: &str) -> Option<&'a str> {
    node.property(name)?.value_as::<&'a str>().ok()
}

fn nth_reg(node: FdtNode<'_>, n: usize) -> Option<IpaRange> {
    let reg = node.reg().ok()??.nth(n)?;
    Some(IpaRange { base: reg.address().ok()?, bytes: reg.size().ok()? })
}
