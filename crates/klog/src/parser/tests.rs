use crate::complaint::Kind;
use crate::parser::*;

fn parse<'a>(lines: impl IntoIterator<Item = LogLine<'a>>) -> Vec<Complaint> {
    let mut parser = Parser::new();
    for line in lines {
        parser.push(&line);
    }
    parser.finish()
}

fn complaints(log: &str) -> Vec<Complaint> {
    parse(log.lines().map(LogLine::plain))
}

fn from_callers(lines: &[(&str, &str)]) -> Vec<Complaint> {
    parse(lines.iter().map(|(caller, text)| LogLine { caller: Caller::parse(caller), ..LogLine::plain(text) }))
}

fn only(log: &str) -> Complaint {
    let mut found = complaints(log);
    assert_eq!(found.len(), 1, "{found:#?}");
    found.remove(0)
}

#[test]
fn every_first_line() {
    let cases = [
        ("watchdog: BUG: soft lockup - CPU#1 stuck for 22s! [vcpu-0:123]", Kind::SoftLockup),
        ("NMI watchdog: BUG: soft lockup - CPU#0 stuck for 22s! [poweroff:965]", Kind::SoftLockup),
        ("BUG: soft lockup - CPU#3 stuck for 11s! [syz-executor:643]", Kind::SoftLockup),
        ("watchdog: Watchdog detected hard LOCKUP on cpu 1", Kind::HardLockup),
        ("NMI watchdog: Watchdog detected hard LOCKUP on cpu 0dModules linked in: a", Kind::HardLockup),
        ("watchdog: CPU1: Watchdog detected hard LOCKUP on cpu 2", Kind::HardLockup),
        ("watchdog: CPU 3 detected hard LOCKUP on other CPUs 5", Kind::HardLockup),
        ("watchdog: CPU 3 self-detected hard LOCKUP @ f+0x0/0x10", Kind::HardLockup),
        ("rcu: INFO: rcu_sched self-detected stall on CPU", Kind::RcuStall),
        ("rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:", Kind::RcuStall),
        (
            "rcu: INFO: rcu_preempt detected expedited stalls on CPUs/tasks: { 1-...D } 22 jiffies s: 9 root: 0x2/.",
            Kind::RcuStall,
        ),
        ("INFO: rcu_tasks detected stalls on tasks:", Kind::RcuStall),
        ("INFO: rcu_sched self-detected stall on CPU", Kind::RcuStall),
        ("INFO: task kworker/4:2:1520 blocked for more than 120 seconds.", Kind::HungTask),
        ("INFO: task a:1 blocked in I/O wait for more than 120 seconds.", Kind::HungTask),
        ("WARNING: CPU: 0 PID: 1 at kernel/foo.c:12 func+0x1/0x2", Kind::Warn),
        ("WARNING: kernel/foo.c:12 at func+0x1/0x2, CPU#3: my task/44", Kind::Warn),
        ("WARNING: possible circular locking dependency detected", Kind::Warn),
        ("BUG: sleeping function called from invalid context at mm/a.c:1", Kind::Bug),
        ("BUG: workqueue lockup - pool cpus=1 node=0 flags=0x0 nice=0 stuck for 33s!", Kind::Bug),
        ("kernel BUG at mm/huge_memory.c:2715!", Kind::Bug),
        ("Internal error: Oops - BUG: 00000000f2000800 [#1] SMP", Kind::Bug),
        ("Internal error: Oops: 0000000096000004 [#1] PREEMPT SMP", Kind::Oops),
        ("Unable to handle kernel NULL pointer dereference at virtual address 0000000000000000", Kind::Oops),
        ("BUG: kernel NULL pointer dereference, address: 0000000000000000", Kind::Oops),
        ("general protection fault, probably for non-canonical address 0xdead: 0000 [#1] PREEMPT SMP", Kind::Oops),
        ("Oops: general protection fault, probably for non-canonical address 0xdead: 0000 [#1]", Kind::Oops),
        ("Kernel panic - not syncing: softlockup: hung tasks", Kind::Panic),
    ];
    for (line, kind) in cases {
        assert_eq!(only(line).kind, kind, "{line}");
    }
}

