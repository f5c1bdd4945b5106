//! What came of it: numbers, a table, JSON.

use std::fmt::Write as _;
use std::io;

use serde_json::{Value, json};

use crate::machine::Machine;
use crate::mounts::Kind;
use crate::work::{Row, Unit, Work};

/// All that was measured.
#[derive(Debug)]
pub struct Report {
    /// On what.
    pub machine: Machine,
    /// The columns; the first is native.
    pub kinds: Vec<&'static Kind>,
    /// What could not be mounted, and why.
    pub missing: Vec<(&'static str, String)>,
    /// The rows.
    pub lines: Vec<Line>,
}

/// One row.
#[derive(Debug)]
pub struct Line {
    /// The name of its work.
    pub work: &'static str,
    /// What it is of.
    pub row: &'static Row,
    /// For each column its number: a ratio to native, or in the row's unit.
    pub shown: Vec<Option<f64>>,
    /// For each column the median of what was measured.
    pub measured: Vec<Option<f64>>,
    /// For each column what was measured in each round.
    pub rounds: Vec<Vec<Option<f64>>>,
}

impl Report {
    /// Starts an empty one.
    pub fn new(
        machine: Machine,
        kinds: Vec<&'static Kind>,
        missing: Vec<(&'static str, String)>,
    ) -> Self {
        Self { machine, kinds, missing, lines: Vec::new() }
    }

    /// Adds what was measured, for each column the numbers of all rounds.
    pub fn add(&mut self, work: &Work, row: &'static Row, rounds: Vec<Vec<Option<f64>>>) {
        let native = rounds.first().cloned().unwrap_or_default();
        let ratios = |values: &Vec<Option<f64>>| {
            let pairs = values.iter().zip(&native);
            // Only with native of the same round: the machine may be slower in another.
            median(pairs.filter_map(|(value, native)| Some((*value)? / (*native)?)).collect())
        };
        let measured: Vec<Option<f64>> = rounds
            .iter()
            .map(|values| median(values.iter().flatten().copied().collect()))
            .collect();
        let shown = if row.unit.is_ratio() {
            rounds.iter().map(ratios).collect()
        } else {
            measured.clone()
        };
        self.lines.push(Line { work: work.name, row, shown, measured, rounds });
    }
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 {
        return values.get(middle).copied();
    }
    let low = values.get(middle.checked_sub(1)?)?;
    values.get(middle).map(|high| f64::midpoint(*low, *high))
}

/// Returns a number with as many digits as mean something.
pub fn short(value: f64) -> String {
    match value {
        value if value.is_infinite() => "never".to_owned(),
        value if value < 0.1 => format!("{value:.3}"),
        value if value < 10.0 => format!("{value:.2}"),
        value if value < 100.0 => format!("{value:.1}"),
        value => format!("{value:.0}"),
    }
}

/// Returns what was measured, with its unit.
fn absolute(unit: Unit, value: f64) -> String {
    match unit {
        _ if value.is_infinite() => short(value),
        Unit::Each if value < 1e6 => format!("{} us", short(value / 1e3)),
        Unit::Each => format!("{} ms", short(value / 1e6)),
        Unit::Mib => format!("{} MiB/s", short(1e9 / value)),
        Unit::Millis => format!("{} ms", short(value)),
        Unit::Mebibytes => format!("{} MiB", short(value)),
    }
}

impl Line {
    /// Returns what to show of a column, and `!` if it is beyond its goal: not where
    /// it was promised so.
    fn cell(&self, at: usize, kind: &Kind) -> String {
        let value = |values: &[Option<f64>]| values.get(at).copied().flatten();
        let Some(shown) = value(&self.shown) else { return "-".to_owned() };
        if shown.is_infinite() && kind.is_promised() {
            return format!("{}, as promised", short(shown));
        }
        let missed = self.row.goals.of(kind.name).is_some_and(|goal| shown > goal);
        let text = match value(&self.measured).filter(|_| kind.name == "native") {
            Some(measured) => absolute(self.row.unit, measured),
            None if self.row.unit.is_ratio() => short(shown),
            None => absolute(self.row.unit, shown),
        };
        if missed { format!("{text} !") } else { text }
    }

