//! The tags that this agent adds to what it sends.
//!
//! Owns which default holds where. Must never override a tag that an observation carries; the core sees to that. The
//! hard case is the host's own metrics: they belong to a stack of their own unless the config names one for everything.

use vedette_common::limits::TAGS_MAX;

use crate::config::Config;

/// Pairs of key and value, borrowed for one call.
pub type Pairs<'a> = heapless::Vec<(&'a str, &'a str), TAGS_MAX>;

/// The tags of received observations and of the host's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tags {
    pairs: Vec<(String, String)>,
    host_only: Option<(String, String)>,
}

impl Tags {
    /// The config's tags, completed: region `local`, device `host`, and stack `system` for the host's own.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let mut pairs: Vec<(String, String)> =
            config.tags.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
        for (key, value) in [(&config.dimensions.region, "local"), (&config.dimensions.device, "host")] {
            if !config.tags.contains_key(key) {
                pairs.push((key.clone(), value.to_owned()));
            }
        }
        let stack = &config.dimensions.stack;
        let host_only = (!config.tags.contains_key(stack)).then(|| (stack.clone(), "system".to_owned()));
        Self { pairs, host_only }
    }

    /// For what others send to this agent.
    #[must_use]
    pub fn received(&self) -> Pairs<'_> {
        self.pairs.iter().map(|(key, value)| (key.as_str(), value.as_str())).take(TAGS_MAX).collect()
    }

    /// For this machine's own metrics.
    #[must_use]
    pub fn host(&self) -> Pairs<'_> {
        let all = self.host_only.iter().chain(&self.pairs);
        all.map(|(key, value)| (key.as_str(), value.as_str())).take(TAGS_MAX).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn defaults_complete_what_the_config_says() {
        let config = Config::parse(Path::new("a"), "[tags]\nregion = \"eu\"\nteam = \"web\"\n").unwrap();
        let tags = Tags::new(&config);
        assert_eq!(tags.received(), [("region", "eu"), ("team", "web"), ("device", "host")]);
        assert_eq!(tags.host()[0], ("stack", "system"));
    }

    #[test]
    fn a_configured_stack_holds_for_the_host_too() {
        let config = Config::parse(Path::new("a"), "[tags]\nstack = \"payments\"\n").unwrap();
        assert!(!Tags::new(&config).host().contains(&("stack", "system")));
    }
}
