//! Who gets into console and API, asked of the real program over HTTP.
//!
//! It must never measure how long an answer takes: that a password was checked is counted. The hard case is the cookie of a session that is
//! over, which must not come back to life by being sent again.

use std::io::Write;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use crate::program::{Answer, Program, agent, request};

const FORM: (&str, &str) = ("content-type", "application/x-www-form-urlencoded");
const JSON: (&str, &str) = ("content-type", "application/json");
const PASSWORD: &str = "correct horse battery";
const QUIET: &str = "[notify]\nstdout = false\n";
const SILENCE: &str = r#"{"region": ["uk"], "for_s": 3600, "comment": "planned work"}"#;

/// A running program that other machines reach, with the user `ada` and tokens of both scopes.
struct Site {
    program: Program,
    reader: String,
    writer: String,
}

impl Site {
    fn open() -> Self {
        let mut program = Program::new(true, QUIET);
        program.order(&["user", "add", "ada"], &format!("{PASSWORD}\n"));
        program.order(&["user", "add", "eve", "--scope", "read"], &format!("{PASSWORD}\n"));
        let token = |name: &str, scope: &str| {
            let args = ["token", "api", "create", "--name", name, "--scope", scope];
            format!("Bearer {}", program.order(&args, ""))
        };
        let (reader, writer) = (token("scrape", "read"), token("ci", "write"));
        program.start();
        Self { program, reader, writer }
    }

    fn origin(&self) -> String {
        format!("http://{}", self.program.http)
    }

    fn log_in(&self, name: &str, password: &str) -> Answer {
        let form = format!("name={name}&password={}", password.replace(' ', "+"));
        self.program.ask("POST", "/login", &[FORM, ("origin", &self.origin())], &form)
    }

    /// The cookie of a log-in that succeeds.
    fn session(&self, name: &str) -> String {
        let answer = self.log_in(name, PASSWORD);
        assert_eq!((answer.status, answer.header("location")), (303, "/"), "{}", answer.body);
        answer.header("set-cookie").split(';').next().unwrap().to_owned()
    }

    /// The status of a look at the incidents with this header.
    fn look(&self, header: (&str, &str)) -> u16 {
        self.program.get("/api/v1/incidents", &[header]).status
    }

    fn checks(&self) -> f64 {
        let name = "vedette_aggregator_password_checks_total";
        self.program.metric(name, &[("authorization", &self.reader)])
    }
}

#[test]
fn an_address_that_others_reach_is_not_opened_by_oversight() {
    let mut program = Program::new(true, QUIET);
    program.spawn();
    assert_eq!(program.ended(), Some(1));
    assert!(
        program.log().contains("user add NAME") && program.log().contains("mode = \"none\""),
        "{}",
        program.log()
    );

    program.configure(true, &format!("{QUIET}[auth]\nmode = \"none\"\n"));
    program.start();
    assert_eq!(program.get("/api/v1/incidents", &[]).status, 200);
    let of_a_proxy = ("authorization", "Basic YWRhOnNlY3JldA==");
    assert_eq!(
        program.get("/api/v1/incidents", &[of_a_proxy]).status,
        200,
        "what a proxy asked for is not ours"
    );
    assert!(program.log().contains("everybody who reaches this address can read"), "{}", program.log());
    let change = program.ask(
        "POST",
        "/api/v1/silences",
        &[JSON, ("origin", &format!("http://{}", program.http))],
        SILENCE,
    );
    assert_eq!(change.status, 401, "what is open to read is not open to change");
}

