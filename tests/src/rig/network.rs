//! A network of its own: an edge and a centre, each in a namespace, and between them this process with a wire to either.
//!
//! The process that asks for one must already be alone in a namespace ([`Network::alone`]), so that nothing of the machine is touched
//! and nothing is left behind. It must never be set up where namespaces are not allowed: [`Network::missing`] says why not. The hard
//! case is asking how processes fare while they are cut off: a second wire to each, for questions alone, is never touched.
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::process::PROGRAMS_BUILT;
use super::{Detour, eventually};

/// Set for the process that is alone already.
const ALONE: &str = "VEDETTE_ALONE_IN_ITS_NETWORK";

/// Where processes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// With the agents.
    Edge,
    /// With the aggregator and the broker.
    Centre,
}

impl Place {
    const ALL: [Self; 2] = [Self::Edge, Self::Centre];

    const fn name(self) -> &'static str {
        match self {
            Self::Edge => "edge",
            Self::Centre => "centre",
        }
    }

    /// Its address on the wire that may be cut, or on the one for questions.
    #[must_use]
    pub const fn address(self, is_question: bool, port: u16) -> SocketAddr {
        SocketAddr::new(std::net::IpAddr::V4(self.ip(is_question, 2)), port)
    }

    /// The address of this process on the same wire.
    #[must_use]
    pub const fn opposite(self, port: u16) -> SocketAddr {
        SocketAddr::new(std::net::IpAddr::V4(self.ip(false, 1)), port)
    }

    const fn ip(self, is_question: bool, host: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, self as u8 * 2 + is_question as u8, host)
    }
}

/// Two namespaces and the wires to them; gone when dropped.
#[derive(Debug)]
pub struct Network {
    /// One for each place; it ends with its standard input.
    holders: [Child; 2],
    detours: Vec<Detour>,
}

impl Network {
    /// Why there can be none here, if so: what the first thing that is refused says.
    #[must_use]
    pub fn missing() -> Option<String> {
        let script = "ip link add name near type veth peer name far && \
                      iptables -A INPUT -i near -m statistic --mode random --probability 0.5 -j DROP";
        let mut trial = unshare();
        match trial.args(["sh", "-c", script]).stdin(Stdio::null()).output() {
            Ok(output) if output.status.success() => None,
            Ok(output) => Some(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
            Err(error) => Some(format!("unshare: {error}")),
        }
    }

    /// Makes sure that this process is alone in its network: if it is not, it begins anew there, with the same arguments, and need not
    /// build the programs again.
    ///
    /// # Errors
    /// When it cannot begin anew.
    pub fn alone() -> Result<(), std::io::Error> {
        if std::env::var_os(ALONE).is_some() {
            return Ok(());
        }
        let arguments = std::env::args_os().skip(1);
        Err(unshare()
            .arg(std::env::current_exe()?)
            .args(arguments)
            .envs([(ALONE, "1"), (PROGRAMS_BUILT, "1")])
            .exec())
    }

    /// Sets it up. What comes to one of `ports` at this process's address opposite the edge goes on to the centre.
    ///
    /// # Panics
    /// When something is refused that [`missing`](Self::missing) did not find missing.
    #[must_use]
    pub fn set(ports: &[u16]) -> Self {
        ip(&["link", "set", "dev", "lo", "up"]);
        let holders = Place::ALL.map(|place| {
            let mut holder = Command::new("unshare");
            let holder = holder.args(["--net", "cat"]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn();
            let holder = holder.expect("a namespace can be had");
            let own = std::fs::read_link("/proc/self/ns/net").expect("this process has a network");
            eventually("a namespace of its own", 10, || {
                let other = std::fs::read_link(format!("/proc/{}/ns/net", holder.id())).ok()?;
                (other != own).then_some(())
            });
            for is_question in [false, true] {
                join(place, is_question, holder.id());
            }
            holder
        });
        let detour =
            |port: &u16| Detour::start(Place::Edge.opposite(*port), Place::Centre.address(false, *port));
        Self { holders, detours: ports.iter().map(detour).collect() }
    }

    /// `program` as it is started at `place`.
    #[must_use]
    pub fn command(&self, place: Place, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args(["--target", &self.holders[place as usize].id().to_string(), "--net", "--"])
            .arg(program);
        command
    }

    /// Nothing comes through to `place` any more, or again.
    pub fn set_cut(&self, place: Place, is_cut: bool) {
        ip(&["link", "set", "dev", place.name(), if is_cut { "down" } else { "up" }]);
    }

    /// Everything takes so much longer, each way.
    pub fn set_delay(&self, ms: u64) {
        self.detours.iter().for_each(|detour| detour.set_delay(ms));
    }

    /// So many packets of a hundred are lost, on each wire and each way, from now on.
    pub fn set_loss(&self, percent: u8) {
        run("iptables", &["-F"]);
        let probability = format!("0.{percent:02}");
        for place in Place::ALL.into_iter().filter(|_| percent > 0) {
            for way in [["INPUT", "-i"], ["OUTPUT", "-o"]] {
                let of = ["-A", way[0], way[1], place.name(), "-m", "statistic", "--mode", "random"];
                run("iptables", &[of.as_slice(), &["--probability", &probability, "-j", "DROP"]].concat());
            }
        }
    }

    /// Packets lost since the loss was last set.
    #[must_use]
    pub fn lost(&self) -> u64 {
        let listed = run("iptables", &["-L", "-v", "-n", "-x"]);
        let rules = listed.lines().filter(|line| line.contains("DROP") && line.contains("statistic"));
        rules.filter_map(|line| line.split_whitespace().next()?.parse::<u64>().ok()).sum()
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for holder in &mut self.holders {
            // It may have ended by itself.
            let _ = holder.kill();
            let _ = holder.wait();
        }
    }
}

/// Begins a command in a network namespace of its own; who is not root is so in a user namespace.
fn unshare() -> Command {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let user = status.lines().find_map(|line| line.strip_prefix("Uid:")?.split_whitespace().nth(1));
    let mut command = Command::new("unshare");
    if user != Some("0") {
        command.args(["--user", "--map-root-user"]);
    }
    command.args(["--net", "--"]);
    command
}

/// A wire between this process and the namespace of the process `id`.
fn join(place: Place, is_question: bool, id: u32) {
    let near = format!("{}{}", place.name(), if is_question { "-ask" } else { "" });
    let far = if is_question { "ask" } else { "data" };
    let (id, [own, other]) =
        (id.to_string(), [1, 2].map(|host| format!("{}/24", place.ip(is_question, host))));
    ip(&["link", "add", "name", &near, "type", "veth", "peer", "name", far, "netns", &id]);
    ip(&["address", "add", &own, "dev", &near]);
    ip(&["link", "set", "dev", &near, "up"]);
    let inside = |arguments: &[&str]| {
        run("nsenter", &[&["--target", &id, "--net", "--", "ip"], arguments].concat());
    };
    inside(&["link", "set", "dev", "lo", "up"]);
    inside(&["address", "add", &other, "dev", far]);
    inside(&["link", "set", "dev", far, "up"]);
}

fn ip(arguments: &[&str]) {
    run("ip", arguments);
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output =
        Command::new(program).args(arguments).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
