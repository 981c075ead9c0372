//! Chaos in small: a few kills over each way. Hundreds: `cargo run -p vedette-tests --bin chaos -- --seed 7 --kills 300 --way both`, and
//! with `--network` through cuts, delay and loss.

use std::process::Command;

use vedette_tests::chaos::{SKIPPED, Way, play};

#[test]
fn kills_lose_and_double_nothing_over_quic() {
    assert!(play(1, 6, Way::Quic, false).kills.iter().sum::<u32>() >= 6);
}

#[test]
fn kills_lose_and_double_nothing_over_quic_with_a_broker_to_fall_back_to() {
    assert!(play(2, 8, Way::Both, false).kills.iter().sum::<u32>() >= 8);
}

#[test]
fn kills_lose_and_double_nothing_through_a_broker() {
    assert!(play(3, 6, Way::Mqtt, false).kills.iter().sum::<u32>() >= 6);
}

/// It is another process, because it begins anew in a network of its own.
#[test]
fn kills_lose_and_double_nothing_while_the_network_is_cut_slow_and_lossy() {
    let mut chaos = Command::new(env!("CARGO_BIN_EXE_chaos"));
    let output = chaos
        .args(["--seed", "4", "--kills", "8", "--way", "both", "--network"])
        .output()
        .expect("it starts");
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.code() == Some(i32::from(SKIPPED)) {
        eprintln!("{said}");
        return;
    }
    assert!(output.status.success(), "{said}");
    let report = String::from_utf8_lossy(&output.stdout);
    assert!(report.contains("lost 0, doubled 0") && report.contains("network cut"), "{report}");
}
