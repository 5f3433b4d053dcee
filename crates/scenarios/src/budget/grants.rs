//! Rights at stage 2 that faults have proved, by range of IPAs.

use std::collections::BTreeMap;
use std::ops::Range;

/// Set of rights of one vCPU at one mapping.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rights(u8);

impl Rights {
    /// Read.
    pub const READ: Self = Self(1);
    /// Write, which implies read.
    pub const WRITE: Self = Self(1 | 2);
    /// Execute, which implies read.
    pub const EXECUTE: Self = Self(1 | 4);

    /// Returns whether the set has all rights of another set.
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    fn add(&mut self, other: Self) {
        self.0 |= other.0;
    }

    fn remove_write(&mut self) {
        self.0 &= !(Self::WRITE.0 & !Self::READ.0);
    }
}

/// A mapping that some fault has proved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    end: u64,
    /// Level of its entry, if a fault has proved that, too.
    pub level: Option<u8>,
    /// Rights of each vCPU that has faulted there.
    rights: Vec<(u64, Rights)>,
}

impl Grant {
    /// Returns the rights of a vCPU.
    pub fn of(&self, vcpu: u64) -> Rights {
        self.rights.iter().find(|(of, _)| *of == vcpu).map(|(_, rights)| *rights).unwrap_or_default()
    }
}

/// All proved mappings. They do not overlap.
#[derive(Clone, Debug, Default)]
pub struct Grants(BTreeMap<u64, Grant>);

impl Grants {
    /// Returns the mapping that an IPA belongs to.
    pub fn at(&self, ipa: u64) -> Option<&Grant> {
        self.0.range(..=ipa).next_back().map(|(_, grant)| grant).filter(|grant| ipa < grant.end)
    }

    /// Gives a vCPU rights at a mapping. A mapping of another size takes the place of those that it overlaps.
    pub fn add(&mut self, range: Range<u64>, level: Option<u8>, vcpu: u64, rights: Rights) {
        if self.0.get(&range.start).is_none_or(|grant| grant.end != range.end) {
            self.remove(range.clone());
            self.0.insert(range.start, Grant { end: range.end, level, rights: Vec::new() });
        }
        let Some(grant) = self.0.get_mut(&range.start) else { return };
        grant.level = grant.level.or(level);
        match grant.rights.iter_mut().find(|(of, _)| *of == vcpu) {
            Some((_, known)) => known.add(rights),
            None => grant.rights.push((vcpu, rights)),
        }
    }

    /// Removes every mapping that overlaps a range.
    pub fn remove(&mut self, range: Range<u64>) {
        let before = self.0.range(..range.start).next_back().filter(|(_, grant)| grant.end > range.start);
        let first = before.map_or(range.start, |(start, _)| *start);
        let gone: Vec<_> = self.0.range(first..range.end.max(first)).map(|(start, _)| *start).collect();
        for start in gone {
            self.0.remove(&start);
        }
    }

    /// Removes all mappings.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Removes the right to write everywhere.
    pub fn write_protect(&mut self) {
        for (_, rights) in self.0.values_mut().flat_map(|grant| &mut grant.rights) {
            rights.remove_write();
        }
    }

    /// Forgets the level of every entry. The mappings stay.
    pub fn forget_levels(&mut self) {
        self.0.values_mut().for_each(|grant| grant.level = None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mappings_do_not_overlap() {
        let mut grants = Grants::default();
        grants.add(0x1000..0x2000, Some(3), 0, Rights::WRITE);
        grants.add(0x2000..0x3000, Some(3), 0, Rights::READ);
        grants.add(0x2000..0x3000, None, 1, Rights::EXECUTE);
        let second = grants.at(0x2fff).unwrap();
        assert!(second.of(1).has(Rights::EXECUTE) && second.of(0) == Rights::READ && second.of(7) == Rights::default());
        assert_eq!((second.level, grants.at(0x3000)), (Some(3), None));
        grants.write_protect();
        assert_eq!(grants.at(0x1000).unwrap().of(0), Rights::READ);
        grants.add(0..0x20_0000, Some(2), 0, Rights::READ);
        assert_eq!(grants.at(0x2000).unwrap().of(1), Rights::default());
        grants.remove(0x1000..0x2000);
        assert_eq!(grants.at(0), None, "a block goes as a whole");
    }
}
