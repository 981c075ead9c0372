//! Tests of reading the agent's settings.

use super::*;

fn errors(text: &str) -> Vec<String> {
    let errors = Config::parse(Path::new("agent.toml"), text).unwrap_err();
    errors.0.iter().map(ToString::to_string).collect()
}

#[test]
fn an_empty_file_gives_the_documented_defaults() {
    let config = Config::parse(Path::new("agent.toml"), "").unwrap();
    assert_eq!(config, Config::default());
    assert_eq!(config.source.statsd.listen.to_string(), "127.0.0.1:8125");
    assert_eq!(config.source.line_protocol.tcp.to_string(), "127.0.0.1:8094");
    assert_eq!(config.http.listen.to_string(), "127.0.0.1:8462");
    assert_eq!(config.uplink.address, "127.0.0.1:8461");
}

#[test]
fn every_mistake_is_named_with_line_and_key() {
    let text =
        "drain_ms = 5000\nagnet_id = \"a\"\n[source.host]\ninterval_ms = \"soon\"\n[window]\nwindow_ms = 5\n";
    let errors = errors(text);
    assert_eq!(errors.len(), 3, "{errors:#?}");
    assert!(errors[0].starts_with("agent.toml:2: agnet_id: unknown field"), "{}", errors[0]);
    assert!(errors[1].starts_with("agent.toml:4: source.host.interval_ms: invalid type"), "{}", errors[1]);
    assert_eq!(errors[2], "agent.toml:6: window.window_ms: is 5; it must be from 1000 to 3600000");
}

#[test]
fn a_syntax_error_has_its_line() {
    let errors = errors("[log]\nlevel = = 3\n");
    assert!(errors[0].starts_with("agent.toml:2"), "{errors:?}");
}

#[test]
fn names_zones_and_addresses_are_checked() {
    let text = "agent_id = \"Has Space\"\n[tags]\nregion = \"\"\n[regions.eu]\ntimezone = \"Europe/Atlantis\"\n\
                [uplink]\naddress = \"nowhere\"\n";
    let errors = errors(text);
    let keys = ["agent_id", "tags.region", "regions.eu.timezone", "uplink.address"];
    assert_eq!(errors.len(), keys.len(), "{errors:#?}");
    for (error, key) in errors.iter().zip(keys) {
        assert!(error.contains(&format!(": {key}: ")), "{error}");
    }
}

#[test]
fn a_missing_file_is_named() {
    let error = Config::load(Some(Path::new("/nonexistent/agent.toml"))).unwrap_err();
    assert!(error.to_string().starts_with("/nonexistent/agent.toml: cannot be read"), "{error}");
}

#[test]
fn zones_come_from_the_config_first() {
    let config = Config::parse(Path::new("a"), "[regions.us]\ntimezone = \"America/New_York\"\n").unwrap();
    assert_eq!(Some(config.timezone("us")), Zone::named("America/New_York"));
}

#[test]
fn metrics_become_rules_and_the_narrowest_counts_first() {
    let text = "[metrics.\"net*\"]\ncounter = true\n[metrics.\"*\"]\nalarm_on = \"rise\"\ncounter = false\n[metrics.network]\nalarm_on = \"drop\"\n";
    let config = Config::parse(Path::new("a"), text).unwrap();
    let rules = config.pipeline_settings().metrics;
    let patterns: Vec<&str> = rules.iter().map(|rule| rule.pattern.as_str()).collect();
    assert_eq!(patterns, ["network", "net*", "*"]);
    assert_eq!([rules[0].counter, rules[1].counter, rules[2].counter], [None, Some(true), Some(false)]);
    let errors = errors("[metrics.\"a*b\"]\ncounter = true\n[metrics.ok]\nalarm_on = \"fall\"\n");
    assert!(errors.iter().any(|error| error.contains("metrics.ok.alarm_on")), "{errors:?}");
}

#[test]
fn one_way_or_two_lead_to_the_aggregator() {
    let kind = |text: &str| Config::parse(Path::new("a"), text).unwrap().uplink.kind;
    assert_eq!(kind("").after(1), Transport::Quic);
    assert_eq!(kind("uplink.kind = \"mqtt\"").after(3), Transport::Mqtt);
    let both = kind("uplink.kind = [\"quic\", \"mqtt\"]");
    assert_eq!(
        [0, 1, 2].map(|failures| both.after(failures)),
        [Transport::Quic, Transport::Mqtt, Transport::Quic]
    );
    for wrong in ["\"carrier-pigeon\"", "[]", "[\"mqtt\", \"mqtt\"]", "3"] {
        let found = errors(&format!("[uplink]\nkind = {wrong}\n"));
        assert!(found.len() == 1 && found[0].starts_with("agent.toml:2: uplink.kind: "), "{found:?}");
    }
}

#[test]
fn a_broker_is_checked_and_weighed() {
    let text = "[tags]\nregion = \"a/b\"\n[uplink]\nkind = \"mqtt\"\n[uplink.mqtt]\nurl = \"broker:1883\"\n\
                version = \"4\"\npassword_file = \"/p\"\nkeep_alive_s = 1\n";
    let found = errors(text);
    let keys = ["tags.region", "uplink.mqtt.url", "uplink.mqtt.version", "uplink.mqtt.password_file"];
    for key in keys.into_iter().chain(["uplink.mqtt.keep_alive_s"]) {
        assert!(found.iter().any(|error| error.contains(&format!(": {key}: "))), "{key} in {found:#?}");
    }
    let over_mqtt = Config::parse(Path::new("a"), "uplink.kind = \"mqtt\"").unwrap();
    assert!(worst_case_bytes(&over_mqtt) > worst_case_bytes(&Config::default()));
}
