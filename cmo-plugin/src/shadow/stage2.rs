// SPDX-License-Identifier: GPL-2.0-or-later
//! Stage-2 tables of all guests, followed store by store, and the memory that they make reachable.

use std::collections::HashMap;

use super::page::PAGE;
use super::report::Missing;
use super::tables::{Descriptor, Geometry, Grants};

/// Bits of VTTBR_EL2 that hold the address of the tables (BADDR). Bit 0 is CnP.
const BADDR: u64 = 0x0000_ffff_ffff_fffe;

/// Number of a root. Numbers are not used twice.
pub(crate) type RootId = u16;

/// Access to the machine that the tables are in.
pub(crate) trait Machine {
    /// Follows the stores to the table at `pa`, or no longer does.
    fn watch(&self, pa: u64, bytes: u64, is_watched: bool);
    /// Reads the entries of the table at `pa`.
    fn read(&self, pa: u64, entries: &mut [u64]);
    /// Records whether any guest can read the page that holds `pa`.
    fn publish(&self, pa: u64, is_published: bool);
}

/// A change that has to be judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// A leaf was written.
    Leaf(Leaf),
    /// A leaf was removed.
    Unmapped {
        /// Its memory.
        leaf: Leaf,
    },
    /// A rule for changes of an entry was broken.
    Broken {
        /// The rule.
        missing: Missing,
        /// Physical address of the entry.
        entry: u64,
        /// Intermediate physical address that the entry translates.
        ipa: u64,
        /// VMID of the guest.
        vmid: u16,
    },
}

/// A leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Leaf {
    pub(crate) root: RootId,
    pub(crate) vmid: u16,
    pub(crate) pa: u64,
    pub(crate) ipa: u64,
    pub(crate) size: u64,
    pub(crate) grants: Grants,
}

/// Reachability of one page through one root.
#[derive(Clone, Copy, Debug, Default)]
struct Published {
    /// Lines that the host stored to since the page became readable.
    rewritten: u64,
    /// Intermediate physical address, in pages.
    ipa_page: u32,
    read: bool,
    execute: bool,
}

/// News about one page of a leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct News {
    /// The page was not readable through this root before.
    pub(crate) read: bool,
    /// The page was not executable through this root before.
    pub(crate) execute: bool,
    /// Lines that the host stored to since the page became readable.
    pub(crate) rewritten: u64,
}

struct Root {
    baddr: u64,
    vmid: u16,
    geometry: Geometry,
    /// Number of TLB invalidations that could concern this root.
    tlb_invalidations: u64,
}

/// Entry that was valid and is invalid now.
struct Unmade {
    value: u64,
    tlb_invalidations: u64,
}

struct Table {
    root: RootId,
    level: i8,
    ipa: u64,
    entries: Vec<u64>,
    unmade: HashMap<u16, Unmade>,
}

/// Stage-2 tables, and what they map.
#[derive(Default)]
pub(crate) struct Stage2 {
    next: RootId,
    roots: HashMap<RootId, Root>,
    tables: HashMap<u64, Table>,
    published: HashMap<(RootId, u32), Published>,
    fwb: bool,
}

impl Stage2 {
    /// Uses the attributes of leaves as HCR_EL2.FWB says.
    pub(crate) fn set_fwb(&mut self, fwb: bool) {
        self.fwb = fwb;
    }

    /// Follows the tables of the guest that VTTBR_EL2 selects. VMID 0 belongs to the host.
    pub(crate) fn load(&mut self, vttbr: u64, vtcr: u64, machine: &dyn Machine) -> Vec<Change> {
        let (vmid, baddr) = ((vttbr >> 48) as u16, vttbr & BADDR);
        let mut changes = Vec::new();
        let Some(geometry) = Geometry::of(vtcr).filter(|_| vmid != 0 && baddr != 0) else { return changes };
        let concerned = |root: &Root| root.vmid == vmid || root.baddr == baddr;
        let concerned: Vec<_> = self.roots.iter().filter(|(_, root)| concerned(root)).map(|(id, _)| *id).collect();
        for id in concerned {
            self.move_or_drop(id, vmid, baddr, geometry, machine);
        }
        if !self.roots.values().any(|root| root.baddr == baddr) {
            let id = self.next;
            self.next = self.next.wrapping_add(1);
            self.roots.insert(id, Root { baddr, vmid, geometry, tlb_invalidations: 0 });
            let level = geometry.start_level;
            for n in 0..geometry.tables {
                let ipa = n << (geometry.shift(level) + geometry.entries().ilog2());
                self.watch(baddr + n * geometry.table_bytes(), id, level, ipa, machine, &mut changes);
            }
        }
        changes
    }