#[test]
fn on_loopback_everybody_reads_and_nobody_unknown_changes() {
    let mut program = Program::new(false, QUIET);
    let token = program.order(&["token", "api", "create", "--name", "ci", "--scope", "write"], "");
    program.start();
    assert_eq!(program.get("/", &[]).status, 200);
    assert_eq!(program.get("/metrics", &[]).status, 200);
    let origin = format!("http://{}", program.http);
    let change = |headers: &[(&str, &str)]| program.ask("POST", "/api/v1/silences", headers, SILENCE).status;
    assert_eq!(change(&[JSON, ("origin", &origin)]), 401);
    assert_eq!(change(&[JSON]), 403);
    assert_eq!(change(&[JSON, ("authorization", &format!("Bearer {token}"))]), 201);
    assert_eq!(program.get("/api/v1/incidents", &[("authorization", "Bearer wrong")]).status, 401);

    program.stop();
    program.configure(false, &format!("{QUIET}[auth]\nmode = \"required\"\n"));
    program.start();
    assert_eq!(program.get("/api/v1/incidents", &[]).status, 401, "for a proxy that lets everybody through");
}

#[test]
fn strangers_see_health_and_the_log_in_page_alone() {
    let site = Site::open();
    let program = &site.program;
    for path in ["/-/healthy", "/-/ready", "/login", "/console.css", "/icon.svg"] {
        assert_eq!(program.get(path, &[]).status, 200, "{path}");
    }
    for path in ["/api/v1/incidents", "/api/v1/calendar", "/api/v1/anything", "/metrics"] {
        let answer = program.get(path, &[]);
        assert_eq!((answer.status, answer.header("www-authenticate")), (401, "Bearer"), "{path}");
    }
    let front = program.get("/", &[]);
    assert_eq!((front.status, front.header("location")), (303, "/login"));
    let page = program.get("/login", &[]);
    assert!(page.header("content-security-policy").contains("form-action 'self'"));
    assert!(page.header("referrer-policy") == "same-origin" && page.header("cache-control") == "no-store");
    for bad in ["", "Bearer", "Bearer x", "Basic YWRhOng=", &site.reader[..40], &format!("{}A", site.reader)]
    {
        assert_eq!(site.look(("authorization", bad)), 401, "{bad}");
    }
    assert_eq!(site.look(("authorization", &site.reader)), 200);
}

#[test]
fn a_session_lives_until_its_log_out_and_never_after() {
    let site = Site::open();
    let answer = site.log_in("ada", PASSWORD);
    let cookie = answer.header("set-cookie").to_owned();
    assert!(cookie.contains("; HttpOnly; SameSite=Strict; Max-Age=43200"), "{cookie}");
    assert!(!cookie.contains("Secure"), "plain HTTP: a browser would not send it back");
    let session = cookie.split(';').next().unwrap();
    assert_eq!(site.look(("cookie", session)), 200);
    let page = site.program.get("/", &[("cookie", session)]);
    assert!(page.body.contains("ada") && page.body.contains("Log out"));

    let other = site.session("ada");
    let origin = site.origin();
    let out = site.program.ask("POST", "/logout", &[("cookie", session), ("origin", &origin)], "");
    assert_eq!((out.status, out.header("location")), (303, "/"));
    assert!(out.header("set-cookie").contains("Max-Age=0"));
    assert_eq!(
        site.look(("cookie", session)),
        401,
        "the copy of a cookie is worth nothing after the log-out"
    );
    assert_eq!(site.look(("cookie", &other)), 200, "another log-in is another session");
    site.program.order(&["user", "password", "ada"], "another horse battery\n");
    assert_eq!(site.look(("cookie", &other)), 401, "a changed password ends every session");

    let eve = site.session("eve");
    site.program.order(&["user", "remove", "eve"], "");
    assert_eq!(site.look(("cookie", &eve)), 401, "so does the user's end");
    site.program.order(&["token", "api", "remove", "--name", "ci"], "");
    assert_eq!(site.look(("authorization", &site.writer)), 401);
}

