//! The plot: CPU per unit beside HAProxy's, as an SVG.

use std::fmt::Write as _;

/// A group of bars.
pub struct Group {
    pub title: String,
    pub bars: Vec<Bar>,
}

/// Times HAProxy's median: smallest, middle and largest.
pub struct Bar {
    pub name: String,
    pub spread: [f64; 3],
    /// The middle one in µs.
    pub label: String,
}

const COLOURS: [&str; 5] = ["#9aa5b1", "#2f6fde", "#d9822b", "#3a9d5d", "#8a4fbf"];
const LEFT: f64 = 330.0;
const WIDTH: f64 = 560.0;
const BAR: f64 = 13.0;

pub fn svg(title: &str, groups: &[Group]) -> String {
    let largest = groups.iter().flat_map(|g| &g.bars).map(|b| b.spread[2]).fold(1.2, f64::max);
    let most = largest.min(3.0);
    let x = |value: f64| LEFT + value.min(most) / most * WIDTH;
    let mut body = String::new();
    let mut y = 56.0;
    for group in groups {
        let middle = y + group.bars.len() as f64 * BAR / 2.0 + 4.0;
        let _ = writeln!(
            body,
            "<text x=\"{}\" y=\"{middle}\" text-anchor=\"end\">{}</text>",
            LEFT - 10.0,
            escape(&group.title)
        );
        for (i, bar) in group.bars.iter().enumerate() {
            let [min, median, max] = bar.spread.map(x);
            let colour = COLOURS[i % COLOURS.len()];
            let _ = writeln!(
                body,
                "<rect x=\"{LEFT}\" y=\"{y}\" width=\"{}\" height=\"{}\" fill=\"{colour}\"/>\
                 <line x1=\"{min}\" x2=\"{max}\" y1=\"{m}\" y2=\"{m}\" stroke=\"#000\"/>\
                 <text x=\"{}\" y=\"{}\" font-size=\"10\">{} {}</text>",
                median - LEFT,
                BAR - 2.0,
                max.max(median) + 6.0,
                y + BAR - 4.0,
                escape(&bar.name),
                escape(&bar.label),
                m = y + BAR / 2.0 - 1.0,
            );
            y += BAR;
        }
        y += 9.0;
    }
    let one = x(1.0);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{w}\" height=\"{h}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"10\" y=\"22\" font-size=\"15\">{}</text>\n\
         <text x=\"{one}\" y=\"44\" text-anchor=\"middle\" font-size=\"10\">HAProxy = 1</text>\n\
         <line x1=\"{one}\" x2=\"{one}\" y1=\"48\" y2=\"{y}\" stroke=\"#888\" stroke-dasharray=\"3 3\"/>\n\
         {body}</svg>\n",
        escape(title),
        w = LEFT + WIDTH + 190.0,
        h = y + 10.0,
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}
