//! The console: one page with a style sheet and a script, and the page to log in at, all served from here.
//!
//! Owns what people see. Must never put a value into the page as markup: the script sets text only, and the security
//! policy forbids anything inline or from elsewhere. The hard case is an installation with nothing in it yet: every
//! section says what to do next.

use axum::Router;
use axum::extract::Extension;
use axum::http::header;
use axum::response::{Html, IntoResponse};
use axum::routing::get;
use maud::{DOCTYPE, Markup, html};

use crate::api::Desk;
use crate::auth::{By, Caller, Scope};

const STYLE: &str = include_str!("console.css");
const SCRIPT: &str = include_str!("console.js");
const ICON: &str = include_str!("icon.svg");

/// The page and what it loads.
pub fn router() -> Router<Desk> {
    Router::new()
        .route("/", get(console))
        .route("/console.css", get(async || text("text/css; charset=utf-8", STYLE)))
        .route("/console.js", get(async || text("text/javascript; charset=utf-8", SCRIPT)))
        .route("/icon.svg", get(async || text("image/svg+xml", ICON)))
}

fn text(kind: &'static str, body: &'static str) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, kind)], body)
}

async fn console(caller: Option<Extension<Caller>>) -> Html<String> {
    let caller = caller.map(|Extension(caller)| caller);
    Html(page(caller.as_ref()).into_string())
}

fn page(caller: Option<&Caller>) -> Markup {
    let may_write = caller.is_some_and(|caller| caller.scope == Scope::Write);
    html! {
        (DOCTYPE)
        html lang="en" {
            (head("Vedette", true))
            body data-may-write[may_write] {
                a.skip href="#main" { "Skip to content" }
                (header(caller))
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

/// The page to log in at; `problem` says what was wrong the last time, if anything.
pub(crate) fn login_page(problem: &str) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            (head("Log in · Vedette", false))
            body.login {
                main {
                    (brand())
                    form.card method="post" action="/login" {
                        @if !problem.is_empty() { p.problem #problem role="alert" { (problem) } }
                        label for="name" { "Name" }
                        input #name name="name" type="text" autocomplete="username" autocapitalize="none" spellcheck="false" maxlength="64"
                            required autofocus aria-describedby=[(!problem.is_empty()).then_some("problem")];
                        label for="password" { "Password" }
                        input #password name="password" type="password" autocomplete="current-password" maxlength="1024" required;
                        button type="submit" { "Log in" }
                    }
                    p.hint { "No account? On the aggregator's machine: " code { "vedette-aggregator user add NAME" } }
                }
            }
        }
    }
}

fn head(title: &str, scripted: bool) -> Markup {
    html! {
        head {
            meta charset="utf-8";
            meta name="viewport" content="width=device-width, initial-scale=1";
            meta name="color-scheme" content="light dark";
            title { (title) }
            link rel="icon" href="/icon.svg" type="image/svg+xml";
            link rel="stylesheet" href="/console.css";
            @if scripted { script src="/console.js" defer {} }
        }
    }
}

fn brand() -> Markup {
    html! {
        div.brand {
            svg viewBox="0 0 24 24" width="22" height="22" aria-hidden="true" {
                path d="M12 2 3 6v6c0 5 3.8 8.6 9 10 5.2-1.4 9-5 9-10V6z" {}
                path.mark d="M6 13h3l2-5 2 8 2-3h3" {}
            }
            h1 { "Vedette" }
        }
    }
}

fn header(caller: Option<&Caller>) -> Markup {
    html! {
        header {
            (brand())
            div.who {
                p #status role="status" aria-live="polite" { "connecting" }
                @match caller {
                    Some(caller) if caller.by == By::Session => form method="post" action="/logout" {
                        span { (caller.name) }
                        button.quiet type="submit" { "Log out" }
                    },
                    Some(_) => {},
                    None => a href="/login" { "Log in" },
                }
            }
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
        let caller = Caller { name: "ada<b>".into(), scope: Scope::Write, by: By::Session };
        let pages = [page(None), page(Some(&caller)), login_page("Name or <b>password</b> is wrong.")];
        for page in pages.map(Markup::into_string) {
            for forbidden in ["style=", "onclick", "<style", "http://", "https://", "<b>"] {
                assert!(!page.contains(forbidden), "{forbidden}");
            }
        }
        assert!(!SCRIPT.contains("innerHTML") && !SCRIPT.contains("eval("));
    }
}
