//! The device tree that the guest's kernel gets: the layout in the kernel's words.
//!
//! Sources: Devicetree Specification 0.4, and of Linux' `Documentation/devicetree/bindings`:
//! `arm/cpus.yaml`, `arm/psci.yaml`, `timer/arm,arch_timer.yaml`,
//! `interrupt-controller/arm,gic-v3.yaml`, `serial/pl011.yaml`, `virtio/mmio.yaml`, `chosen.yaml`.

use super::layout::{self, CONSOLE, FIRST_SPI, Layout, Place, VirtioSlot};
use std::ops::Range;
use vm_fdt::{FdtWriter, FdtWriterResult};

/// Bytes of entropy for the guest's random number generator.
pub(crate) const SEED: usize = 64;

/// Handles of nodes that others refer to.
const GIC: u32 = 1;
const CLOCK: u32 = 2;

/// First cell of an interrupt: shared or private.
const SHARED: u32 = 0;
const PRIVATE: u32 = 1;

/// Third cell of an interrupt: the line's level counts, and high means asserted.
const LEVEL_HIGH: u32 = 4;

/// The generic timer's private interrupts without their offset of 16: secure, non-secure, virtual,
/// hypervisor's. A guest has the virtual one; the binding wants them in this order.
const TIMERS: [u32; 4] = [13, 14, 11, 10];

/// PL011's clock, in Hz: any will do, the baud rate means nothing here.
const UART_CLOCK: u32 = 24_000_000;

/// What the guest is told besides the layout.
#[derive(Debug)]
pub(crate) struct Chosen<'a> {
    /// The kernel's command line.
    pub(crate) args: &'a str,
    /// Where the initramfs is.
    pub(crate) initramfs: Range<u64>,
    /// Entropy. Secret, and used once.
    pub(crate) seed: &'a [u8; SEED],
}

/// The flattened tree.
///
/// # Errors
/// When `args` contain a null byte or are longer than a tree can be.
pub(crate) fn write(layout: &Layout, chosen: &Chosen<'_>) -> FdtWriterResult<Vec<u8>> {
    let mut fdt = FdtWriter::new()?;
    let root = fdt.begin_node("")?;
    fdt.property_string("compatible", "linux,dummy-virt")?;
    fdt.property_u32("#address-cells", 2)?;
    fdt.property_u32("#size-cells", 2)?;
    fdt.property_u32("interrupt-parent", GIC)?;
    self::chosen(&mut fdt, chosen)?;
    processors(&mut fdt, layout)?;
    memory(&mut fdt, layout)?;
    timer(&mut fdt)?;
    gic(&mut fdt, layout)?;
    console(&mut fdt)?;
    for slot in VirtioSlot::ALL {
        virtio(&mut fdt, slot.place())?;
    }
    fdt.end_node(root)?;
    fdt.finish()
}

fn chosen(fdt: &mut FdtWriter, chosen: &Chosen<'_>) -> FdtWriterResult<()> {
    let node = fdt.begin_node("chosen")?;
    fdt.property_string("bootargs", chosen.args)?;
    fdt.property_string("stdout-path", &format!("/{}", uart_name()))?;
    fdt.property_u64("linux,initrd-start", chosen.initramfs.start)?;
    fdt.property_u64("linux,initrd-end", chosen.initramfs.end)?;
    // The kernel erases both once it has read them.
    let (kaslr, rng) = chosen.seed.split_at(8);
    fdt.property("kaslr-seed", kaslr)?;
    fdt.property("rng-seed", rng)?;
    fdt.end_node(node)
}

