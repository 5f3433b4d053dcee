//! The SVG elements of a chart: axes, a frame with grid and labels, marks, and a text alternative.

use maud::{Markup, html};

/// Style of charts.
pub const STYLE: &str = include_str!("chart.css");

/// Width of every chart in SVG units.
pub const WIDTH: f64 = 880.0;
const LEFT: f64 = 72.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 18.0;
const BOTTOM: f64 = 46.0;

/// Scale of an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// Proportional.
    Linear,
    /// Logarithmic. Values must be above zero.
    Log,
}

/// An axis.
#[derive(Clone, Debug)]
pub struct Axis {
    /// Name of the quantity.
    pub label: String,
    /// Scale.
    pub scale: Scale,
    /// Value at the beginning.
    pub min: f64,
    /// Value at the end.
    pub max: f64,
    /// Values with a grid line, and their labels.
    pub ticks: Vec<(f64, String)>,
}

impl Axis {
    /// Returns an axis in whole decades of nanoseconds around the values.
    pub fn decades_of_ns(label: &str, values: impl Iterator<Item = f64>) -> Self {
        Self::decades(label, values, power_of_ten_ns)
    }

    /// Returns an axis in whole decades around the values. `name` returns the label of a power of ten.
    pub fn decades(label: &str, values: impl Iterator<Item = f64>, name: impl Fn(i32) -> String) -> Self {
        let (low, high) = bounds(values.filter(|value| *value > 0.0));
        let (first, last) = (low.log10().floor() as i32, high.log10().ceil() as i32);
        let last = last.max(first + 1);
        let ticks = (first..=last).map(|n| (10f64.powi(n), name(n))).collect();
        Self { label: label.into(), scale: Scale::Log, min: 10f64.powi(first), max: 10f64.powi(last), ticks }
    }

    /// Returns an axis from zero to beyond the largest value, in round steps. `name` returns the label of a value.
    pub fn from_zero(label: &str, largest: f64, name: impl Fn(f64) -> String) -> Self {
        Self::in_steps(label, largest, round_step(largest.max(1e-9) / 5.0), name)
    }

    /// Returns an axis of counts from zero to beyond the largest. No step is less than one.
    pub fn whole_from_zero(label: &str, largest: f64) -> Self {
        Self::in_steps(label, largest, round_step(largest.max(1.0) / 5.0).max(1.0), |value| value.to_string())
    }

    fn in_steps(label: &str, largest: f64, step: f64, name: impl Fn(f64) -> String) -> Self {
        let count = (largest / step).ceil().max(1.0) as u32;
        let ticks = (0..=count).map(|n| f64::from(n) * step).map(|value| (value, name(value))).collect();
        Self { label: label.into(), scale: Scale::Linear, min: 0.0, max: f64::from(count) * step, ticks }
    }

    /// Returns the place of a value on the axis: 0 at the beginning, 1 at the end.
    fn share(&self, value: f64) -> f64 {
        let share = match self.scale {
            Scale::Linear => (value - self.min) / (self.max - self.min),
            Scale::Log => (value.max(self.min) / self.min).ln() / (self.max / self.min).ln(),
        };
        share.clamp(0.0, 1.0)
    }
}

fn bounds(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) = values.fold((f64::INFINITY, 0.0f64), |(low, high), v| (low.min(v), high.max(v)));
    if low.is_finite() { (low, high) } else { (1.0, 10.0) }
}

fn power_of_ten_ns(n: i32) -> String {
    let (unit, shift) = [("ns", 0), ("µs", 3), ("ms", 6), ("s", 9)]
        .into_iter()
        .rev()
        .find(|(_, shift)| n >= *shift)
        .unwrap_or(("ns", 0));
    format!("{} {unit}", 10f64.powi(n - shift))
}