    /// Gives a root its new VMID if only that changed; drops it otherwise.
    fn move_or_drop(&mut self, id: RootId, vmid: u16, baddr: u64, geometry: Geometry, machine: &dyn Machine) {
        let root = self.roots.get_mut(&id).expect("the caller found it");
        if root.baddr == baddr && root.geometry == geometry {
            root.vmid = vmid;
        } else {
            self.drop_root(id, machine);
        }
    }

    fn drop_root(&mut self, id: RootId, machine: &dyn Machine) {
        self.roots.remove(&id);
        let tables: Vec<_> = self.tables.iter().filter(|(_, table)| table.root == id).map(|(pa, _)| *pa).collect();
        for pa in tables {
            self.tables.remove(&pa);
            machine.watch(pa, PAGE, false);
        }
        let pages: Vec<_> = self.published.keys().filter(|(root, _)| *root == id).map(|(_, page)| *page).collect();
        for page in pages {
            self.published.remove(&(id, page));
            self.tell(page, machine);
        }
    }

    /// Tells the machine whether a page is published.
    fn tell(&self, page: u32, machine: &dyn Machine) {
        machine.publish(u64::from(page) * PAGE, self.is_published(u64::from(page) * PAGE));
    }

    /// Returns whether any guest can read the page that holds `pa`.
    pub(crate) fn is_published(&self, pa: u64) -> bool {
        let page = (pa / PAGE) as u32;
        self.roots.keys().any(|root| self.published.get(&(*root, page)).is_some_and(|known| known.read))
    }

    /// Returns the root that VTTBR_EL2 selects.
    pub(crate) fn root_of(&self, vttbr: u64) -> Option<RootId> {
        self.roots.iter().find(|(_, root)| root.baddr == vttbr & BADDR).map(|(id, _)| *id)
    }

    /// Translates an intermediate physical address.
    pub(crate) fn translate(&self, root: RootId, ipa: u64) -> Option<u64> {
        let Root { baddr, geometry, .. } = self.roots.get(&root)?;
        let mut level = geometry.start_level;
        let covered = geometry.shift(level) + geometry.entries().ilog2();
        let mut pa = baddr + (ipa >> covered) * geometry.table_bytes();
        loop {
            let shift = geometry.shift(level);
            let index = (ipa >> shift) as usize % geometry.entries();
            match geometry.decode(*self.tables.get(&pa)?.entries.get(index)?, level, self.fwb) {
                Descriptor::Invalid => return None,
                Descriptor::Leaf { pa, size, .. } => return Some(pa + ipa % size),
                Descriptor::Table(next) => (pa, level) = (next, level + 1),
            }
        }
    }

    /// Records that the host stored to lines of a page that is published.
    pub(crate) fn rewrite(&mut self, pa: u64, lines: u64) {
        for root in self.roots.keys() {
            if let Some(known) = self.published.get_mut(&(*root, (pa / PAGE) as u32)) {
                known.rewritten |= lines;
            }
        }
    }

    /// Returns the lines of a page that the host stored to since the page became readable through a root, and the
    /// intermediate physical address of the page.
    pub(crate) fn rewritten(&self, root: RootId, pa: u64) -> Option<(u64, u64)> {
        let known = self.published.get(&(root, (pa / PAGE) as u32)).filter(|known| known.read)?;
        Some((known.rewritten, u64::from(known.ipa_page) * PAGE))
    }

    /// Records a TLB invalidation while `vttbr` was in VTTBR_EL2; of all guests if it is none.
    pub(crate) fn invalidate_tlb(&mut self, vttbr: Option<u64>) {
        for root in self.roots.values_mut() {
            if vttbr.is_none_or(|vttbr| root.baddr == vttbr & BADDR) {
                root.tlb_invalidations += 1;
            }
        }
    }