fn processors(fdt: &mut FdtWriter, layout: &Layout) -> FdtWriterResult<()> {
    let node = fdt.begin_node("cpus")?;
    fdt.property_u32("#address-cells", 1)?;
    fdt.property_u32("#size-cells", 0)?;
    for cpu in 0..layout.cpus() {
        let affinity = layout::affinity(cpu);
        let node = fdt.begin_node(&format!("cpu@{affinity:x}"))?;
        fdt.property_string("device_type", "cpu")?;
        fdt.property_string("compatible", "arm,armv8")?;
        fdt.property_string("enable-method", "psci")?;
        fdt.property_u32("reg", affinity)?;
        fdt.end_node(node)?;
    }
    fdt.end_node(node)?;
    let node = fdt.begin_node("psci")?;
    let compatible = ["arm,psci-1.0", "arm,psci-0.2"].map(String::from);
    fdt.property_string_list("compatible", compatible.into())?;
    fdt.property_string("method", "hvc")?;
    fdt.end_node(node)
}

fn memory(fdt: &mut FdtWriter, layout: &Layout) -> FdtWriterResult<()> {
    let memory = layout.memory();
    let node = fdt.begin_node(&format!("memory@{:x}", memory.start))?;
    fdt.property_string("device_type", "memory")?;
    fdt.property_array_u64("reg", &start_and_size(&memory))?;
    fdt.end_node(node)
}

fn timer(fdt: &mut FdtWriter) -> FdtWriterResult<()> {
    let node = fdt.begin_node("timer")?;
    fdt.property_string("compatible", "arm,armv8-timer")?;
    fdt.property_null("always-on")?;
    let interrupts = TIMERS.map(|number| [PRIVATE, number, LEVEL_HIGH]);
    fdt.property_array_u32("interrupts", interrupts.as_flattened())?;
    fdt.end_node(node)
}

fn gic(fdt: &mut FdtWriter, layout: &Layout) -> FdtWriterResult<()> {
    let (distributor, redistributors) = (layout.gic_distributor(), layout.gic_redistributors());
    let node = fdt.begin_node(&format!("interrupt-controller@{:x}", distributor.start))?;
    fdt.property_string("compatible", "arm,gic-v3")?;
    fdt.property_null("interrupt-controller")?;
    fdt.property_u32("#interrupt-cells", 3)?;
    fdt.property_phandle(GIC)?;
    let both = [distributor, redistributors].map(|region| start_and_size(&region));
    fdt.property_array_u64("reg", both.as_flattened())?;
    fdt.end_node(node)
}

fn console(fdt: &mut FdtWriter) -> FdtWriterResult<()> {
    let node = fdt.begin_node("clock")?;
    fdt.property_string("compatible", "fixed-clock")?;
    fdt.property_u32("#clock-cells", 0)?;
    fdt.property_u32("clock-frequency", UART_CLOCK)?;
    fdt.property_phandle(CLOCK)?;
    fdt.end_node(node)?;
    let node = fdt.begin_node(&uart_name())?;
    let compatible = ["arm,pl011", "arm,primecell"].map(String::from);
    fdt.property_string_list("compatible", compatible.into())?;
    place(fdt, CONSOLE)?;
    fdt.property_array_u32("clocks", &[CLOCK, CLOCK])?;
    let names = ["uartclk", "apb_pclk"].map(String::from);
    fdt.property_string_list("clock-names", names.into())?;
    fdt.end_node(node)
}

fn uart_name() -> String {
    format!("serial@{:x}", CONSOLE.address)
}

fn virtio(fdt: &mut FdtWriter, device: Place) -> FdtWriterResult<()> {
    let node = fdt.begin_node(&format!("virtio_mmio@{:x}", device.address))?;
    fdt.property_string("compatible", "virtio,mmio")?;
    place(fdt, device)?;
    fdt.property_null("dma-coherent")?;
    fdt.end_node(node)
}

fn place(fdt: &mut FdtWriter, device: Place) -> FdtWriterResult<()> {
    fdt.property_array_u64("reg", &[device.address, device.size])?;
    let number = device.intid.saturating_sub(FIRST_SPI);
    fdt.property_array_u32("interrupts", &[SHARED, number, LEVEL_HIGH])
}

