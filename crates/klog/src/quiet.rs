//! Words that must not appear in live output.

use std::borrow::Cow;

/// What the log scanners of LAVA, Beaker and others take for a failure of the machine; what is printed instead; and what in
/// JSON, where the text itself must stay.
const SCANNED: [(&str, &str, &str); 4] = [
    ("BUG:", "event=bug", "BUG\\u003a"),
    ("WARNING:", "event=warning", "WARNING\\u003a"),
    ("Oops", "event=oops", "Oop\\u0073"),
    ("Kernel panic", "event=panic", "Kernel\\u0020panic"),
];

/// Returns `text` as one line without the words that log scanners fail on.
pub fn quiet(text: &str) -> Cow<'_, str> {
    let mut out = Cow::Borrowed(text);
    if text.contains(['\n', '\r']) {
        out = Cow::Owned(text.split(['\n', '\r']).filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" "));
    }
    replaced(out, SCANNED.map(|(word, instead, _)| (word, instead)))
}

/// Returns `text` without these words, of several lines if it has them.
pub fn quiet_lines(text: &str) -> Cow<'_, str> {
    replaced(Cow::Borrowed(text), SCANNED.map(|(word, instead, _)| (word, instead)))
}

/// Returns JSON without these words that is read as the same: one letter of each is written as an escape.
pub fn quiet_json(json: &str) -> Cow<'_, str> {
    replaced(Cow::Borrowed(json), SCANNED.map(|(word, _, escaped)| (word, escaped)))
}

fn replaced<'a>(mut text: Cow<'a, str>, words: [(&str, &str); 4]) -> Cow<'a, str> {
    for (word, instead) in words {
        if text.contains(word) {
            text = Cow::Owned(text.replace(word, instead));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scanners_stay_quiet() {
        let text = "watchdog: BUG: soft lockup\nOops: 0096 Kernel panic - not syncing WARNING: CPU";
        let quiet = quiet(text);
        assert!(SCANNED.iter().all(|(word, ..)| !quiet.contains(word)), "{quiet}");
        assert!(!quiet.contains('\n') && quiet_lines(text).contains('\n'));
        assert!(matches!(super::quiet("event=soft_lockup"), Cow::Borrowed(_)));
    }

    #[test]
    fn json_stays_what_it_is() {
        let value = serde_json::json!({ "BUG": "\\BUG: Oops \"WARNING:\" Kernel panic - not syncing: Oops" });
        let text = serde_json::to_string_pretty(&value).expect("plain data");
        let quiet = quiet_json(&text);
        assert!(SCANNED.iter().all(|(word, ..)| !quiet.contains(word)), "{quiet}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&quiet).expect("still JSON"), value);
    }
}