    /// Ends the following of the table that holds `pa`, because something else than a descriptor was stored there.
    pub(crate) fn spoil(&mut self, pa: u64, machine: &dyn Machine) {
        if let Some(table) = self.table_at(pa) {
            self.unwatch(table, machine);
        } else {
            machine.watch(pa / PAGE * PAGE, PAGE, false);
        }
    }

    /// Returns the address of the followed table that holds `pa`.
    fn table_at(&self, pa: u64) -> Option<u64> {
        [12, 14, 16].into_iter().map(|shift| pa >> shift << shift).find(|base| {
            let holds = |table: &Table| pa < base + table.entries.len() as u64 * 8;
            self.tables.get(base).is_some_and(holds)
        })
    }

    /// Follows a store of eight bytes to a table.
    pub(crate) fn store(&mut self, pa: u64, value: u64, machine: &dyn Machine) -> Vec<Change> {
        let mut changes = Vec::new();
        if let Some(table) = self.table_at(pa) {
            self.entry(table, ((pa - table) / 8) as usize, value, machine, &mut changes);
        }
        changes
    }

    fn watch(&mut self, pa: u64, root: RootId, level: i8, ipa: u64, machine: &dyn Machine, changes: &mut Vec<Change>) {
        if level > 3
            || self.tables.get(&pa).is_some_and(|table| (table.root, table.level, table.ipa) == (root, level, ipa))
        {
            return;
        }
        if self.tables.contains_key(&pa) {
            self.unwatch(pa, machine);
        }
        let geometry = self.roots[&root].geometry;
        let mut values = vec![0; geometry.entries()];
        let entries = vec![0; geometry.entries()];
        self.tables.insert(pa, Table { root, level, ipa, entries, unmade: HashMap::new() });
        // Stores of other PEs are seen from here on, and those before are read.
        machine.watch(pa, geometry.table_bytes(), true);
        machine.read(pa, &mut values);
        for (index, value) in values.into_iter().enumerate().filter(|(_, value)| *value != 0) {
            self.entry(pa, index, value, machine, changes);
        }
    }

    /// Ends the following of a table and of those below it. Nothing is reachable through them any more.
    fn unwatch(&mut self, pa: u64, machine: &dyn Machine) {
        let Some(table) = self.tables.remove(&pa) else { return };
        machine.watch(pa, table.entries.len() as u64 * 8, false);
        for value in table.entries.into_iter().filter(|value| value & 1 != 0) {
            self.unmap(table.root, table.level, value, None, machine);
        }
    }

    /// Makes everything unreachable that the descriptor `value` of a table of `level` maps, except `kept`.
    fn unmap(&mut self, root: RootId, level: i8, value: u64, kept: Option<&Leaf>, machine: &dyn Machine) {
        let Some(geometry) = self.roots.get(&root).map(|root| root.geometry) else { return };
        match geometry.decode(value, level, self.fwb) {
            Descriptor::Invalid => {}
            Descriptor::Leaf { pa, size, .. } => self.unpublish(root, pa, size, kept, machine),
            Descriptor::Table(pa) => {
                let Some(table) = self.tables.get(&pa).filter(|table| table.root == root) else { return };
                if table.level != level + 1 {
                    return;
                }
                let table = self.tables.remove(&pa).expect("found above");
                machine.watch(pa, table.entries.len() as u64 * 8, false);
                for value in table.entries {
                    self.unmap(root, level + 1, value, kept, machine);
                }
            }
        }
    }

    fn unpublish(&mut self, root: RootId, pa: u64, size: u64, kept: Option<&Leaf>, machine: &dyn Machine) {
        for page in (pa / PAGE)..(pa + size) / PAGE {
            let is_kept = |leaf: &Leaf| (leaf.pa..leaf.pa + leaf.size).contains(&(page * PAGE));
            if kept.is_some_and(is_kept) {
                continue;
            }
            if self.published.remove(&(root, page as u32)).is_some() {
                self.tell(page as u32, machine);
            }
        }
    }