#[test]
fn no_false_hits() {
    let lines = "\
I saw watchdog: BUG: soft lockup - CPU#1 stuck for 22s! [x:1] yesterday
systemd[1]: watchdog: BUG: soft lockup - CPU#1 stuck for 22s! [x:1]
watchdog: Delayed init of the lockup detector failed: -19
watchdog: BUG: soft lockup detector is off
NMI watchdog: Enabled. Permanently consumes one hw-PMU counter.
rcu: Hierarchical SRCU implementation.
rcu: rcu_preempt kthread starved for 5250 jiffies! g1 f0x0 RCU_GP_WAIT_FQS(5) ->state=0x0 ->cpu=0
INFO: task kworker/0:1:11 is blocked on a mutex likely owned by task dhcpcd:615.
INFO: lockdep is turned off.
WARNING: Failed to connect to lvmetad. Falling back to device scanning.
Oops#1 Part1
Oops: I did it again
Kernel panic is what we test here
---[ end Kernel panic - not syncing: softlockup: hung tasks ]---
bounds check passed
";
    assert_eq!(complaints(lines), []);
}

#[test]
fn soft_lockup_and_hung_task_split_the_task_at_the_last_colon() {
    let complaint = only("watchdog: BUG: soft lockup - CPU#12 stuck for 26s! [my: odd] name:7:4711]");
    assert_eq!((complaint.cpu, complaint.seconds), (Some(12), Some(26)));
    assert_eq!((complaint.comm.as_deref(), complaint.pid), (Some("my: odd] name:7"), Some(4711)));
    let complaint = only("INFO: task kworker/4:2:1520 blocked for more than 360 seconds.");
    assert_eq!(
        (complaint.comm.as_deref(), complaint.pid, complaint.seconds),
        (Some("kworker/4:2"), Some(1520), Some(360))
    );
}

const ARM64: &str = "\
watchdog: BUG: soft lockup - CPU#1 stuck for 3s! [vcpu-0:123]
Modules linked in:
CPU: 1 PID: 123 Comm: vcpu-0 Not tainted 6.1.0-56-arm64 #1  Debian 6.1.192-2
Hardware name: linux,dummy-virt (DT)
pstate: 40400005 (nZcv daif +PAN -UAO -TCO -DIT -SSBS BTYPE=--)
pc : icache_inval_pou+0x24/0x44
lr : invalidate_icache_guest_page+0x54/0x80
sp : ffff80000ae5b8a0
x29: ffff80000ae5b8a0 x28: ffff000003f4cb00 x27: 0000000000000000
Call trace:
 icache_inval_pou+0x24/0x44
 stage2_attr_walker+0x88/0x110
 kvm_pgtable_stage2_relax_perms+0x98/0x10c
 user_mem_abort+0x2b8/0x9b0
";

#[test]
fn repeats_are_one_complaint() {
    let second = ARM64.replace("stuck for 3s", "stuck for 6s").replace("pou+0x24", "pou+0x28");
    let complaint = only(&format!("{ARM64}some other line\n{second}"));
    assert_eq!((complaint.repeats, complaint.seconds), (2, Some(6)));
    assert_eq!(complaint.pc.as_deref(), Some("icache_inval_pou+0x28/0x44"));
    assert_eq!(complaint.lr.as_deref(), Some("invalidate_icache_guest_page+0x54/0x80"));
    assert_eq!(complaint.call_trace.len(), 4);
    assert_eq!(complaint.taint, None);
    assert!(complaint.first_line.contains("stuck for 3s") && !complaint.interleaved);
    let other = ARM64.replace("CPU#1", "CPU#0");
    assert_eq!(complaints(&format!("{ARM64}{other}")).len(), 2);
}

#[test]
fn no_place_is_lost_among_repeats() {
    let d_side = ARM64.replace("icache_inval_pou", "dcache_clean_inval_poc");
    let complaint = only(&format!("{d_side}x\n{ARM64}x\n{ARM64}x\n{}", d_side.replace("stuck for 3s", "stuck for 2s")));
    assert_eq!(complaint.repeats, 4);
    assert_eq!(complaint.pc.as_deref(), Some("dcache_clean_inval_poc+0x24/0x44"));
    assert_eq!(complaint.elsewhere.len(), 1);
    assert_eq!(
        (complaint.elsewhere[0].repeats, complaint.elsewhere[0].pc.as_deref()),
        (2, Some("icache_inval_pou+0x24/0x44"))
    );
}

#[test]
fn the_starving_thread_of_rcu_is_not_the_stall() {
    let complaint = only(
        "\
rcu: INFO: rcu_sched self-detected stall on CPU
rcu: \t1-...!: (737 ticks this GP) idle=40d4/1/0x4000000000000000 softirq=183/183 fqs=0
\t(t=750 jiffies g=-883 q=1 ncpus=2)
rcu: RCU grace-period kthread stack dump:
task:rcu_sched       state:R  running task     stack:0     pid:14    ppid:2      flags:0x00000008
Call trace:
 __switch_to+0xe8/0x120
rcu: Stack dump where RCU GP kthread last ran:
CPU: 1 PID: 88 Comm: vcpu-0 Tainted: G             L     6.1.0-56-arm64 #1  Debian 6.1.192-2
pc : icache_inval_pou+0x2c/0x44
Call trace:
 icache_inval_pou+0x2c/0x44
",
    );
    assert_eq!((complaint.jiffies, complaint.call_trace.len()), (Some(750), 1));
    assert_eq!(complaint.pc.as_deref(), Some("icache_inval_pou+0x2c/0x44"));
}

