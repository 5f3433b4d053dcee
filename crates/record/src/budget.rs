//! The budget of a case: which faults and which maintenance a correct kernel may need, and what it did beyond that.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use units::text::thousands;

use crate::status::{Status, Verdict};

/// Comparison of the faults and the maintenance of a case with its budget.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Budget {
    /// Number of faults that were compared.
    pub faults: u64,
    /// Number of repeated faults that a race explains: another vCPU or the host changed the same mappings meanwhile.
    pub raced: u64,
    /// Faults and maintenance beyond the budget.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub surplus: Vec<Surplus>,
    /// Reason why some or all of it was not compared.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub unjudged: Option<String>,
}

/// Faults or maintenance of one kind beyond the budget.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Surplus {
    /// Rule that was broken, by its short name in `docs/budgets.md`.
    pub rule: String,
    /// Name of the faults or the maintenance, in the singular: `fetch permission fault`.
    pub what: String,
    /// Description of the defect: `X was lost`.
    pub why: String,
    /// Last host event before it, if there was one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub after: Option<String>,
    /// Level of the faults, or of the fault before the maintenance.
    pub level: u8,
    /// IPA of the first of them.
    pub ipa: u64,
    /// Number of them.
    pub count: u64,
}

impl Surplus {
    /// Returns the surplus in one line.
    pub fn text(&self) -> String {
        let Self { what, why, after, level, ipa, count, rule } = self;
        let plural = if *count == 1 { "" } else { "s" };
        let after = after.as_ref().map(|event| format!(" after {event}")).unwrap_or_default();
        let count = thousands(*count);
        format!("{count} {what}{plural}{after}, 0 needed: {why} ({rule}; level {level}, first at IPA {ipa:#x})")
    }
}

impl Budget {
    /// Returns the failure in one line, if there is one.
    pub fn failure(&self) -> Option<String> {
        let first = self.surplus.first()?;
        let more = match self.surplus.len() - 1 {
            0 => String::new(),
            1 => "; and another kind".into(),
            more => format!("; and {more} more kinds"),
        };
        Some(format!("budget: {}{more}", first.text()))
    }

    /// Returns the verdict of a case with this budget. An exceeded budget fails it, and a pass says how much was compared.
    pub fn apply(&self, verdict: Verdict) -> Verdict {
        match self.failure() {
            Some(failure) if verdict.status <= Status::Skip => Verdict::new(Status::Fail, failure),
            None if verdict.status == Status::Pass && self.unjudged.is_none() && self.faults > 0 => {
                let faults = format!("{} faults within budget", thousands(self.faults - self.raced));
                Verdict::new(Status::Pass, format!("{}; {faults}", verdict.reason))
            }
            _ => verdict,
        }
    }

    /// Adds the comparison of a later part of the case.
    pub fn add(&mut self, later: &Self) {
        self.faults += later.faults;
        self.raced += later.raced;
        for surplus in &later.surplus {
            self.add_surplus(surplus.clone());
        }
        if self.unjudged.is_none() {
            self.unjudged.clone_from(&later.unjudged);
        }
    }

    /// Adds a surplus to those of the same kind.
    pub fn add_surplus(&mut self, more: Surplus) {
        let same = |known: &&mut Surplus| {
            (&known.rule, &known.what, known.level, &known.after) == (&more.rule, &more.what, more.level, &more.after)
        };
        match self.surplus.iter_mut().find(same) {
            Some(known) => known.count += more.count,
            None => self.surplus.push(more),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn surplus(count: u64) -> Surplus {
        Surplus {
            rule: "B2".into(),
            what: "fetch permission fault".into(),
            why: "X was lost".into(),
            after: Some("dirty-log-on".into()),
            level: 3,
            ipa: 0x8000_0000,
            count,
        }
    }

    #[test]
    fn surpluses_of_one_kind_are_added() {
        let mut all = Budget { faults: 3, surplus: vec![surplus(1)], ..Budget::default() };
        all.add(&Budget { faults: 8, surplus: vec![surplus(7)], ..Budget::default() });
        assert_eq!(
            all.failure().unwrap(),
            "budget: 8 fetch permission faults after dirty-log-on, 0 needed: X was lost (B2; level 3, first at IPA 0x80000000)"
        );
        assert_eq!(all.faults, 11);
        all.add_surplus(Surplus { level: 2, ..surplus(1) });
        assert!(all.failure().unwrap().ends_with("; and another kind"));
        assert_eq!(Budget::default().failure(), None);
        let pass = Verdict::new(Status::Pass, "fine");
        assert_eq!(all.apply(pass.clone()).status, Status::Fail);
        assert_eq!(all.apply(Verdict::new(Status::Error, "died")).reason, "died");
        let kept = Budget { faults: 9, raced: 1, ..Budget::default() };
        assert_eq!(kept.apply(pass.clone()).reason, "fine; 8 faults within budget");
        let unjudged = Budget { unjudged: Some("no trace".into()), ..Budget::default() };
        assert_eq!(unjudged.apply(pass).reason, "fine");
    }
}
