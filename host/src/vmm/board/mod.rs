//! thin
pub(crate) mod layout;
use layout::{Layout, RAM};
use std::io;
use std::path::Path;
use std::sync::Arc;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
pub(crate) struct Loaded {
    pub(crate) memory: Arc<GuestMemoryMmap>,
    pub(crate) layout: Layout,
    pub(crate) entry: u64,
    pub(crate) fdt: u64,
}
pub(crate) fn load(
    kernel: &Path,
    initramfs: &Path,
    memory: u64,
    cpus: u8,
    args: &str,
    slots: u32,
) -> io::Result<Loaded> {
    let layout = Layout::new(memory, cpus);
    let mem: GuestMemoryMmap =
        GuestMemoryMmap::from_ranges(&[(GuestAddress(RAM), memory as usize)])
            .map_err(io::Error::other)?;
    let image = std::fs::read(kernel)?;
    let offset = u64::from_le_bytes(image[8..16].try_into().unwrap());
    let entry = RAM + offset;
    mem.write_slice(&image, GuestAddress(entry))
        .map_err(io::Error::other)?;
    let initrd = std::fs::read(initramfs)?;
    let at = RAM + (64 << 20);
    mem.write_slice(&initrd, GuestAddress(at))
        .map_err(io::Error::other)?;
    let fdt = RAM + (60 << 20);
    let blob =
        tree(&layout, args, at, at + initrd.len() as u64, slots).map_err(io::Error::other)?;
    mem.write_slice(&blob, GuestAddress(fdt))
        .map_err(io::Error::other)?;
    Ok(Loaded {
        memory: Arc::new(mem),
        layout,
        entry,
        fdt,
    })
}
fn tree(
    l: &Layout,
    args: &str,
    start: u64,
    end: u64,
    slots: u32,
) -> Result<Vec<u8>, vm_fdt::Error> {
    let mut f = vm_fdt::FdtWriter::new()?;
    let root = f.begin_node("")?;
    f.property_string("compatible", "linux,dummy-virt")?;
    f.property_u32("#address-cells", 2)?;
    f.property_u32("#size-cells", 2)?;
    f.property_u32("interrupt-parent", 1)?;
    let n = f.begin_node("chosen")?;
    f.property_string("bootargs", args)?;
    f.property_u64("linux,initrd-start", start)?;
    f.property_u64("linux,initrd-end", end)?;
    let mut seed = [0; 64];
    let _ = getrandom::fill(&mut seed);
    f.property("rng-seed", &seed)?;
    f.end_node(n)?;
    let n = f.begin_node("cpus")?;
    f.property_u32("#address-cells", 1)?;
    f.property_u32("#size-cells", 0)?;
    for c in 0..l.cpus() {
        let m = f.begin_node(&format!("cpu@{c}"))?;
        f.property_string("device_type", "cpu")?;
        f.property_string("compatible", "arm,armv8")?;
        f.property_string("enable-method", "psci")?;
        f.property_u32("reg", c.into())?;
        f.end_node(m)?;
    }
    f.end_node(n)?;
    let n = f.begin_node("memory@80000000")?;
    f.property_string("device_type", "memory")?;
    f.property_array_u64("reg", &[RAM, l.memory()])?;
    f.end_node(n)?;
    let n = f.begin_node("psci")?;
    f.property_string_list(
        "compatible",
        vec!["arm,psci-1.0".into(), "arm,psci-0.2".into()],
    )?;
    f.property_string("method", "hvc")?;
    f.end_node(n)?;
    let n = f.begin_node("timer")?;
    f.property_string("compatible", "arm,armv8-timer")?;
    f.property_null("always-on")?;
    f.property_array_u32("interrupts", &[1, 13, 4, 1, 14, 4, 1, 11, 4, 1, 10, 4])?;
    f.end_node(n)?;
    let n = f.begin_node("intc@8000000")?;
    f.property_string("compatible", "arm,gic-v3")?;
    f.property_null("interrupt-controller")?;
    f.property_u32("#interrupt-cells", 3)?;
    f.property_u32("phandle", 1)?;
    let (d, r) = (l.gic_distributor(), l.gic_redistributors());
    f.property_array_u64("reg", &[d.start, d.end - d.start, r.start, r.end - r.start])?;
    f.end_node(n)?;
    let n = f.begin_node("apb-pclk")?;
    f.property_string("compatible", "fixed-clock")?;
    f.property_u32("#clock-cells", 0)?;
    f.property_u32("clock-frequency", 24_000_000)?;
    f.property_u32("phandle", 2)?;
    f.end_node(n)?;
    let (a, i) = l.uart();
    let n = f.begin_node("pl011@9000000")?;
    f.property_string_list(
        "compatible",
        vec!["arm,pl011".into(), "arm,primecell".into()],
    )?;
    f.property_array_u64("reg", &[a, 0x1000])?;
    f.property_array_u32("interrupts", &[0, i - 32, 4])?;
    f.property_array_u32("clocks", &[2, 2])?;
    f.property_string_list("clock-names", vec!["uartclk".into(), "apb_pclk".into()])?;
    f.end_node(n)?;
    for s in 0..slots {
        let (a, i) = l.virtio(s);
        let n = f.begin_node(&format!("virtio_mmio@{a:x}"))?;
        f.property_string("compatible", "virtio,mmio")?;
        f.property_array_u64("reg", &[a, 0x200])?;
        f.property_array_u32("interrupts", &[0, i - 32, 4])?;
        f.property_null("dma-coherent")?;
        f.end_node(n)?;
    }
    f.end_node(root)?;
    f.finish()
}
