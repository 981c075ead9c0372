//! What can be wrong with settings whose types are right: values out of range, names that cannot be, unknown zones.
//!
//! Owns the ranges that the settings' documentation promises. Must never stop at the first problem. The hard case is
//! a name that only the aggregator would refuse later: ids, regions and tags are checked by the wire's own limits.

use vedette_agent_core::metric::METRIC_RULES_MAX;
use vedette_common::ids::AgentId;
use vedette_common::limits::{METRIC_BYTES_MAX, NAME_BYTES_MAX, REGIONS_MAX, TAGS_MAX};

use super::{Config, Dimensions, Transport, WindowClock};
use crate::uplink::mqtt::{Broker, is_topic_level};
use crate::zone::Zone;

/// Pairs of the key's path and what is wrong there.
pub(super) use vedette_common::config::Problems;

/// Files that one agent follows.
const FILES_MAX: usize = 16;

/// Everything wrong with `config`.
pub(super) fn problems(config: &Config) -> Problems {
    let mut problems = range_problems(config);
    name_problems(config, &mut problems);
    tag_problems(config, &mut problems);
    region_problems(config, &mut problems);
    clock_problems(config, &mut problems);
    metric_problems(config, &mut problems);
    mqtt_problems(config, &mut problems);
    problems
}

fn path(key: &str) -> Vec<String> {
    key.split('.').map(str::to_owned).collect()
}

fn range_problems(config: &Config) -> Problems {
    let source = &config.source;
    let ranges: [(&str, u64, u64, u64); 13] = [
        ("drain_ms", config.drain_ms.into(), 0, 600_000),
        ("source.host.interval_ms", source.host.interval_ms.into(), 100, 3_600_000),
        ("source.line_protocol.connections_max", source.line_protocol.connections_max.into(), 1, 1_024),
        (
            "source.line_protocol.idle_timeout_ms",
            source.line_protocol.idle_timeout_ms.into(),
            1_000,
            86_400_000,
        ),
        ("source.statsd.flush_ms", source.statsd.flush_ms.into(), 100, 3_600_000),
        ("window.window_ms", config.window.window_ms.into(), 1_000, 3_600_000),
        ("window.lateness_ms", config.window.lateness_ms.into(), 0, 3_600_000),
        ("limits.series_max", config.limits.series_max.into(), 1, 10_000_000),
        ("limits.memory_bytes_max", config.limits.memory_bytes_max, 1 << 20, u64::MAX),
        ("limits.spool_bytes_max", config.limits.spool_bytes_max.into(), 128 << 10, 1 << 30),
        ("uplink.prefer_again_s", config.uplink.prefer_again_s.into(), 1, 86_400),
        ("uplink.mqtt.keep_alive_s", config.uplink.mqtt.keep_alive_s.into(), 5, 3_600),
        ("log.repeats_max", config.log.repeats_max.into(), 1, 1_000_000),
    ];
    let outside = |(_, value, low, high): &(&str, u64, u64, u64)| !(low..=high).contains(&value);
    let told = |(key, value, low, high)| (path(key), format!("is {value}; it must be from {low} to {high}"));
    ranges.into_iter().filter(outside).map(told).collect()
}

fn name_problems(config: &Config, problems: &mut Problems) {
    if let Some(Err(error)) = config.agent_id.as_deref().map(AgentId::parse) {
        problems.push((path("agent_id"), error.to_string()));
    }
    if config.state_dir.as_os_str().is_empty() {
        problems.push((path("state_dir"), "is empty; it must name a folder".into()));
    }
    if host_and_port(&config.uplink.address).is_none() {
        let problem = format!("\"{}\" is no HOST:PORT, as in \"127.0.0.1:8461\"", config.uplink.address);
        problems.push((path("uplink.address"), problem));
    }
    if rustls::pki_types::ServerName::try_from(config.uplink.server_name.as_str()).is_err() {
        let problem = format!("\"{}\" is no DNS name or IP address", config.uplink.server_name);
        problems.push((path("uplink.server_name"), problem));
    }
    let Dimensions { region, device, stack } = &config.dimensions;
    for (part, name) in [("region", region), ("device", device), ("stack", stack)] {
        if let Some(problem) = name_problem(name) {
            problems.push((vec!["dimensions".to_owned(), part.to_owned()], problem));
        }
    }
    if config.source.file.paths.len() > FILES_MAX {
        problems.push((path("source.file.paths"), format!("has more than {FILES_MAX} files")));
    }
}

