//! One picture of a report, as a figure of the page or as a file of its own.

use maud::{Markup, PreEscaped, html};

use crate::html::svg::{Plot, STYLE, WIDTH, mark};

/// A plot with its contents, its caption and its legend.
#[derive(Clone, Debug)]
pub struct Chart {
    /// Axes and text alternative.
    pub plot: Plot,
    /// Contents of the frame.
    pub marks: Markup,
    /// Text below the frame.
    pub caption: String,
    /// Numbers and names of the series, for a line above the frame. Empty if the names are in the frame.
    pub legend: Vec<(usize, String)>,
}

/// Width of the margin of a file.
const EDGE: f64 = 24.0;
/// Distance between lines of text.
const LINE: f64 = 20.0;
/// Average width of a character, rounded up.
const CHARACTER: f64 = 7.2;

impl Chart {
    /// Returns the picture as a part of a page.
    pub fn figure(&self) -> Markup {
        html! {
            figure {
                @if !self.legend.is_empty() {
                    ul class="legend" {
                        @for (n, name) in &self.legend {
                            li { svg viewBox="0 0 18 16" aria-hidden="true" { (mark(*n, 9.0, 8.0, name)) } (name) }
                        }
                    }
                }
                (self.plot.draw(&self.marks))
                figcaption { (self.caption) }
            }
        }
    }

    /// Returns the picture as an SVG file that needs no other file: it contains its style, its legend and its text, and
    /// follows the light or dark scheme of the reader's screen. `remark` is a further line of text.
    pub fn file(&self, remark: &str) -> String {
        let legend = legend(&self.legend);
        let top = EDGE + LINE * (1.0 + legend.last().map_or(0.0, |item| item.row + 1.0));
        let below = top + self.plot.height + LINE;
        let text: Vec<_> = [self.caption.as_str(), remark]
            .iter()
            .filter(|part| !part.is_empty())
            .flat_map(|part| wrap(part))
            .collect();
        let height = below + LINE * text.len() as f64;
        let labels = self.plot.labels();
        let svg = html! {
            svg xmlns="http://www.w3.org/2000/svg" width=(WIDTH) height=(height) viewBox=(format!("0 0 {WIDTH} {height}")) role="img" aria-labelledby=(labels) {
                (self.plot.text_alternative())
                style { (PreEscaped(STYLE)) }
                rect class="paper" width=(WIDTH) height=(height) {}
                text class="heading" x=(EDGE) y=(EDGE + 4.0) { (self.plot.title) }
                @for item in &legend {
                    @let y = EDGE + LINE * (1.0 + item.row);
                    (mark(item.series, item.x + 6.0, y, item.name))
                    text x=(item.x + 18.0) y=(y + 4.0) { (item.name) }
                }
                g transform=(format!("translate(0 {top})")) { (self.plot.inside(&self.marks)) }
                @for (n, line) in text.iter().enumerate() {
                    text class="axis" x=(EDGE) y=(below + LINE * n as f64) { (line) }
                }
            }
        };
        svg.into_string() + "\n"
    }
}

/// A name of the legend with its place.
struct Item<'a> {
    series: usize,
    name: &'a str,
    x: f64,
    row: f64,
}

/// Lays the names out in rows that fit the width.
fn legend(names: &[(usize, String)]) -> Vec<Item<'_>> {
    let (mut x, mut row) = (EDGE, 0.0);
    let mut items = Vec::new();
    for (series, name) in names {
        let width = 42.0 + CHARACTER * name.chars().count() as f64;
        if x > EDGE && x + width > WIDTH {
            (x, row) = (EDGE, row + 1.0);
        }
        items.push(Item { series: *series, name, x, row });
        x += width;
    }
    items
}

/// Breaks a text into lines that fit the width.
fn wrap(text: &str) -> Vec<String> {
    let most = ((WIDTH - 2.0 * EDGE) / CHARACTER) as usize;
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let options = textwrap::Options::new(most).word_splitter(textwrap::WordSplitter::NoHyphenation);
    textwrap::wrap(&text, options.break_words(false)).into_iter().map(Into::into).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_broken_between_words() {
        let text = "word ".repeat(60);
        let lines = wrap(&text);
        assert_eq!(lines.join(" "), text.trim());
        assert!(lines.len() == 3 && lines.iter().all(|line| line.len() <= 115), "{lines:?}");
    }
}
