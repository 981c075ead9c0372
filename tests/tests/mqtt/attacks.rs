//! What an agent may not do through a broker that knows it by its certificate, and what nobody may find in any log.
//!
//! It must never look at what a config says instead of what happened. The hard case is a secret in a form of its own: keys are looked for
//! line by line as they stand in their files, and the token by its secret half too.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use vedette_tests::rig::eventually;

use crate::drained;
use crate::stage::Stage;

impl Stage {
    /// Everything that a process has printed, and those before it.
    fn log(&self, part: &str) -> String {
        let log = fs::read(self.folder.path().join(format!("{part}.log"))).unwrap();
        String::from_utf8_lossy(&log).into_owned()
    }

    /// Gives the agent's config another region.
    fn move_agent(&self, region: &str) {
        let text = fs::read_to_string(self.folder.path().join("agent.toml")).unwrap();
        self.write("agent.toml", &text.replace("region = \"uk\"", &format!("region = \"{region}\"")));
    }

    /// The lattice's regions, as text.
    fn regions(&self) -> String {
        let lattice = self.api("/api/v1/lattice");
        let regions = lattice["regions"].as_array().into_iter().flatten();
        regions.map(|region| region["region"].to_string()).collect()
    }

    /// The token and its secret half, and every line of the private keys.
    fn secrets(&self) -> Vec<String> {
        let mut secrets = vec![self.token.clone(), self.token[self.token.len() - 20..].to_owned()];
        for key in ["agent/agent.key", "aggregator/ca.pem"] {
            let text = fs::read_to_string(self.folder.path().join(key)).unwrap();
            let lines = text.lines().skip_while(|line| !line.contains("PRIVATE KEY")).skip(1);
            // The first line of every such key says what kind it is.
            let lines = lines.take_while(|line| !line.starts_with('-')).skip(1);
            secrets.extend(lines.map(str::to_owned));
        }
        secrets
    }

    /// A process's state folder, and every file and folder below it.
    fn files_of(&self, part: &str) -> Vec<PathBuf> {
        let mut found = vec![self.folder.path().join(part)];
        let mut at = 0;
        while let Some(folder) = found.get(at).cloned() {
            found.extend(fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()));
            at += 1;
        }
        found
    }

    /// How many records were refused for this reason.
    fn refused(&self, reason: &str) -> u64 {
        self.aggregator(&format!("refused_total{{reason=\"{reason}\"}}")).unwrap_or(0)
    }
}

#[test]
fn a_revoked_agent_is_heard_no_more_through_the_broker_and_says_so() {
    let mut stage = Stage::set_with_tls("5");
    stage.send(20);
    drained(&stage, 2);
    stage.aggregator_says(&["agent", "revoke", "edge-uk"]);
    eventually("the refusal", 60, || {
        stage.send(1);
        (stage.refused("revoked") > 0).then_some(())
    });
    eventually("the agent's own word", 60, || {
        stage.log("agent").contains("this agent was revoked").then_some(())
    });
    assert!(stage.aggregator_says(&["agent", "list"]).contains("edge-uk regions=uk revoked"));
    stage.kill_aggregator();
    stage.start_aggregator();
    // The agent rests after its dismissal; one that does not is refused all the same.
    stage.kill_agent();
    stage.start_agent();
    eventually("the refusal after a restart", 60, || {
        stage.send(1);
        (stage.refused("revoked") > 0).then_some(())
    });
    assert_eq!(stage.applied(), 0, "not one record more is applied");
    assert!(stage.spooled() > 0, "what nobody takes stays with the agent");
    stage.stop();
}

/// The broker's rules hold an agent to its own topics, in any region; its enrolment says which regions are meant.
#[test]
fn an_agent_speaks_for_no_other_region_through_the_broker() {
    let mut stage = Stage::set_with_tls("5");
    stage.kill_agent();
    stage.move_agent("fr");
    stage.start_agent();
    eventually("the refusal", 60, || {
        stage.send(1);
        (stage.refused("region_forbidden") > 0).then_some(())
    });
    let regions = stage.regions();
    assert!(!regions.contains("fr"), "nothing of it is judged: {regions}");
    stage.stop();
}

/// At the finest level, which the programs' own lines alone may have, over a whole enrolment and run through QUIC and the broker, with a restart of each.
#[test]
fn no_secret_stands_in_any_log_and_every_file_is_its_owners() {
    let mut stage = Stage::set_with_tls("5");
    stage.send(20);
    drained(&stage, 2);
    stage.kill_agent();
    stage.start_agent();
    stage.kill_aggregator();
    stage.start_aggregator();
    stage.send(20);
    drained(&stage, 3);
    let secrets = stage.secrets();
    assert!(secrets.len() >= 5, "a token, and lines of at least two keys: {}", secrets.len());
    for part in ["agent", "aggregator"] {
        let log = stage.log(part);
        assert!(log.contains("connected to the broker"), "{part} says what it does");
        // Libraries would write keys at this level that are nobody's here, as the tokens that end a QUIC connection.
        assert!(!log.contains(" TRACE ") && !log.contains("reset_token"), "{part} lets libraries speak");
        for secret in &secrets {
            let told = log.lines().find(|line| line.contains(secret));
            assert_eq!(told, None, "the log of {part} holds a secret");
        }
        for file in stage.files_of(part) {
            let mode = fs::metadata(&file).unwrap().permissions().mode() & 0o777;
            assert_eq!(mode & 0o077, 0, "{} has mode {mode:o}", file.display());
        }
    }
    stage.stop();
}