#[test]
fn callers_tell_mixed_reports_apart() {
    let found = from_callers(&[
        ("C1", "watchdog: BUG: soft lockup - CPU#1 stuck for 3s! [vcpu-0:10]"),
        ("C2", "watchdog: BUG: soft lockup - CPU#2 stuck for 3s! [vcpu-1:11]"),
        ("C2", "pc : queued_write_lock_slowpath+0x1/0x2"),
        ("C1", "pc : icache_inval_pou+0x1/0x2"),
        ("C2", "Call trace:"),
        ("C1", "Call trace:"),
        ("C1", " icache_inval_pou+0x1/0x2"),
        ("T5", "audit: unrelated"),
        ("C2", " queued_write_lock_slowpath+0x1/0x2"),
        ("C1", " stage2_attr_walker+0x1/0x2"),
    ]);
    assert_eq!(found.len(), 2);
    assert_eq!(found[0].call_trace, ["icache_inval_pou+0x1/0x2", "stage2_attr_walker+0x1/0x2"]);
    assert_eq!(found[1].pc.as_deref(), Some("queued_write_lock_slowpath+0x1/0x2"));
    assert!(!found[0].interleaved && !found[1].interleaved);
}

#[test]
fn cpu_lines_tell_reports_apart_without_callers() {
    let found = complaints(
        "\
watchdog: BUG: soft lockup - CPU#1 stuck for 3s! [vcpu-0:10]
watchdog: BUG: soft lockup - CPU#2 stuck for 3s! [vcpu-1:11]
CPU: 2 PID: 11 Comm: vcpu-1 Not tainted 6.1.0 #1
pc : queued_write_lock_slowpath+0x1/0x2
Call trace:
 queued_write_lock_slowpath+0x1/0x2
CPU: 1 PID: 10 Comm: vcpu-0 Not tainted 6.1.0 #1
pc : icache_inval_pou+0x1/0x2
Call trace:
 icache_inval_pou+0x1/0x2
",
    );
    assert_eq!(found[0].pc.as_deref(), Some("icache_inval_pou+0x1/0x2"));
    assert_eq!(found[1].pc.as_deref(), Some("queued_write_lock_slowpath+0x1/0x2"));
    assert!(!found[0].interleaved);
    let mixed = complaints(
        "\
watchdog: BUG: soft lockup - CPU#1 stuck for 3s! [vcpu-0:10]
watchdog: BUG: soft lockup - CPU#2 stuck for 3s! [vcpu-1:11]
CPU: 2 PID: 11 Comm: vcpu-1 Not tainted 6.1.0 #1
CPU: 1 PID: 10 Comm: vcpu-0 Not tainted 6.1.0 #1
pc : icache_inval_pou+0x1/0x2
pc : queued_write_lock_slowpath+0x1/0x2
",
    );
    assert!(mixed.iter().all(|complaint| complaint.interleaved));
}

#[test]
fn foreign_dumps_are_not_ours() {
    let complaint = only(&format!(
        "{ARM64}Sending NMI from CPU 1 to CPUs 0:\nNMI backtrace for cpu 0\nCPU: 0 PID: 1 Comm: init Not tainted 6.1 #1\n\
         pc : other+0x1/0x2\nCall trace:\n other+0x1/0x2\n"
    ));
    assert_eq!(complaint.call_trace.len(), 4);
    assert_eq!((complaint.pid, complaint.pc.as_deref()), (Some(123), Some("icache_inval_pou+0x24/0x44")));
}

#[test]
fn another_cpu_prints_the_body() {
    let found = from_callers(&[
        ("C0", "watchdog: CPU0: Watchdog detected hard LOCKUP on cpu 1"),
        ("C0", "Sending NMI from CPU 0 to CPUs 1:"),
        ("C1", "NMI backtrace for cpu 1"),
        ("C1", "CPU: 1 UID: 0 PID: 9 Comm: stuck Tainted: G             L     6.12.1 #1"),
        ("C1", "pc : stuck_here+0x1/0x2"),
    ]);
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].comm.as_deref(), found[0].pc.as_deref()), (Some("stuck"), Some("stuck_here+0x1/0x2")));
    assert_eq!(found[0].taint.as_deref(), Some("GL"));
}

