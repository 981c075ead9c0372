//! Logging in and out with a browser: a form, a cookie, and their end.
//!
//! Must never say which of name and password was wrong, nor put either into an address or a log. The hard case is a cookie that somebody
//! copied: the session is kept here, so that a log-out ends it for every copy.

use axum::Form;
use axum::extract::rejection::FormRejection;
use axum::extract::{Extension, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{Html, IntoResponse, Redirect, Response};
use serde::Deserialize;

use super::guard::{Origin, session_cookie};
use super::{Answer, Desk, Refusal};
use crate::auth::{AuthError, Caller};
use crate::console;

/// The cookie's name.
pub(super) const SESSION_COOKIE: &str = "vedette_session";

/// What the form sends.
#[derive(Deserialize)]
pub(super) struct LogIn {
    name: String,
    password: String,
}

pub(super) async fn form(caller: Option<Extension<Caller>>) -> Response {
    match caller {
        Some(_) => Redirect::to("/").into_response(),
        None => Html(console::login_page("").into_string()).into_response(),
    }
}

pub(super) async fn log_in(
    State(desk): State<Desk>,
    Extension(origin): Extension<Origin>,
    form: Result<Form<LogIn>, FormRejection>,
) -> Response {
    let Ok(Form(LogIn { name, password })) = form else {
        return again(StatusCode::BAD_REQUEST, "Name and password are needed.");
    };
    let lasts_s = desk.gate.session_lasts().as_secs();
    match desk.gate.log_in(origin.address, name, password).await {
        Ok(session) => with_cookie(&session.to_text(), lasts_s, origin),
        Err(AuthError::Password) => again(StatusCode::UNAUTHORIZED, "Name or password is wrong."),
        Err(AuthError::Wait(seconds)) => {
            let text = format!("Too many wrong attempts. Try again in {seconds} s.");
            let mut response = again(StatusCode::TOO_MANY_REQUESTS, &text);
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
            response
        }
        Err(error) => {
            tracing::error!(%error, "nobody can log in");
            again(
                StatusCode::SERVICE_UNAVAILABLE,
                "Logging in does not work at present. Try again in a moment.",
            )
        }
    }
}

pub(super) async fn log_out(
    State(desk): State<Desk>,
    Extension(origin): Extension<Origin>,
    headers: HeaderMap,
) -> Answer {
    desk.gate.log_out(session_cookie(&headers)).await?;
    Ok(with_cookie("", 0, origin))
}

impl From<AuthError> for Refusal {
    fn from(error: AuthError) -> Self {
        Self(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
    }
}

fn again(status: StatusCode, message: &str) -> Response {
    (status, Html(console::login_page(message).into_string())).into_response()
}

/// Back to the console, with a cookie that no script reads, that no other site's request carries, and that lives `lasts_s` seconds.
fn with_cookie(value: &str, lasts_s: u64, origin: Origin) -> Response {
    let secure = if origin.secure { "; Secure" } else { "" };
    let cookie =
        format!("{SESSION_COOKIE}={value}; Path=/; HttpOnly; SameSite=Strict; Max-Age={lasts_s}{secure}");
    let mut response = Redirect::to("/").into_response();
    if let Ok(mut cookie) = HeaderValue::try_from(cookie) {
        cookie.set_sensitive(true);
        response.headers_mut().insert(header::SET_COOKIE, cookie);
    }
    response
}
