//! Tests of the settings: what is accepted, and that each mistake names its file, line and key.

use super::*;

fn errors(text: &str) -> Vec<String> {
    let errors = Config::parse(Path::new("fleet.toml"), text).expect_err("the text has mistakes");
    errors.0.iter().map(ToString::to_string).collect()
}

#[test]
fn an_empty_file_gives_the_defaults() {
    assert_eq!(Config::parse(Path::new("a.toml"), ""), Ok(Config::default()));
    assert_eq!(Config::load(None), Ok(Config::default()));
}

#[test]
fn the_documented_example_is_read() {
    let text = r#"
[dimensions]
region = "region"
device = "device"
stack = "stack"
[metrics.activity]
role = "traffic"
alarm_on = "drop"
[metrics.errors]
role = "errors"
[regions.us-east]
timezone = "America/New_York"
[stacks.payments]
depends_on = ["accounts"]
[notify.webhook.ops]
url = "http://127.0.0.1:9/hook"
"#;
    let config = Config::parse(Path::new("a.toml"), text).expect("valid");
    assert_eq!(config.metrics["errors"].alarm_on(), AlarmOn::Rise);
    assert_eq!(config.timezone("us-east"), chrono_tz::America::New_York);
    assert_eq!(config.timezone("elsewhere"), chrono_tz::UTC);
    assert_eq!(config.notify.webhook["ops"].states, [IncidentState::Open, IncidentState::Resolved]);
}

#[test]
fn every_mistake_is_named_at_once_with_file_line_and_key() {
    let text = "[listen]\nhttps = \"127.0.0.1:1\"\n\n[metrics.activity]\nrole = \"traffic\"\nalarm_on = \"fall\"\n\
                \n[regions.uk]\ntimezone = \"Europe/Londres\"\n[limits]\nagents_max = 0\n";
    let errors = errors(text);
    assert_eq!(errors.len(), 4, "{errors:#?}");
    assert!(errors[0].starts_with("fleet.toml:2: listen.https: unknown field"), "{}", errors[0]);
    assert!(
        errors[1].starts_with("fleet.toml:6: metrics.activity.alarm_on: unknown variant"),
        "{}",
        errors[1]
    );
    assert!(errors[1].contains("`drop`"), "what would be right is said: {}", errors[1]);
    assert!(errors[2].starts_with("fleet.toml:9: regions.uk.timezone:"), "{}", errors[2]);
    assert_eq!(errors[3], "fleet.toml:11: limits.agents_max: 0 is out of range: 1 to 65536");
}

#[test]
fn a_missing_key_names_its_table() {
    let errors = errors("[metrics.activity]\nalarm_on = \"drop\"\n");
    assert!(errors[0].starts_with("fleet.toml:1: metrics.activity: missing field `role`"), "{}", errors[0]);
}

#[test]
fn a_wrong_type_names_its_key() {
    let errors = errors("[replay]\nwindow_ms = \"5m\"\n");
    assert!(errors[0].starts_with("fleet.toml:2: replay.window_ms: invalid type"), "{}", errors[0]);
}

#[test]
fn broken_syntax_names_its_line() {
    let errors = errors("[listen]\nquic = \n");
    assert!(errors[0].starts_with("fleet.toml:2:"), "{}", errors[0]);
}

#[test]
fn parts_need_tags_of_their_own() {
    let errors = errors("[dimensions]\ndevice = \"region\"\n");
    assert_eq!(
        errors,
        ["fleet.toml:2: dimensions.device: `region` is already the region: each part needs a tag of its own"]
    );
}

#[test]
fn a_stack_cannot_depend_on_itself() {
    let errors = errors("[stacks.web]\ndepends_on = [\"web\"]\n");
    assert!(errors[0].starts_with("fleet.toml:2: stacks.web.depends_on:"), "{}", errors[0]);
}

#[test]
fn a_missing_file_is_named() {
    let errors = Config::load(Some(Path::new("/nowhere/fleet.toml"))).expect_err("there is no such file");
    assert!(errors.to_string().starts_with("/nowhere/fleet.toml: cannot be read:"), "{errors}");
}

#[test]
fn worst_case_memory_follows_the_limits() {
    let mut config = Config::default();
    let before: u64 = config.memory().iter().map(Memory::bytes).sum();
    config.limits.cells_per_region_max *= 2;
    let after: u64 = config.memory().iter().map(Memory::bytes).sum();
    assert!(after > before);
}

#[test]
fn what_waits_for_the_core_counts_with_its_rooms_full() {
    let waiting: u64 =
        Config::default().memory().iter().filter(|one| one.limit.contains("wait)")).map(Memory::bytes).sum();
    let records: usize = crate::limits::ADMITTED_MAX.iter().sum();
    let words = 2 * Config::default().limits.connections_max as usize;
    let longest = size_of::<vedette_common::wire::Summary>();
    assert!(waiting as usize >= (records + words) * longest, "{waiting}");
}

#[test]
fn the_life_of_incidents_is_read_and_its_mistakes_are_named() {
    let good = "[incidents]\nquiet_s = 60\nextension_s = 0\n[calendar]\nmaintenance_classes = [\"deploy\"]\n\
                [regions.uk]\npages_per_week = 2.5\n";
    let settings = Config::parse(Path::new("a.toml"), good).expect("valid").core_settings();
    assert_eq!((settings.lifecycle.quiet_ms, settings.lifecycle.extension_ms), (60_000, 0));
    assert!(settings.maintenance_classes.contains("deploy"));
    assert_eq!(settings.pages_per_week["uk"], 2.5);
    assert_eq!(Config::default().core_settings().lifecycle, vedette_aggregator_core::Lifecycle::default());
    let bad = "[incidents]\nhold_s = 90000\n[calendar]\nmaintenance_classes = [\"\"]\n[regions.uk]\npages_per_week = 0\n";
    let errors = errors(bad);
    assert_eq!(errors[0], "fleet.toml:2: incidents.hold_s: 90000 is out of range: 0 to 86400");
    assert!(
        errors[1].starts_with("fleet.toml:4: calendar.maintenance_classes: names an empty class"),
        "{errors:?}"
    );
    assert_eq!(errors[2], "fleet.toml:6: regions.uk.pages_per_week: 0 is out of range: 0.1 to 1000");
}

#[test]
fn a_replay_in_windows_that_the_judgement_would_refuse_is_a_mistake() {
    let errors = errors("[replay]\nwindow_ms = 86400000\n");
    assert_eq!(errors, ["fleet.toml:2: replay.window_ms: 86400000 is out of range: 1000 to 3600000"]);
}

#[test]
fn every_key_that_needs_a_restart_is_named() {
    let read = |text: &str| Config::parse(Path::new("a.toml"), text).expect("valid");
    let former = read("");
    let text = "state_dir = \"/tmp/other\"\n[listen]\nquic = \"127.0.0.1:1\"\nhttp = \"127.0.0.1:2\"\n\
                [listen.mqtt]\nurl = \"mqtt://127.0.0.1:3\"\n[log]\nlevel = \"debug\"\n[limits]\n\
                connections_max = 9\nagents_max = 9\nrequests_max = 9\nhistory_series_max = 9\nhistory_windows_max = 9\n";
    let keys = former.restart_keys(&read(text));
    assert_eq!(keys.len(), 10, "{keys:?}");
    assert_eq!(keys[..3], ["state_dir", "listen.quic", "listen.http"]);
    assert!(
        former.restart_keys(&read("[judge]\nlateness_ms = 7\n[limits]\nincidents_max = 99\n")).is_empty()
    );
}
