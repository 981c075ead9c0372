//! What systemd hears of a real agent.
//!
//! Must never need systemd itself: a socket stands in for it. The hard case is the watchdog, whose signs of life must go on.

use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use crate::running::{Ports, Running, agent, file};

#[test]
fn systemd_hears_of_start_life_and_stop() {
    let dir = tempfile::tempdir().unwrap();
    let path = file(dir.path(), &Ports::free().config(dir.path()));
    let address = dir.path().join("notify");
    let systemd = UnixDatagram::bind(&address).unwrap();
    systemd.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let hear = || {
        let mut words = [0; 64];
        let length = loop {
            match systemd.recv(&mut words) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                heard => break heard.unwrap(),
            }
        };
        String::from_utf8_lossy(&words[..length]).trim().to_owned()
    };
    let mut command = agent();
    command.env("NOTIFY_SOCKET", &address).env("WATCHDOG_USEC", "400000").env_remove("WATCHDOG_PID");
    let mut running = Running::start_command(command, &path);
    assert_eq!(hear(), "READY=1");
    for _ in 0..3 {
        assert_eq!(hear(), "WATCHDOG=1");
    }
    running.signal("TERM");
    let last = std::iter::repeat_with(hear).find(|words| words != "WATCHDOG=1");
    assert_eq!(last.as_deref(), Some("STOPPING=1"));
    assert_eq!(running.wait().code(), Some(0));
}
