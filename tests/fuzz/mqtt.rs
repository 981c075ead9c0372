//! Fuzzes what comes with a broker: its address in a config, topics, and messages of several frames.
//!
//! The hard case is a topic with one level too many or an empty one: it must be nobody's.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vedette_aggregator::listen::mqtt::{Broker, Speaker};
use vedette_aggregator::listen::{AgentMessage, FrameBuffer};

fuzz_target!(|bytes: &[u8]| {
    let mut buffer = FrameBuffer::default();
    buffer.extend(bytes);
    let mut messages = 0;
    while let Ok(Some(_)) = buffer.next(AgentMessage::decode) {
        messages += 1;
        assert!(messages <= bytes.len());
    }
    let Ok(text) = str::from_utf8(bytes) else { return };
    if let Some((speaker, part)) = Speaker::of(text) {
        assert_eq!(text, format!("vedette/v1/{}/{}/{part}", speaker.region, speaker.agent));
    }
    let there = Broker::parse(text).map(|broker| (broker.tls, broker.host, broker.port));
    let here =
        vedette_agent::uplink::mqtt::Broker::parse(text).map(|broker| (broker.tls, broker.host, broker.port));
    assert_eq!(there, here, "both sides read addresses alike");
    if let Some((_, host, port)) = there {
        assert!(!host.is_empty() && port != 0);
    }
});
