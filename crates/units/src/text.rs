//! Numbers and times as text.

/// Returns a time in nanoseconds as text, with three digits and the largest unit that fits.
pub fn time(ns: u64) -> String {
    const UNITS: [(u64, &str); 4] = [(1_000_000_000, "s"), (1_000_000, "ms"), (1_000, "µs"), (1, "ns")];
    let (scale, unit) = UNITS.into_iter().find(|(scale, _)| ns >= *scale).unwrap_or((1, "ns"));
    let value = ns as f64 / scale as f64;
    let digits = if scale == 1 || value >= 100.0 { 0 } else { 2 - usize::from(value >= 10.0) };
    format!("{value:.digits$} {unit}")
}

/// Returns a number with a comma before every third digit.
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Returns a number with the noun that it counts, as in `1 block` and `2 blocks`.
pub fn counted(number: u64, noun: &str) -> String {
    format!("{} {noun}{}", thousands(number), if number == 1 { "" } else { "s" })
}

/// Returns a word as a shell reads it: in quotes, unless no character of it means anything to a shell.
pub fn shell_word(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./,=:+%@".contains(c);
    if !word.is_empty() && word.chars().all(plain) { word.into() } else { format!("'{}'", word.replace('\'', "'\\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_with_blanks_are_quoted() {
        assert_eq!(["--append=a b", "it's", "--smp=2"].map(shell_word), ["'--append=a b'", "'it'\\''s'", "--smp=2"]);
    }

    #[test]
    fn nouns_are_counted() {
        assert_eq!([0, 1, 2].map(|n| counted(n, "block")), ["0 blocks", "1 block", "2 blocks"]);
    }

    #[test]
    fn numbers() {
        assert_eq!([0, 999, 1000, 16_777_216].map(thousands), ["0", "999", "1,000", "16,777,216"]);
        let times = [0, 999, 1_500, 12_345, 4_310_000_000, 123_456_789].map(time);
        assert_eq!(times, ["0 ns", "999 ns", "1.50 µs", "12.3 µs", "4.31 s", "123 ms"]);
    }
}
