//! Words that must not appear in live output, because the log scanners of test labs react to them.

use std::borrow::Cow;

/// A word that the scanners of LAVA, Beaker and others take for a failure of the machine.
struct ScannedWord {
    word: &'static str,
    /// The replacement in text.
    plain: &'static str,
    /// The replacement in JSON. It is read as the same word.
    json: &'static str,
}

const SCANNED: [ScannedWord; 4] = [
    ScannedWord { word: "BUG:", plain: "event=bug", json: "BUG\\u003a" },
    ScannedWord { word: "WARNING:", plain: "event=warning", json: "WARNING\\u003a" },
    ScannedWord { word: "Oops", plain: "event=oops", json: "Oop\\u0073" },
    ScannedWord { word: "Kernel panic", plain: "event=panic", json: "Kernel\\u0020panic" },
];

/// Returns `text` as one line without the words that log scanners react to.
///
/// ```
/// let line = faultline_klog::quiet::quiet("watchdog: BUG: soft lockup\non CPU#1");
/// assert_eq!(line, "watchdog: event=bug soft lockup on CPU#1");
/// ```
pub fn quiet(text: &str) -> Cow<'_, str> {
    let mut out = Cow::Borrowed(text);
    if text.contains(['\n', '\r']) {
        out = Cow::Owned(text.split(['\n', '\r']).filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" "));
    }
    replaced(out, |scanned| scanned.plain)
}

/// Returns `text` without these words, and keeps its line breaks.
pub fn quiet_lines(text: &str) -> Cow<'_, str> {
    replaced(Cow::Borrowed(text), |scanned| scanned.plain)
}

/// Returns JSON without these words. A reader gets the same value, because one character of each word is written as an
/// escape.
pub fn quiet_json(json: &str) -> Cow<'_, str> {
    replaced(Cow::Borrowed(json), |scanned| scanned.json)
}

fn replaced<'a>(mut text: Cow<'a, str>, replacement: fn(&ScannedWord) -> &'static str) -> Cow<'a, str> {
    for scanned in &SCANNED {
        if text.contains(scanned.word) {
            text = Cow::Owned(text.replace(scanned.word, replacement(scanned)));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_quiet(text: &str) -> bool {
        SCANNED.iter().all(|scanned| !text.contains(scanned.word))
    }

    #[test]
    fn scanners_stay_quiet() {
        let text = "watchdog: BUG: soft lockup\nOops: 0096 Kernel panic - not syncing WARNING: CPU";
        let quiet = quiet(text);
        assert!(is_quiet(&quiet), "{quiet}");
        assert!(!quiet.contains('\n') && quiet_lines(text).contains('\n'));
        assert!(matches!(super::quiet("event=soft_lockup"), Cow::Borrowed(_)));
    }

    #[test]
    fn json_stays_what_it_is() {
        let value = serde_json::json!({ "BUG": "\\BUG: Oops \"WARNING:\" Kernel panic - not syncing: Oops" });
        let text = serde_json::to_string_pretty(&value).expect("plain data");
        let quiet = quiet_json(&text);
        assert!(is_quiet(&quiet), "{quiet}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&quiet).expect("still JSON"), value);
    }
}