    fn goals(&self) -> String {
        let of = |name| self.row.goals.of(name).map(short);
        let (ours, plain, exclusive) = (of("ours"), of("plain"), of("exclusive"));
        let mut text = ours.clone().unwrap_or_default();
        for (more, before, name) in [(&plain, &ours, "plain"), (&exclusive, &plain, "exclusive")] {
            if let Some(goal) = more.as_ref().filter(|goal| Some(*goal) != before.as_ref()) {
                let comma = if text.is_empty() { "" } else { ", " };
                let (Ok(()) | Err(_)) = write!(text, "{comma}{name} {goal}");
            }
        }
        text
    }
}

/// Returns a table as Markdown has them.
pub fn table(report: &Report) -> String {
    let mut rows = vec![vec!["work".to_owned(), "goal".to_owned()]];
    if let Some(head) = rows.first_mut() {
        head.extend(report.kinds.iter().map(|kind| kind.name.to_owned()));
    }
    for line in &report.lines {
        let cells = report.kinds.iter().enumerate().map(|(at, kind)| line.cell(at, kind));
        rows.push([line.row.title.to_owned(), line.goals()].into_iter().chain(cells).collect());
    }
    let columns = report.kinds.len() + 2;
    let width = |at: usize| rows.iter().filter_map(|row| row.get(at)).map(String::len).max();
    let widths: Vec<usize> = (0..columns).map(|at| width(at).unwrap_or(0)).collect();
    rows.insert(1, widths.iter().map(|width| "-".repeat(*width)).collect());
    let mut text = format!("{}\n\n", report.machine.describe());
    for row in &rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        let (Ok(()) | Err(_)) = writeln!(text, "| {} |", cells.collect::<Vec<_>>().join(" | "));
    }
    for (name, why) in &report.missing {
        let (Ok(()) | Err(_)) = writeln!(text, "\n{name}: not available: {why}");
    }
    text
}

/// Returns all of it as JSON.
///
/// # Errors
/// As `serde_json` says.
pub fn json(report: &Report) -> io::Result<String> {
    let line = |line: &Line| {
        let number = |value: Option<f64>| match value {
            Some(value) if value.is_infinite() => json!("never"),
            value => json!(value),
        };
        let each = |at: usize, kind: &Kind| {
            let of = |values: &[Option<f64>]| number(values.get(at).copied().flatten());
            let goal = line.row.goals.of(kind.name);
            let ratio = if line.row.unit.is_ratio() { of(&line.shown) } else { Value::Null };
            let unit = if line.row.unit.is_ratio() { "nanoseconds" } else { "value" };
            let rounds = line.rounds.get(at).into_iter().flatten().copied().map(number);
            let rounds: Vec<Value> = rounds.collect();
            let value = of(&line.measured);
            let all = json!({"ratio": ratio, unit: value, "goal": goal, "rounds": rounds});
            (kind.name.to_owned(), all)
        };
        let mounts: serde_json::Map<String, Value> =
            report.kinds.iter().enumerate().map(|(at, kind)| each(at, kind)).collect();
        let unit = match line.row.unit {
            Unit::Each => "operation",
            Unit::Mib => "MiB",
            Unit::Millis => "ms",
            Unit::Mebibytes => "memory in MiB",
        };
        json!({"work": line.work, "title": line.row.title, "unit": unit, "mounts": mounts})
    };
    let lines: Vec<Value> = report.lines.iter().map(line).collect();
    let mounts: Vec<Value> =
        report.kinds.iter().map(|kind| json!({"name": kind.name, "about": kind.about})).collect();
    let missing: Vec<Value> =
        report.missing.iter().map(|(name, why)| json!({"name": name, "error": why})).collect();
    let all = json!({
        "machine": report.machine,
        "mounts": mounts,
        "not_available": missing,
        "works": lines,
    });
    Ok(format!("{}\n", serde_json::to_string_pretty(&all)?))
}
