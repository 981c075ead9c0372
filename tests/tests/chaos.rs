//! Chaos in small: a few kills over each way. Hundreds: `cargo run -p vedette-tests --bin chaos -- --seed 7 --kills 300 --way both`.

use vedette_tests::chaos::{Way, play};

#[test]
fn kills_lose_and_double_nothing_over_quic() {
    assert!(play(1, 6, Way::Quic).kills.iter().sum::<u32>() >= 6);
}

#[test]
fn kills_lose_and_double_nothing_over_quic_with_a_broker_to_fall_back_to() {
    assert!(play(2, 8, Way::Both).kills.iter().sum::<u32>() >= 8);
}

#[test]
fn kills_lose_and_double_nothing_through_a_broker() {
    assert!(play(3, 6, Way::Mqtt).kills.iter().sum::<u32>() >= 6);
}
