//! A chart of the ratios: one bar a mount, from 1.0 on a logarithmic scale.

use std::fmt::Write as _;

use crate::report::{Line, Report, short};

const LEFT: f64 = 230.0;
const WIDTH: f64 = 760.0;
const TOP: f64 = 96.0;
const BAR: f64 = 9.0;
/// Between the groups of bars.
const GAP: f64 = 12.0;
/// What the scale leads from and to; a longer bar is cut.
const SCALE: (f64, f64) = (0.5, 50.0);
const TICKS: [f64; 7] = [0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0];

/// Colours by the name of the mount.
fn colour(name: &str) -> &'static str {
    match name {
        "kernel" => "#8a8a8a",
        "ours" => "#0b5fa5",
        "plain" => "#3f8fd2",
        "exclusive" => "#7fb8e6",
        "rootless" => "#28a197",
        "bindfs" => "#d4351c",
        "fuse-overlayfs" => "#f47738",
        _ => "#b58900",
    }
}

/// Returns where a ratio is on the scale.
fn across(ratio: f64) -> f64 {
    let (low, high) = SCALE;
    let part = (ratio.clamp(low, high) / low).ln() / (high / low).ln();
    LEFT + WIDTH * part
}

/// Returns the chart.
pub fn chart(report: &Report) -> String {
    let lines: Vec<&Line> = report.lines.iter().filter(|line| line.row.unit.is_ratio()).collect();
    let bars = report.kinds.len().saturating_sub(1) as f64;
    let group = bars * BAR + GAP;
    let (width, height) = (LEFT + WIDTH + 60.0, TOP + group * lines.len() as f64 + 20.0);
    let mut out = Drawing(String::new());
    out.add(&format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"sans-serif\" font-size=\"11\">"
    ));
    out.add(&format!("<rect width=\"{width}\" height=\"{height}\" fill=\"#fff\"/>"));
    out.text(
        10.0,
        20.0,
        "start",
        "Time as a ratio to no mount (1.0); shorter is better; | is the goal",
    );
    out.text(10.0, 38.0, "start", &report.machine.title());
    legend(&mut out, report);
    for tick in TICKS {
        let x = across(tick);
        let colour = if tick == 1.0 { "#555" } else { "#ddd" };
        out.add(&format!("<path d=\"M{x:.1} {TOP} V{:.1}\" stroke=\"{colour}\"/>", height - 20.0));
        out.text(x, TOP - 6.0, "middle", &short(tick));
    }
    for (number, line) in lines.iter().enumerate() {
        let y = TOP + group * number as f64 + GAP / 2.0;
        out.text(LEFT - 10.0, y + bars * BAR / 2.0 + 4.0, "end", line.row.title);
        bars_of(&mut out, report, line, y);
    }
    out.add("</svg>");
    out.0
}

fn legend(out: &mut Drawing, report: &Report) {
    for (number, kind) in report.kinds.iter().skip(1).enumerate() {
        let x = LEFT + 105.0 * number as f64 - 100.0;
        out.add(&format!(
            "<rect x=\"{x}\" y=\"52\" width=\"10\" height=\"10\" fill=\"{}\"/>",
            colour(kind.name)
        ));
        out.text(x + 14.0, 61.0, "start", kind.name);
    }
}

fn bars_of(out: &mut Drawing, report: &Report, line: &Line, top: f64) {
    let columns = report.kinds.iter().zip(&line.shown).skip(1).enumerate();
    for (number, (kind, shown)) in columns {
        let (y, height) = (top + BAR * number as f64, BAR - 1.0);
        let goal = line.row.goals.of(kind.name).map(across);
        if let Some(ratio) = shown {
            let (from, to) = (across(ratio.min(1.0)), across(ratio.max(1.0)));
            out.add(&format!(
                "<rect x=\"{from:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{height}\" \
                 fill=\"{}\"><title>{}: {}</title></rect>",
                (to - from).max(1.0),
                colour(kind.name),
                kind.name,
                short(*ratio)
            ));
            // Beside the mark of a goal that is close.
            let end = goal.filter(|goal| (to - 2.0..to + 24.0).contains(goal)).unwrap_or(to);
            out.add(&format!(
                "<text x=\"{:.1}\" y=\"{:.1}\" font-size=\"8\">{}</text>",
                end + 4.0,
                y + 7.0,
                short(*ratio)
            ));
        }
        if let Some(x) = goal {
            out.add(&format!(
                "<path d=\"M{x:.1} {y:.1} v{height}\" stroke=\"#000\" stroke-width=\"2\"/>"
            ));
        }
    }
}

/// Text of an SVG.
struct Drawing(String);

impl Drawing {
    fn add(&mut self, element: &str) {
        let (Ok(()) | Err(_)) = writeln!(self.0, "{element}");
    }

    fn text(&mut self, x: f64, y: f64, anchor: &str, text: &str) {
        let text = text.replace('&', "&amp;").replace('<', "&lt;");
        self.add(&format!(
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>"
        ));
    }
}