/// Returns the smallest number of at least `least` that is 1, 2 or 5 times a power of ten.
fn round_step(least: f64) -> f64 {
    let decade = 10f64.powf(least.log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .map(|n| n * decade)
        .find(|step| *step >= least * 0.999_999)
        .unwrap_or(decade * 10.0)
}

/// The axes of a chart, and its text alternative.
#[derive(Clone, Debug)]
pub struct Plot {
    /// Id, unique within the page.
    pub id: String,
    /// Title.
    pub title: String,
    /// Contents in words, for readers who cannot see the chart.
    pub description: String,
    /// Height in SVG units.
    pub height: f64,
    /// Width left of the frame for labels, in addition to that of the ticks.
    pub margin: f64,
    /// Horizontal axis.
    pub x: Axis,
    /// Vertical axis.
    pub y: Axis,
}

impl Plot {
    /// Returns the horizontal place of a value.
    pub fn x(&self, value: f64) -> f64 {
        round(LEFT + self.margin + self.x.share(value) * (WIDTH - LEFT - self.margin - RIGHT))
    }

    /// Returns the vertical place of a value.
    pub fn y(&self, value: f64) -> f64 {
        round(self.height - BOTTOM - self.y.share(value) * (self.height - TOP - BOTTOM))
    }

    /// Returns a path through the points.
    pub fn path(&self, points: &[(f64, f64)]) -> String {
        let mut out = String::new();
        for (n, (x, y)) in points.iter().enumerate() {
            out += &format!("{}{} {}", if n == 0 { "M" } else { "L" }, self.x(*x), self.y(*y));
        }
        out
    }

    /// Draws frame, grid and labels around `marks`, as an SVG element with its text alternative.
    pub fn draw(&self, marks: &Markup) -> Markup {
        let svg = html! {
            svg viewBox=(format!("0 0 {WIDTH} {}", self.height)) role="img" aria-labelledby=(self.labels()) {
                (self.text_alternative())
                (self.inside(marks))
            }
        };
        // A narrow window scrolls the chart instead of shrinking its text.
        html! { div class="scroll" tabindex="0" role="region" aria-label=(self.title) { (svg) } }
    }

    /// Returns the ids of the elements of [`Self::text_alternative`].
    pub fn labels(&self) -> String {
        format!("{0}-title {0}-desc", self.id)
    }

    /// Returns title and description, for readers who cannot see the chart.
    pub fn text_alternative(&self) -> Markup {
        html! {
            title id=(format!("{}-title", self.id)) { (self.title) }
            desc id=(format!("{}-desc", self.id)) { (self.description) }
        }
    }

    /// Draws frame, grid and labels around `marks`, without the SVG element around them.
    pub fn inside(&self, marks: &Markup) -> Markup {
        let (left, right) = (self.x(self.x.min), self.x(self.x.max));
        let (top, bottom) = (self.y(self.y.max), self.y(self.y.min));
        html! {
            @for (value, label) in &self.x.ticks {
                line class="grid" x1=(self.x(*value)) x2=(self.x(*value)) y1=(top) y2=(bottom) {}
                text class="tick" x=(self.x(*value)) y=(bottom + 18.0) text-anchor="middle" { (label) }
            }
            @for (value, label) in &self.y.ticks {
                line class="grid" x1=(left) x2=(right) y1=(self.y(*value)) y2=(self.y(*value)) {}
                text class="tick" x=(left - 8.0) y=(self.y(*value) + 4.0) text-anchor="end" { (label) }
            }
            rect class="frame" x=(left) y=(top) width=(round(right - left)) height=(round(bottom - top)) {}
            text class="axis" x=(round(f64::midpoint(left, right))) y=(self.height - 8.0) text-anchor="middle" { (self.x.label) }
            (marks)
        }
    }
}

/// Draws the mark of a series. Series differ in shape, too, for readers who cannot tell the colours apart.
pub fn mark(series: usize, x: f64, y: f64, hover: &str) -> Markup {
    const R: f64 = 5.5;
    let class = format!("dot fill c{}", series % COLOURS);
    html! {
        @match series % 4 {
            0 => circle class=(class) cx=(x) cy=(y) r=(R) { title { (hover) } },
            1 => rect class=(class) x=(round(x - R)) y=(round(y - R)) width=(R * 2.0) height=(R * 2.0) { title { (hover) } },
            2 => path class=(class) d=(format!("M{x} {}L{} {y}L{x} {}L{} {y}Z", round(y - 7.0), round(x + 7.0), round(y + 7.0), round(x - 7.0))) { title { (hover) } },
            _ => path class=(class) d=(format!("M{x} {}L{} {}L{} {}Z", round(y - 7.0), round(x + 7.0), round(y + 6.0), round(x - 7.0), round(y + 6.0))) { title { (hover) } },
        }
    }
}

/// Number of colours in the style sheet.
pub const COLOURS: usize = 6;

/// Rounds a coordinate to one decimal, which is enough for a screen and keeps files small.
pub fn round(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes() {
        let axis = Axis::decades_of_ns("", [640.0, 5.6e9].into_iter());
        assert_eq!((axis.min, axis.max), (100.0, 1e10));
        let labels: Vec<_> = axis.ticks.iter().map(|(_, label)| label.as_str()).collect();
        assert_eq!(labels, ["100 ns", "1 µs", "10 µs", "100 µs", "1 ms", "10 ms", "100 ms", "1 s", "10 s"]);
        assert!((axis.share(1e6) - 0.5).abs() < 1e-9);
        let axis = Axis::from_zero("", 5.65, |v| v.to_string());
        assert_eq!((axis.ticks.len(), axis.max), (4, 6.0));
        let labels = |axis: Axis| axis.ticks.into_iter().map(|(_, label)| label).collect::<Vec<_>>();
        assert_eq!(labels(Axis::whole_from_zero("", 2.0)), ["0", "1", "2"]);
        assert_eq!(labels(Axis::whole_from_zero("", 16.0)), ["0", "5", "10", "15", "20"]);
        let nothing = Axis::decades_of_ns("", [].into_iter());
        assert!(nothing.max > nothing.min && nothing.min > 0.0);
        assert!(Axis::from_zero("", 0.0, |v| v.to_string()).max > 0.0);
    }
}
