//! One picture of a report, as a figure of the page or as a file of its own. Pure.

use maud::{Markup, PreEscaped, html};

use crate::html::CHART_STYLE;
use crate::html::svg::{Plot, WIDTH, mark};

/// A plot with what is drawn in it and said about it.
#[derive(Clone, Debug)]
pub struct Chart {
    /// Axes and text alternative.
    pub plot: Plot,
    /// What is drawn in the frame.
    pub marks: Markup,
    /// What is said below.
    pub caption: String,
    /// The names of the series, for a line above the frame; empty where they stand beside what is drawn.
    pub legend: Vec<(usize, String)>,
}

/// Room at the edges of a file, distance of its lines of text, and how wide a character is at most on average.
const EDGE: f64 = 24.0;
const LINE: f64 = 20.0;
const CHARACTER: f64 = 7.2;

impl Chart {
    /// Returns it as a part of a page.
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

    /// Returns it as an SVG file that needs nothing else: it brings its style, its legend and its words, and is light or
    /// dark as the reader's screen is. `remark` is what a page says elsewhere.
    pub fn file(&self, remark: &str) -> String {
        let legend = legend(&self.legend);
        let top = EDGE + LINE * (1.0 + legend.last().map_or(0.0, |item| item.row + 1.0));
        let below = top + self.plot.height + LINE;
        let said: Vec<_> = [self.caption.as_str(), remark].iter().flat_map(|text| wrap(text)).collect();
        let height = below + LINE * said.len() as f64;
        let labels = self.plot.labels();
        let svg = html! {
            svg xmlns="http://www.w3.org/2000/svg" width=(WIDTH) height=(height) viewBox=(format!("0 0 {WIDTH} {height}")) role="img" aria-labelledby=(labels) {
                (self.plot.words())
                style { (PreEscaped(CHART_STYLE)) }
                rect class="paper" width=(WIDTH) height=(height) {}
                text class="heading" x=(EDGE) y=(EDGE + 4.0) { (self.plot.title) }
                @for item in &legend {
                    @let y = EDGE + LINE * (1.0 + item.row);
                    (mark(item.series, item.x + 6.0, y, item.name))
                    text x=(item.x + 18.0) y=(y + 4.0) { (item.name) }
                }
                g transform=(format!("translate(0 {top})")) { (self.plot.inside(&self.marks)) }
                @for (n, line) in said.iter().enumerate() {
                    text class="axis" x=(EDGE) y=(below + LINE * n as f64) { (line) }
                }
            }
        };
        svg.into_string() + "\n"
    }
}

struct Item<'a> {
    series: usize,
    name: &'a str,
    x: f64,
    row: f64,
}

/// Lays the names out in rows that fit.
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

/// Breaks a text into lines that fit.
fn wrap(text: &str) -> Vec<String> {
    let most = ((WIDTH - 2.0 * EDGE) / CHARACTER) as usize;
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= most => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.into()),
        }
    }
    lines
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
        assert!(wrap("").is_empty());
    }
}
