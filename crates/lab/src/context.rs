//! The user's side of a long step: an interrupt, and a place to show progress.

use hostfacts::interrupt::Interrupt;

/// The user for whom a long step works.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// The user's wish to stop.
    pub interrupt: &'a Interrupt,
    /// A function that shows one line of progress.
    pub progress: &'a dyn Fn(&str),
}

impl Context<'_> {
    /// Shows `text` as the current activity.
    pub fn show(&self, text: &str) {
        (self.progress)(text);
    }
}