#[test]
fn rcu_details() {
    let complaint = only(
        "\
rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:
rcu: \t1-...0: (1 ticks this GP) idle=222/1/0x4000000000000002 softirq=63/64 fqs=2626
\t(detected by 2, t=5255 jiffies, g=-991, q=9 ncpus=4)
Task dump for CPU 1:
task:swapper/1       state:R  running task     stack:    0 pid:    0 ppid:     1 flags:0x0000002a
Call trace:
 __switch_to+0x138/0x198
",
    );
    assert_eq!((complaint.cpu, complaint.jiffies), (Some(1), Some(5255)));
    assert_eq!(complaint.call_trace, ["__switch_to+0x138/0x198"]);
    let complaint = only(
        "rcu: INFO: rcu_preempt detected expedited stalls on CPUs/tasks: { P9 3-...D } 22 jiffies s: 7 root: 0x0/T",
    );
    assert_eq!((complaint.pid, complaint.cpu, complaint.jiffies), (Some(9), Some(3), Some(22)));
}

#[test]
fn an_oops_is_one_complaint_and_the_panic_another() {
    let found = complaints(
        "\
Unable to handle kernel NULL pointer dereference at virtual address 0000000000000000
Mem abort info:
  ESR = 0x0000000096000044
Internal error: Oops: 0000000096000044 [#1] SMP
Modules linked in:
CPU: 0 PID: 1 Comm: sh Not tainted 6.1.0-56-arm64 #1  Debian 6.1.192-2
pc : sysrq_handle_crash+0x20/0x2c
Call trace:
 sysrq_handle_crash+0x20/0x2c
 __handle_sysrq+0x8c/0x1a0
Code: 52800020 b9000020 d503201f
---[ end trace 0000000000000000 ]---
Kernel panic - not syncing: Oops: Fatal exception
",
    );
    assert_eq!(found.iter().map(|complaint| complaint.kind).collect::<Vec<_>>(), [Kind::Oops, Kind::Panic]);
    assert_eq!(found[0].pc.as_deref(), Some("sysrq_handle_crash+0x20/0x2c"));
    assert_eq!(found[0].call_trace.len(), 2);
}

#[test]
fn x86_interrupt_frames_are_left_out() {
    let complaint = only(
        "\
watchdog: BUG: soft lockup - CPU#2 stuck for 23s! [qemu:99]
CPU: 2 PID: 99 Comm: qemu Kdump: loaded Tainted: P           OEL    5.15.0 #1
RIP: 0010:native_queued_spin_lock_slowpath+0x60/0x1d0
Call Trace:
 <IRQ>
 ? watchdog_timer_fn+0x1/0x2
 watchdog_x+0x1/0x2
 </IRQ>
 <TASK>
RIP: 0010:other+0x1/0x2
 _raw_write_lock+0x1e/0x20
 ? guess+0x1/0x2
 kvm_mmu_notifier_invalidate_range_start+0x1/0x2 [kvm]
 </TASK>
",
    );
    assert_eq!(complaint.pc.as_deref(), Some("native_queued_spin_lock_slowpath+0x60/0x1d0"));
    assert_eq!(complaint.call_trace.len(), 2, "{:?}", complaint.call_trace);
    assert_eq!(complaint.taint.as_deref(), Some("POEL"));
}

#[test]
fn truncated_and_wrapped_first_lines() {
    let complaint = only("watchdog: BUG: soft lockup - CPU#1 stuck for 22s! [vcp\nModules linked in:");
    assert_eq!((complaint.cpu, complaint.comm), (Some(1), None));
    let complaint = only("watchdog: BUG: soft lockup - CPU#1 stuck for 22s! [qemu-system-a\nar:1234]");
    assert_eq!((complaint.comm.as_deref(), complaint.pid), (Some("qemu-system-aar"), Some(1234)));
}

#[test]
fn user_space_is_not_believed() {
    let line = "watchdog: BUG: soft lockup - CPU#1 stuck for 22s! [x:1]";
    assert_eq!(parse([LogLine { origin: Origin::User, ..LogLine::plain(line) }]), []);
    assert_eq!(parse([LogLine { origin: Origin::Kernel, ..LogLine::plain(line) }]).len(), 1);
}

#[test]
fn garbage_does_no_harm() {
    let odd = [
        "",
        " ",
        "é",
        "[",
        "CPU: ",
        "pc : ",
        "watchdog: BUG: soft lockup - CPU#99999999999999999999 stuck",
        "rcu: INFO: ",
        "\u{0}",
    ];
    assert_eq!(parse(odd.into_iter().map(LogLine::plain)), []);
    let lock = "watchdog: BUG: soft lockup - CPU#1 stuck for 22s! [x:1]";
    parse(odd.into_iter().flat_map(|line| [lock, line]).map(LogLine::plain));
}
