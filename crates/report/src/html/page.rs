//! The frame of every page.

use maud::{DOCTYPE, Markup, PreEscaped, html};
use record::status::Status;

use crate::html::svg;

/// Style of a page. The style of charts is separate, because a picture in a file of its own needs it, too.
const STYLE: &str = include_str!("style.css");

/// Text of a cell without a value.
pub const NO_VALUE: &str = "\u{2013}";

/// Returns a page with this body.
pub fn page(title: &str, body: &Markup) -> String {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="generator" content=(concat!("faultline ", env!("CARGO_PKG_VERSION")));
                title { (title) }
                link rel="icon" href="data:,";
                style { (PreEscaped(svg::STYLE)) (PreEscaped(STYLE)) }
            }
            body { main { (body) } }
        }
    }
    .into_string()
}

/// Draws a status as a coloured word.
pub fn badge(status: Status) -> Markup {
    html! { span class=(format!("badge is-{}", status.name())) { (status.name()) } }
}
