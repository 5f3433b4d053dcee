//! Words that must not appear in live output.

use std::borrow::Cow;

/// What the log scanners of LAVA, Beaker and others take for a failure of the machine, and what is printed instead.
const SCANNED: [(&str, &str); 4] =
    [("BUG:", "event=bug"), ("WARNING:", "event=warning"), ("Oops", "event=oops"), ("Kernel panic", "event=panic")];

/// Returns `text` as one line without the words that log scanners fail on.
pub fn quiet(text: &str) -> Cow<'_, str> {
    let mut out = Cow::Borrowed(text);
    if text.contains(['\n', '\r']) {
        out = Cow::Owned(text.split(['\n', '\r']).filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" "));
    }
    for (word, instead) in SCANNED {
        if out.contains(word) {
            out = Cow::Owned(out.replace(word, instead));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scanners_stay_quiet() {
        let text = "watchdog: BUG: soft lockup\nOops: 0096 Kernel panic - not syncing WARNING: CPU";
        let quiet = quiet(text);
        assert!(SCANNED.iter().all(|(word, _)| !quiet.contains(word)), "{quiet}");
        assert!(!quiet.contains('\n'));
        assert!(matches!(super::quiet("event=soft_lockup"), Cow::Borrowed(_)));
    }
}
