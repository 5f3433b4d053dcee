//! try
use host_runner::{guest::*, plan::relax::*, vmm};
struct W;
impl vmm::Watch for W {
    fn event(&mut self, _: &abi::Op, m: &vmm::Memory) { println!("event {:?}", m.unmap_stage2(0)); }
    fn tick(&mut self) {}
    fn interrupted(&self) -> bool { false }
}
fn main() {
    let _ = rustix::mount::mount("proc", "/proc", "proc", rustix::mount::MountFlags::empty(), None);
    let _ = rustix::mount::mount("dev", "/dev", "devtmpfs", rustix::mount::MountFlags::empty(), None);
    for (block, backing, vcpus, sharing) in [(4096, Backing::Pages, 1, Sharing::Distinct), (4096, Backing::Pages, 3, Sharing::Shared), (2<<20, Backing::Thp(2<<20), 2, Sharing::Distinct), (1<<30, Backing::Hugetlb(1<<30), 1, Sharing::Distinct)] {
        let c = Case { block_bytes: block, region_bytes: Case::default_region_bytes(block, vcpus, sharing), backing, vcpus, sharing, rounds: 2 };
        match vmm::run(&c.guest(), include_bytes!("../../target/faultline-payload.img"), std::time::Duration::from_secs(60), &mut W) {
            Err(e) => println!("error {e}"),
            Ok(r) => {
                println!("{:?} {:?} trouble {:?} console {:?} desc {}", c, r.end, trouble(&r), r.console, r.descriptor_writes);
                for v in &r.vcpus {
                    println!("  ctr {:#x} res {} state {:?}", v.ctr_el0, v.resolution_ticks, v.state);
                    for r in &v.records { if r.kind == 1 && r.tag != 0 { println!("   tag {} pass {} out {} {:?}", r.tag, r.pass, r.outcome, r.data); } }
                    if !v.registers.is_empty() { println!("{:?}", v.registers); }
                }
            }
        }
    }
    rustix::system::reboot(rustix::system::RebootCommand::PowerOff).unwrap();
}