#[test]
fn a_wrong_name_and_a_wrong_password_are_told_and_checked_alike() {
    let site = Site::open();
    let before = site.checks();
    let wrong = site.log_in("ada", "correct horse batterx");
    assert_eq!(site.checks(), before + 1.0);
    let unknown = site.log_in("nobody", PASSWORD);
    assert_eq!(site.checks(), before + 2.0, "a name that does not exist costs a check as well");
    assert_eq!((wrong.status, &wrong.body), (401, &unknown.body));
    assert_eq!(unknown.status, 401);
    assert!(wrong.header("set-cookie").is_empty() && !wrong.body.contains("batterx"));
}

#[test]
fn guessing_ends_soon() {
    let site = Site::open();
    for guess in 0..5 {
        assert_eq!(site.log_in("ada", &format!("guess number {guess}")).status, 401);
    }
    let checks = site.checks();
    let refused = site.log_in("ada", PASSWORD);
    assert_eq!(refused.status, 429, "the right password too has to wait: {}", refused.body);
    assert!(refused.header("retry-after").parse::<u64>().unwrap() >= 1);
    assert_eq!(site.checks(), checks, "no password is looked at meanwhile");
    let outcome = "vedette_aggregator_log_ins_total{outcome=\"too_often\"}";
    assert_eq!(site.program.metric(outcome, &[("authorization", &site.reader)]), 1.0);
    assert_eq!(site.look(("authorization", &site.reader)), 200, "tokens are not held up");
}

/// Logs in without a name until the answer has this status, for a minute at most.
fn wait_for_status(site: &Site, wanted: u16) {
    let (begun, origin) = (Instant::now(), site.origin());
    while site.program.ask("POST", "/login", &[FORM, ("origin", &origin)], "").status != wanted {
        assert!(begun.elapsed() < Duration::from_secs(60), "waited in vain for {wanted}");
    }
}

#[test]
fn log_ins_that_never_come_to_an_end_keep_nobody_else_out() {
    let site = Site::open();
    let head = format!(
        "POST /login HTTP/1.1\r\nHost: {}\r\nOrigin: {}\r\nContent-Type: {}\r\nContent-Length: 100\r\n\r\n",
        site.program.http,
        site.origin(),
        FORM.1
    );
    let begin = || {
        let mut stranger = TcpStream::connect(site.program.http).unwrap();
        stranger.write_all(head.as_bytes()).unwrap();
        stranger
    };
    let strangers: Vec<TcpStream> = (0..64).map(|_| begin()).collect();
    wait_for_status(&site, 503);
    assert_eq!(site.look(("authorization", &site.reader)), 200, "who is known has places of their own");
    drop(strangers);
    wait_for_status(&site, 400);
}

#[test]
fn another_site_changes_nothing() {
    let site = Site::open();
    let (session, origin) = (site.session("ada"), site.origin());
    let form = format!("name=ada&password={}", PASSWORD.replace(' ', "+"));
    for forged in [vec![], vec![("origin", "https://evil.example")], vec![("origin", "null")]] {
        let log_in = [vec![FORM], forged.clone()].concat();
        assert_eq!(site.program.ask("POST", "/login", &log_in, &form).status, 403, "{forged:?}");
        let change = [vec![JSON, ("cookie", session.as_str())], forged.clone()].concat();
        assert_eq!(site.program.ask("POST", "/api/v1/silences", &change, SILENCE).status, 403, "{forged:?}");
        let out = [vec![("cookie", session.as_str())], forged.clone()].concat();
        assert_eq!(site.program.ask("POST", "/logout", &out, "").status, 403, "{forged:?}");
    }
    let here = [JSON, ("cookie", session.as_str()), ("origin", origin.as_str())];
    let crossed = [&here[..], &[("sec-fetch-site", "cross-site")]].concat();
    assert_eq!(site.program.ask("POST", "/api/v1/silences", &crossed, SILENCE).status, 403);
    let rebound = [&here[..], &[("host", "rebound.example")]].concat();
    assert_eq!(site.program.ask("POST", "/api/v1/silences", &rebound, SILENCE).status, 403);
    assert_eq!(site.program.get("/api/v1/silences", &here).json()["silences"], serde_json::json!([]));
    assert_eq!(site.program.ask("POST", "/api/v1/silences", &here, SILENCE).status, 201);
}

