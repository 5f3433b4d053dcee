//! The device tree for the guest.

use abi::channel::{COMPATIBLE, doorbell};
use vm_fdt::{Error, FdtWriter};

use crate::layout;

/// Returns the device tree for vCPUs with these MPIDR affinities and a channel of `channel_bytes`.
///
/// # Errors
///
/// An error of vm-fdt, which no argument causes.
pub fn build(affinities: &[u64], channel_bytes: u64) -> Result<Vec<u8>, Error> {
    let mut fdt = FdtWriter::new()?;
    let root = fdt.begin_node("")?;
    fdt.property_string("compatible", "faultline,vm")?;
    fdt.property_u32("#address-cells", 2)?;
    fdt.property_u32("#size-cells", 2)?;
    let chosen = fdt.begin_node("chosen")?;
    fdt.property_string("stdout-path", "/serial@9000000")?;
    fdt.end_node(chosen)?;
    let memory = fdt.begin_node("memory@40000000")?;
    fdt.property_string("device_type", "memory")?;
    fdt.property_array_u64("reg", &[layout::RAM, layout::RAM_BYTES])?;
    fdt.end_node(memory)?;
    cpus(&mut fdt, affinities)?;
    let psci = fdt.begin_node("psci")?;
    fdt.property_string_list("compatible", vec!["arm,psci-1.0".into(), "arm,psci-0.2".into()])?;
    fdt.property_string("method", "hvc")?;
    fdt.end_node(psci)?;
    let uart = fdt.begin_node("serial@9000000")?;
    fdt.property_string("compatible", "ns16550a")?;
    fdt.property_array_u64("reg", &[layout::UART, layout::UART_BYTES])?;
    fdt.end_node(uart)?;
    let channel = fdt.begin_node("channel@50000000")?;
    fdt.property_string("compatible", COMPATIBLE)?;
    fdt.property_array_u64("reg", &[layout::CHANNEL, channel_bytes, layout::DOORBELL, doorbell::BYTES])?;
    fdt.end_node(channel)?;
    fdt.end_node(root)?;
    fdt.finish()
}

fn cpus(fdt: &mut FdtWriter, affinities: &[u64]) -> Result<(), Error> {
    let cpus = fdt.begin_node("cpus")?;
    fdt.property_u32("#address-cells", 2)?;
    fdt.property_u32("#size-cells", 0)?;
    for affinity in affinities {
        let cpu = fdt.begin_node(&format!("cpu@{affinity:x}"))?;
        fdt.property_string("device_type", "cpu")?;
        fdt.property_string("compatible", "arm,armv8")?;
        fdt.property_string("enable-method", "psci")?;
        fdt.property_u64("reg", *affinity)?;
        fdt.end_node(cpu)?;
    }
    fdt.end_node(cpus)
}