/// The two parts of `HOST:PORT`, if that is what `text` is.
pub(super) fn host_and_port(text: &str) -> Option<(&str, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    let port = port.parse().ok().filter(|port| *port != 0)?;
    (!host.is_empty()).then_some((host, port))
}

fn tag_problems(config: &Config, problems: &mut Problems) {
    if config.tags.len() > TAGS_MAX {
        problems.push((path("tags"), format!("has {} tags; at most {TAGS_MAX} fit", config.tags.len())));
    }
    for (name, value) in &config.tags {
        let key = vec!["tags".to_owned(), name.clone()];
        if let Some(problem) = name_problem(name).or_else(|| name_problem(value)) {
            problems.push((key, problem));
        }
    }
}

fn name_problem(name: &str) -> Option<String> {
    if name.is_empty() || name.len() > NAME_BYTES_MAX {
        return Some(format!("a tag's name and value have 1 to {NAME_BYTES_MAX} bytes"));
    }
    name.chars().any(char::is_control).then(|| "a tag's name and value have no control characters".into())
}

fn region_problems(config: &Config, problems: &mut Problems) {
    if config.regions.len() > REGIONS_MAX {
        let problem =
            format!("has {} regions; an agent speaks for at most {REGIONS_MAX}", config.regions.len());
        problems.push((path("regions"), problem));
    }
    for (name, region) in &config.regions {
        let zone = region.timezone.as_deref();
        if let Some(zone) = zone.filter(|zone| Zone::named(zone).is_none()) {
            let key = vec!["regions".to_owned(), name.clone(), "timezone".to_owned()];
            problems.push((key, format!("\"{zone}\" is no IANA time zone, as in \"Europe/Berlin\"")));
        }
    }
}

fn metric_problems(config: &Config, problems: &mut Problems) {
    if config.metrics.len() > METRIC_RULES_MAX {
        let problem = format!("has {} metrics; at most {METRIC_RULES_MAX} fit", config.metrics.len());
        problems.push((path("metrics"), problem));
    }
    for name in config.metrics.keys() {
        let beginning = name.strip_suffix('*').unwrap_or(name);
        let problem = match () {
            () if name.is_empty() || name.len() > METRIC_BYTES_MAX => {
                format!("a metric's name has 1 to {METRIC_BYTES_MAX} bytes")
            }
            () if beginning.contains('*') => "a `*` stands only at the end, as in \"net*\"".into(),
            () => continue,
        };
        problems.push((vec!["metrics".to_owned(), name.clone()], problem));
    }
}

fn clock_problems(config: &Config, problems: &mut Problems) {
    let (host, statsd) = (config.source.host.enabled, config.source.statsd.enabled);
    if config.window.clock == WindowClock::Event && (host || statsd) {
        let problem = "\"event\" goes with line protocol only: set enabled = false in [source.host] and [source.statsd]";
        problems.push((path("window.clock"), problem.into()));
    }
}

fn mqtt_problems(config: &Config, problems: &mut Problems) {
    let mqtt = &config.uplink.mqtt;
    if Broker::parse(&mqtt.url).is_none() {
        let problem = format!(
            "\"{}\" is no mqtt://HOST[:PORT] or mqtts://HOST[:PORT]; a user stands in username",
            mqtt.url
        );
        problems.push((path("uplink.mqtt.url"), problem));
    }
    if mqtt.password_file.is_some() && mqtt.username.is_none() {
        problems.push((path("uplink.mqtt.password_file"), "is of no use without username".into()));
    }
    let region = config.own_region();
    if config.uplink.kind.contains(Transport::Mqtt) && !is_topic_level(region) {
        let problem = format!("\"{region}\" cannot be part of an MQTT topic: leave out / + and #");
        problems.push((vec!["tags".to_owned(), config.dimensions.region.clone()], problem));
    }
}