#[test]
fn operators_silence_over_the_api_in_their_own_name() {
    let site = Site::open();
    let (writer, reader) = (("authorization", site.writer.as_str()), ("authorization", site.reader.as_str()));
    let post = |header, body: &str| site.program.ask("POST", "/api/v1/silences", &[JSON, header], body);
    let refused = post(reader, SILENCE);
    assert!(refused.status == 403 && refused.body.contains("scope `write`"), "{}", refused.body);
    let (eve, origin) = (site.session("eve"), site.origin());
    let by_eve = [JSON, ("cookie", eve.as_str()), ("origin", origin.as_str())];
    assert_eq!(site.program.ask("POST", "/api/v1/silences", &by_eve, SILENCE).status, 403);

    let made = post(writer, SILENCE);
    assert_eq!(made.status, 201, "{}", made.body);
    assert_eq!(made.json()["silence"]["author"], "token:ci");
    let number = made.json()["number"].as_i64().unwrap();
    for (bad, why) in [
        (r#"{"comment": "x"}"#, "`until` or `for_s`"),
        (r#"{"for_s": 60, "comment": " "}"#, "needs a comment"),
        (r#"{"for_s": 60, "comment": "x", "author": "somebody else"}"#, "unknown field `author`"),
        (r#"{"until": "2020-01-01T00:00:00Z", "comment": "x"}"#, "over before it begins"),
        (r#"{"for_s": 9000000, "comment": "x"}"#, "at most 90 days"),
        (r#"{"region": [""], "for_s": 60, "comment": "x"}"#, "of 1 to"),
        ("not JSON", "expected"),
    ] {
        let answer = post(writer, bad);
        assert!((400..500).contains(&answer.status) && answer.body.contains(why), "{bad}: {}", answer.body);
    }
    let huge = format!(r#"{{"for_s": 60, "comment": "{}"}}"#, "x".repeat(20_000));
    assert_eq!(post(writer, &huge).status, 413);
    assert!(site.program.order(&["silence", "list"], "").contains("planned work"), "commands see it too");
    let path = format!("/api/v1/silences/{number}");
    assert_eq!(site.program.ask("DELETE", &path, &[reader], "").status, 403);
    assert_eq!(site.program.ask("DELETE", &path, &[writer], "").status, 204);
    assert_eq!(site.program.ask("DELETE", &path, &[writer], "").status, 404);
    let label = |body| site.program.ask("POST", "/api/v1/incidents/NONE/label", &[JSON, writer], body).status;
    assert_eq!((label(r#"{"label": "real"}"#), label(r#"{"label": "wrong"}"#)), (404, 422));
}

#[test]
fn no_secret_stands_in_a_log_or_in_a_file_that_others_can_read() {
    let site = Site::open();
    let session = site.session("ada");
    site.log_in("ada", "a wrong password it is");
    site.program.get("/api/v1/incidents", &[("cookie", &session)]);
    let secrets =
        [PASSWORD, "a wrong password it is", &session["vedette_session=".len()..], &site.reader[7..]];
    let log = site.program.log();
    assert!(log.contains("logged in") && log.contains("log-in refused"), "{log}");
    let state = site.program.path("state");
    for entry in std::fs::read_dir(&state).unwrap() {
        let path = entry.unwrap().path();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{}", path.display());
        let content = String::from_utf8_lossy(&std::fs::read(&path).unwrap()).into_owned();
        for secret in secrets {
            assert!(!content.contains(secret), "{} holds {secret}", path.display());
        }
    }
    for secret in secrets {
        assert!(!log.contains(secret), "the log holds {secret}");
    }
    let (users, tokens) =
        (site.program.order(&["user", "list"], ""), site.program.order(&["token", "api", "list"], ""));
    assert!(
        users.contains("ada\twrite") && users.contains("eve\tread") && !users.contains("argon2"),
        "{users}"
    );
    assert!(tokens.contains("ci\twrite") && tokens.contains("scrape\tread"), "{tokens}");
}

#[test]
fn passwords_are_asked_for_with_care() {
    let program = Program::new(true, QUIET);
    let refused = |args: &[&str], input: &str| {
        let output = program.command(args, input);
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(refused(&["user", "add", "ada"], "short\n").contains("12 to 1024 bytes"));
    assert!(refused(&["user", "add", "ada"], "").contains("12 to 1024 bytes"));
    program.order(&["user", "add", "ada"], &format!("{PASSWORD}\n"));
    assert!(refused(&["user", "add", "ada"], &format!("{PASSWORD}\n")).contains("exists already"));
    assert!(refused(&["user", "remove", "bob"], "").contains("no user `bob`"));
    assert!(refused(&["token", "api", "remove", "--name", "x"], "").contains("no token `x`"));
    assert_eq!(program.command(&["user", "add", "a b"], "").status.code(), Some(2));
}

#[test]
fn with_tls_the_cookie_is_for_tls_alone() {
    let mut program = Program::new(true, QUIET);
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (certificate, key) = (program.path("console.crt"), program.path("console.key"));
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let mode = |mode| std::fs::set_permissions(&key, std::fs::Permissions::from_mode(mode)).unwrap();
    let port = program.http.port();
    let config = format!("http_certificate_file = {certificate:?}\nhttp_key_file = {key:?}\n{QUIET}");
    program.configure(true, &config);
    program.order(&["user", "add", "ada"], &format!("{PASSWORD}\n"));
    mode(0o644);
    program.spawn();
    assert_eq!(program.ended(), Some(1));
    assert!(program.log().contains("lets everybody read the key"), "{}", program.log());
    mode(0o600);
    program.start();
    assert!(!program.log().contains("unencrypted"), "{}", program.log());

    let (agent, base) = (agent(Some(made.cert.pem().as_bytes())), format!("https://localhost:{port}"));
    // A client that never says anything holds nobody up.
    let _silent = std::net::TcpStream::connect(program.http).unwrap();
    let form = format!("name=ada&password={}", PASSWORD.replace(' ', "+"));
    let answer = request(&agent, "POST", &format!("{base}/login"), &[FORM, ("origin", &base)], &form);
    assert_eq!(answer.status, 303, "{}", answer.body);
    let cookie = answer.header("set-cookie").to_owned();
    assert!(cookie.ends_with("; Secure"), "{cookie}");
    let cookie = ("cookie", cookie.split(';').next().unwrap());
    assert_eq!(request(&agent, "GET", &format!("{base}/api/v1/incidents"), &[cookie], "").status, 200);
}

#[test]
fn a_believed_proxy_says_who_asks_and_whether_it_was_encrypted() {
    let mut program =
        Program::new(false, &format!("{QUIET}[auth]\nmode = \"required\"\nproxies = [\"127.0.0.1\"]\n"));
    program.order(&["user", "add", "ada"], &format!("{PASSWORD}\n"));
    program.start();
    let origin = format!("https://{}", program.http);
    let log_in = |from: &str, password: &str| {
        let headers =
            [FORM, ("origin", origin.as_str()), ("x-forwarded-for", from), ("x-forwarded-proto", "https")];
        program.ask("POST", "/login", &headers, &format!("name=ada&password={}", password.replace(' ', "+")))
    };
    for _ in 0..5 {
        assert_eq!(log_in("10.9.9.9, 203.0.113.7", "wrong password").status, 401);
    }
    assert_eq!(
        log_in("10.1.1.1, 203.0.113.7", PASSWORD).status,
        429,
        "what the client claims changes nothing"
    );
    let other = log_in("203.0.113.8", PASSWORD);
    assert_eq!(other.status, 303, "another client of the proxy is another source");
    assert!(other.header("set-cookie").ends_with("; Secure"));
}
