//! The measurement as a table and as a graph.
//!
//! It must never hide a number: the graph shows what the table says. The hard case is a range of four decades on both axes:
//! both are logarithmic.

use std::fmt::Write;

use super::Step;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 360.0;
const MARGIN: f64 = 50.0;
/// The ends of the axes: shares of the capacity, milliseconds.
const LOAD_RANGE: [f64; 2] = [0.1, 10.0];
const DELAY_RANGE: [f64; 2] = [1.0, 100_000.0];

/// A Markdown table of the steps.
#[must_use]
pub fn table(steps: &[Step]) -> String {
    let mut text = String::from(
        "| load | made/s | applied/s | acknowledged/s | refused/s | datagrams lost/s | dropped by spools | deviations p50, p99 ms | roll-ups p50, p99 ms | resident MB |\n\
         |---|---|---|---|---|---|---|---|---|---|\n",
    );
    for step in steps {
        let [deviations, roll_ups] = step.delay_ms;
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "| {:.2} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} | {} | {:.0}, {:.0} | {:.0}, {:.0} | {:.1} |",
            step.load,
            step.offered_per_s,
            step.applied_per_s,
            step.acknowledged_per_s,
            step.refused_per_s,
            step.datagrams_lost_per_s,
            step.dropped,
            deviations[0],
            deviations[1],
            roll_ups[0],
            roll_ups[1],
            step.resident_bytes as f64 / 1e6,
        );
    }
    text
}

/// Load against the 99th percentile of the delay of both lanes, as SVG.
#[must_use]
pub fn draw(steps: &[Step]) -> String {
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n"
    );
    for load in [0.1, 1.0, 10.0] {
        let x = across(load);
        line(&mut svg, [(x, MARGIN), (x, HEIGHT - MARGIN)], "#ddd");
        label(&mut svg, (x, HEIGHT - MARGIN + 16.0), &format!("{load}"), "middle");
    }
    for delay_ms in [1.0, 10.0, 100.0, 1_000.0, 10_000.0, 100_000.0] {
        let y = up(delay_ms);
        line(&mut svg, [(MARGIN, y), (WIDTH - MARGIN, y)], "#ddd");
        label(&mut svg, (MARGIN - 6.0, y + 4.0), &format!("{delay_ms}"), "end");
    }
    label(&mut svg, (WIDTH / 2.0, HEIGHT - 12.0), "offered load, share of the capacity", "middle");
    label(
        &mut svg,
        (MARGIN, 24.0),
        "99th percentile of the delay from making to acknowledgement, ms",
        "start",
    );
    for (lane, name, colour) in [(0, "deviations", "#c33"), (1, "roll-ups", "#36c")] {
        let points = steps.iter().map(|step| (across(step.load), up(step.delay_ms[lane][1])));
        line(&mut svg, points, colour);
        let last = steps.last().map_or(1.0, |step| step.delay_ms[lane][1]);
        label(&mut svg, (WIDTH - MARGIN - 4.0, up(last) - 6.0), name, "end");
    }
    svg + "</svg>\n"
}

fn line(svg: &mut String, points: impl IntoIterator<Item = (f64, f64)>, colour: &str) {
    let points: Vec<String> = points.into_iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    let _ = writeln!(
        svg,
        "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\" points=\"{}\"/>",
        points.join(" ")
    );
}

fn label(svg: &mut String, (x, y): (f64, f64), text: &str, anchor: &str) {
    let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>");
}

fn across(load: f64) -> f64 {
    MARGIN + share(load, LOAD_RANGE) * (WIDTH - 2.0 * MARGIN)
}

fn up(delay_ms: f64) -> f64 {
    HEIGHT - MARGIN - share(delay_ms, DELAY_RANGE) * (HEIGHT - 2.0 * MARGIN)
}

/// Where a value lies between the ends of a logarithmic axis.
fn share(value: f64, [least, most]: [f64; 2]) -> f64 {
    (value.clamp(least, most) / least).ln() / (most / least).ln()
}
