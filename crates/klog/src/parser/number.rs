//! Decimal numbers at the start of a text.

/// Reads a decimal number at the start of `text`. Returns the number and the rest of the text.
pub fn number(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    Some((text[..end].parse().ok()?, &text[end..]))
}

/// Reads a number of at most 32 bits, such as a CPU or a thread id, as [`number`] does.
pub fn number32(text: &str) -> Option<(u32, &str)> {
    let (value, rest) = number(text)?;
    Some((u32::try_from(value).ok()?, rest))
}