fn start_and_size(region: &Range<u64>) -> [u64; 2] {
    [region.start, region.end.saturating_sub(region.start)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use fdt::Fdt;
    use fdt::node::FdtNode;

    const MEMORY: u64 = 256 << 20;
    const SEED_BYTES: [u8; SEED] = [7; SEED];

    fn tree(cpus: u8) -> (Layout, Vec<u8>) {
        let layout = Layout::new(MEMORY, cpus).unwrap();
        let chosen = Chosen {
            args: "console=ttyAMA0 quiet",
            initramfs: 0x8100_0000..0x8100_1234,
            seed: &SEED_BYTES,
        };
        let bytes = write(&layout, &chosen).unwrap();
        (layout, bytes)
    }

    fn cells(node: &FdtNode<'_, '_>, name: &str) -> Vec<u32> {
        let value = node.property(name).unwrap().value;
        let cells = value.chunks_exact(4);
        cells
            .map(|cell| u32::from_be_bytes(cell.try_into().unwrap()))
            .collect()
    }

    fn regions(node: &FdtNode<'_, '_>) -> Vec<(u64, u64)> {
        let wide = |pair: &[u32]| u64::from(pair[0]) << 32 | u64::from(pair[1]);
        let cells = cells(node, "reg");
        let quads = cells.chunks_exact(4);
        quads
            .map(|quad| (wide(&quad[..2]), wide(&quad[2..])))
            .collect()
    }

    /// Another reader than ours finds what the layout says.
    #[test]
    fn it_is_the_layout() {
        let (layout, bytes) = tree(3);
        let fdt = Fdt::new(&bytes).unwrap();
        let size = |region: Range<u64>| (region.start, region.end - region.start);
        let memory = fdt.find_node("/memory@80000000").unwrap();
        assert_eq!(regions(&memory), [size(layout.memory())]);
        let gic = fdt.find_compatible(&["arm,gic-v3"]).unwrap();
        let both = [layout.gic_distributor(), layout.gic_redistributors()];
        assert_eq!(regions(&gic), both.map(size));
        let devices: Vec<_> = fdt.find_all_nodes("/virtio_mmio").collect();
        assert_eq!(devices.len(), VirtioSlot::ALL.len());
        let places = VirtioSlot::ALL.map(VirtioSlot::place);
        let uart = fdt.find_compatible(&["arm,pl011"]).unwrap();
        let all = devices.iter().zip(places).chain([(&uart, CONSOLE)]);
        for (node, place) in all {
            assert_eq!(regions(node), [(place.address, place.size)]);
            let interrupt = [0, place.intid - FIRST_SPI, LEVEL_HIGH];
            assert_eq!(cells(node, "interrupts"), interrupt);
        }
    }

    #[test]
    fn processors_are_numbered_by_their_affinity() {
        for count in [1, 2, 17, layout::MOST_CPUS] {
            let (_, bytes) = tree(count);
            let fdt = Fdt::new(&bytes).unwrap();
            let found: Vec<_> = fdt.cpus().map(|cpu| cpu.ids().first()).collect();
            let expected: Vec<_> = (0..count)
                .map(|cpu| layout::affinity(cpu) as usize)
                .collect();
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn the_kernel_is_told() {
        let (_, bytes) = tree(1);
        let fdt = Fdt::new(&bytes).unwrap();
        assert_eq!(fdt.chosen().bootargs(), Some("console=ttyAMA0 quiet"));
        let stdout = fdt.chosen().stdout().unwrap();
        assert_eq!(regions(&stdout)[0].0, CONSOLE.address);
        let node = fdt.find_node("/chosen").unwrap();
        assert_eq!(cells(&node, "linux,initrd-start"), [0, 0x8100_0000]);
        assert_eq!(cells(&node, "linux,initrd-end"), [0, 0x8100_1234]);
        assert_eq!(node.property("rng-seed").unwrap().value, &SEED_BYTES[8..]);
        assert_eq!(node.property("kaslr-seed").unwrap().value, &SEED_BYTES[..8]);
    }

    #[test]
    fn a_command_line_that_cannot_be_told_is_an_error() {
        let layout = Layout::new(MEMORY, 1).unwrap();
        let chosen = Chosen {
            args: "a\0b",
            initramfs: 0..0,
            seed: &SEED_BYTES,
        };
        assert!(write(&layout, &chosen).is_err());
    }
}
