//! The console: one page with a style sheet and a script, all served from here.
//!
//! Owns what people see. Must never put a value into the page as markup: the script sets text only, and the security
//! policy forbids anything inline or from elsewhere. The hard case is an installation with nothing in it yet: every
//! section says what to do next.

use axum::Router;
use axum::http::header;
use axum::response::{Html, IntoResponse};
use axum::routing::get;
use maud::{DOCTYPE, Markup, html};

use crate::api::Desk;

const STYLE: &str = include_str!("console.css");
const SCRIPT: &str = include_str!("console.js");
const ICON: &str = include_str!("icon.svg");

/// The page and what it loads.
pub fn router() -> Router<Desk> {
    Router::new()
        .route("/", get(async || Html(page().into_string())))
        .route("/console.css", get(async || text("text/css; charset=utf-8", STYLE)))
        .route("/console.js", get(async || text("text/javascript; charset=utf-8", SCRIPT)))
        .route("/icon.svg", get(async || text("image/svg+xml", ICON)))
}

fn text(kind: &'static str, body: &'static str) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, kind)], body)
}

fn page() -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { "Vedette" }
                link rel="icon" href="/icon.svg" type="image/svg+xml";
                link rel="stylesheet" href="/console.css";
                script src="/console.js" defer {}
            }
            body {
                a.skip href="#main" { "Skip to content" }
                (header())
                main #main {
                    noscript { p.empty { "The console needs JavaScript. The same data is at /api/v1/incidents." } }
                    (tiles())
                    (section("open", "Open incidents", "People were notified of these."))
                    (section("suppressed", "Held back", "Deviations that notified nobody, and why."))
                    (section("ended", "Over", "What ended lately: what people were notified of, and what was held back."))
                    (lattice())
                    (section("agents", "Agents", "Who reports, and what it had to drop."))
                }
                footer { "Vedette " (env!("CARGO_PKG_VERSION")) " · " a href="/api/v1/incidents" { "API" } " · " a href="/metrics" { "metrics" } }
            }
        }
    }
}

fn header() -> Markup {
    html! {
        header {
            div.brand {
                svg viewBox="0 0 24 24" width="22" height="22" aria-hidden="true" {
                    path d="M12 2 3 6v6c0 5 3.8 8.6 9 10 5.2-1.4 9-5 9-10V6z" {}
                    path.mark d="M6 13h3l2-5 2 8 2-3h3" {}
                }
                h1 { "Vedette" }
            }
            p #status role="status" aria-live="polite" { "connecting" }
        }
    }
}

fn tiles() -> Markup {
    let names =
        [("open", "open"), ("suppressed", "held back"), ("cells", "cells watched"), ("agents", "agents")];
    html! {
        dl.tiles aria-label="Overview" {
            @for (id, name) in names {
                div.tile id={ "tile-" (id) } { dt { (name) } dd { "–" } }
            }
        }
    }
}

fn section(id: &str, title: &str, what: &str) -> Markup {
    html! {
        section aria-labelledby={ (id) "-title" } {
            div.head { h2 id={ (id) "-title" } { (title) } p { (what) } }
            div id=(id) {}
        }
    }
}

fn lattice() -> Markup {
    html! {
        section aria-labelledby="lattice-title" {
            div.head {
                h2 #lattice-title { "Lattice" }
                p { "What is left over of each cell once the part shared by independent stacks is taken off." }
            }
            div.controls {
                label { "Region " select #region {} }
                label { "Metric " select #metric {} }
                p #shared {}
            }
            div #lattice {}
            ul.legend aria-label="Colours" {
                @for (step, name) in [("n3", "less than half"), ("n2", "−20 to −50 %"), ("n1", "−5 to −20 %"),
                    ("z", "as expected"), ("p1", "+5 to +25 %"), ("p2", "+25 to +100 %"), ("p3", "more than double")] {
                    li { span.swatch.{ (step) } {} (name) }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_inline_or_from_elsewhere() {
        let page = page().into_string();
        for forbidden in ["style=", "onclick", "<style", "http://", "https://"] {
            assert!(!page.contains(forbidden), "{forbidden}");
        }
        assert!(!SCRIPT.contains("innerHTML") && !SCRIPT.contains("eval("));
    }
}