    fn entry(&mut self, pa: u64, index: usize, value: u64, machine: &dyn Machine, changes: &mut Vec<Change>) {
        let table = &self.tables[&pa];
        let (root_id, level, old) = (table.root, table.level, table.entries[index]);
        let Some(root) = self.roots.get(&root_id) else { return };
        let (geometry, vmid, tlb_invalidations) = (root.geometry, root.vmid, root.tlb_invalidations);
        let ipa = table.ipa + ((index as u64) << geometry.shift(level));
        let now = geometry.decode(value, level, self.fwb);
        let before = geometry.decode(old, level, self.fwb);
        if now == Descriptor::Invalid {
            if before != Descriptor::Invalid {
                let unmade = Unmade { value: old, tlb_invalidations };
                self.tables.get_mut(&pa).expect("above").unmade.entry(index as u16).or_insert(unmade);
            }
            // Another invalid value marks an entry that is being changed, and the next store decides.
            if value == 0 {
                self.tables.get_mut(&pa).expect("above").entries[index] = 0;
                self.unmap(root_id, level, old, None, machine);
                if let Descriptor::Leaf { pa, size, grants } = before {
                    changes.push(Change::Unmapped { leaf: Leaf { root: root_id, vmid, pa, ipa, size, grants } });
                }
            }
            return;
        }
        let unmade = self.tables.get_mut(&pa).expect("above").unmade.remove(&(index as u16));
        let missing = match unmade {
            Some(unmade) if differ(geometry.decode(unmade.value, level, self.fwb), now) => {
                (unmade.tlb_invalidations == tlb_invalidations).then_some(Missing::TlbInvalidation)
            }
            None if before != Descriptor::Invalid && differ(before, now) => Some(Missing::BreakBeforeMake),
            _ => None,
        };
        if let Some(missing) = missing {
            changes.push(Change::Broken { missing, entry: pa + index as u64 * 8, ipa, vmid });
        }
        self.tables.get_mut(&pa).expect("above").entries[index] = value;
        match now {
            Descriptor::Leaf { pa, size, grants } => {
                let leaf = Leaf { root: root_id, vmid, pa, ipa, size, grants };
                if differ(before, now) {
                    self.unmap(root_id, level, old, Some(&leaf), machine);
                }
                changes.push(Change::Leaf(leaf));
            }
            Descriptor::Table(child) => {
                if before != now && matches!(before, Descriptor::Table(_)) {
                    self.unmap(root_id, level, old, None, machine);
                }
                self.watch(child, root_id, level + 1, ipa, machine, changes);
                if let Descriptor::Leaf { pa, size, .. } = before {
                    self.unpublish_rest(root_id, (pa, size), child, level + 1, machine);
                }
            }
            Descriptor::Invalid => unreachable!("returned above"),
        }
    }

    /// Makes unreachable the part of a former block that the table in its place does not map to the same memory.
    fn unpublish_rest(&mut self, root: RootId, block: (u64, u64), child: u64, level: i8, machine: &dyn Machine) {
        let Some(table) = self.tables.get(&child) else { return };
        let geometry = self.roots[&root].geometry;
        let size = 1 << geometry.shift(level);
        let gone: Vec<_> = (table.entries.iter().enumerate())
            .map(|(n, value)| (block.0 + n as u64 * size, geometry.decode(*value, level, self.fwb)))
            .filter(|(pa, now)| !matches!(now, Descriptor::Leaf { pa: new, .. } if new == pa))
            .map(|(pa, _)| pa)
            .collect();
        for pa in gone {
            self.unpublish(root, pa, size, None, machine);
        }
    }

    /// Publishes the page at `pa`, which is part of `leaf`, and returns what is new about it.
    pub(crate) fn publish(&mut self, leaf: &Leaf, pa: u64, machine: &dyn Machine) -> News {
        let known = self.published.entry((leaf.root, (pa / PAGE) as u32)).or_default();
        let news = News {
            read: leaf.grants.read && !known.read,
            execute: leaf.grants.execute && !known.execute,
            rewritten: known.rewritten,
        };
        (known.read, known.execute) = (leaf.grants.read, leaf.grants.execute);
        known.ipa_page = ((leaf.ipa + (pa - leaf.pa)) / PAGE) as u32;
        if news.read {
            known.rewritten = 0;
            machine.publish(pa, true);
        }
        news
    }
}

/// Returns whether one valid descriptor cannot follow another without break-before-make.
fn differ(before: Descriptor, now: Descriptor) -> bool {
    match (before, now) {
        (Descriptor::Leaf { pa, size, .. }, Descriptor::Leaf { pa: new_pa, size: new_size, .. }) => {
            (pa, size) != (new_pa, new_size)
        }
        (before, now) => before != now,
    }
}
