//! The store against its promises: whole batches, bounded queues, schemas of its own age, tables that survive.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use vedette_aggregator_core::{Aggregator, Part};

use super::*;
use crate::config::Config;

fn open(base: &Path) -> Store {
    Store::open(&StateFolder::open(&base.join("state")).unwrap()).unwrap()
}

fn part(key: &str, body: Option<&str>) -> StoredPart {
    StoredPart { key: key.to_owned(), body: body.map(str::to_owned) }
}

fn state(id: &str, state: &str, once_opened: bool) -> StoredState {
    StoredState {
        id: id.to_owned(),
        state: state.to_owned(),
        body: format!("{{\"id\":\"{id}\",\"state\":\"{state}\"}}"),
        basis: None,
        notified: vec![Notified { notifier: "webhook.ops".to_owned(), once_opened }],
    }
}

#[test]
fn commands_that_begin_a_new_folder_together_make_one_ca_and_one_database() {
    for _ in 0..10 {
        let base = tempfile::tempdir().unwrap();
        let (begin, now) = (std::sync::Barrier::new(8), std::time::SystemTime::now());
        let begin_with_the_others = || {
            let folder = StateFolder::open(&base.path().join("state")).unwrap();
            begin.wait();
            let authority = crate::ca::Authority::open(&folder, now).unwrap();
            Store::open(&folder).unwrap();
            authority.fingerprint()
        };
        let fingerprints: Vec<[u8; 32]> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(begin_with_the_others)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(fingerprints.windows(2).all(|pair| pair[0] == pair[1]));
    }
}

#[test]
fn a_batch_is_there_after_reopening_without_a_close() {
    let base = tempfile::tempdir().unwrap();
    let mut store = open(base.path());
    let batch = Batch {
        parts: vec![part("session/a", Some("1")), part("session/b", Some("2"))],
        states: vec![state("X", "suppressed", false)],
        ledger: vec![("X".to_owned(), "{}".to_owned())],
    };
    store.commit(&batch, 5, 10).unwrap();
    let second =
        Batch { parts: vec![part("session/a", None), part("session/b", Some("3"))], ..Batch::default() };
    store.commit(&second, 6, 10).unwrap();
    // Leaked on purpose: no destructor runs, as after a kill.
    std::mem::forget(store);
    let store = open(base.path());
    assert_eq!(store.parts().unwrap(), [("session/b".to_owned(), "3".to_owned())]);
    assert_eq!(store.incident("X").unwrap()[0].state, "suppressed");
    assert_eq!(store.ledger("X").unwrap().len(), 1);
    assert_eq!(store.incident("Y").unwrap(), []);
}

#[test]
fn a_batch_that_fails_leaves_nothing() {
    let base = tempfile::tempdir().unwrap();
    let mut store = open(base.path());
    store.connection.execute_batch("DROP TABLE ledger").unwrap();
    let batch = Batch {
        parts: vec![part("session/a", Some("1"))],
        states: vec![state("X", "open", false)],
        ledger: vec![("X".to_owned(), "{}".to_owned())],
    };
    assert!(matches!(store.commit(&batch, 5, 10), Err(StoreError::Sqlite(_))));
    assert_eq!(store.parts().unwrap(), []);
    assert_eq!(store.incident("X").unwrap(), []);
    assert_eq!(store.outbox_rows().unwrap(), 0);
}

#[test]
fn a_full_queue_gives_up_its_oldest_and_says_so() {
    let base = tempfile::tempdir().unwrap();
    let mut store = open(base.path());
    let states = ["A", "B", "C"].map(|id| state(id, "open", true)).to_vec();
    let dropped = store.commit(&Batch { states, ..Batch::default() }, 5, 2).unwrap();
    assert_eq!(dropped, [("webhook.ops".to_owned(), 1)]);
    let due = store.due_deliveries("webhook.ops", 5, 10).unwrap();
    assert_eq!(due.iter().map(|one| &one.idempotency_key[..6]).collect::<Vec<_>>(), ["B-open", "C-open"]);
    store.finish_delivery(due[0].number, Outcome::Retry { due_ms: 50 }).unwrap();
    assert_eq!(store.due_deliveries("webhook.ops", 49, 10).unwrap(), [], "the second waits for the first");
    let due = store.due_deliveries("webhook.ops", 50, 10).unwrap();
    assert_eq!((due.len(), due[0].attempts), (2, 1));
}

#[test]
fn who_never_heard_of_an_opening_does_not_hear_of_the_end() {
    let base = tempfile::tempdir().unwrap();
    let mut store = open(base.path());
    let states = vec![
        state("HELD", "suppressed", true),
        state("HELD", "resolved", true),
        state("REAL", "suppressed", true),
        state("REAL", "open", true),
        state("REAL", "resolved", true),
    ];
    store.commit(&Batch { states, ..Batch::default() }, 5, 10).unwrap();
    let due = store.due_deliveries("webhook.ops", 5, 10).unwrap();
    let bodies: Vec<&str> = due.iter().map(|one| one.body.as_str()).collect();
    assert_eq!(bodies, [r#"{"id":"REAL","state":"open"}"#, r#"{"id":"REAL","state":"resolved"}"#]);
}

#[test]
fn a_database_of_a_newer_program_is_left_alone() {
    let base = tempfile::tempdir().unwrap();
    let store = open(base.path());
    store.connection.pragma_update(None, "user_version", 99).unwrap();
    drop(store);
    let folder = StateFolder::open(&base.path().join("state")).unwrap();
    let error = Store::open(&folder).unwrap_err().to_string();
    assert!(error.contains("version 99") && error.contains("newer program"), "{error}");
}

#[test]
fn history_goes_with_its_retention_but_never_while_it_lasts() {
    let base = tempfile::tempdir().unwrap();
    let mut store = open(base.path());
    let states =
        vec![state("OVER", "open", false), state("OVER", "resolved", false), state("ON", "open", false)];
    store.commit(&Batch { states, ..Batch::default() }, 5, 10).unwrap();
    let again = ["resolved", "open"].map(|entered| state("AGAIN", entered, false));
    store.commit(&Batch { states: again.into(), ..Batch::default() }, 5, 10).unwrap();
    store.forget_history(6).unwrap();
    assert_eq!(store.incident("OVER").unwrap(), []);
    let open = store.open_alarms(10).unwrap();
    let told = |id| (state(id, "open", false).body, Some(state(id, "open", false).body));
    assert_eq!(open, [told("AGAIN"), told("ON")], "one that came back has not ended");
}

#[test]
fn what_has_ended_tells_whether_people_were_notified() {
    let base = tempfile::tempdir().unwrap();
    let mut store = open(base.path());
    let states = [
        ("HELD", "suppressed"),
        ("HELD", "resolved"),
        ("TOLD", "open"),
        ("TOLD", "resolved"),
        ("ON", "open"),
    ];
    let states = states.map(|(id, entered)| state(id, entered, false));
    store.commit(&Batch { states: states.into(), ..Batch::default() }, 5, 10).unwrap();
    let ended = store.ended_incidents(10).unwrap();
    let ended: Vec<(&str, bool)> = ended.iter().map(|(it, notified)| (it.id.as_str(), *notified)).collect();
    assert_eq!(ended, [("TOLD", true), ("HELD", false)]);
    assert_eq!(store.ended_incidents(1).unwrap().len(), 1);
}

#[test]
fn operators_changes_move_versions() {
    let base = tempfile::tempdir().unwrap();
    let (mut here, mut elsewhere) = (open(base.path()), open(base.path()));
    let before = here.versions().unwrap();
    let file = CalendarFile { name: "tv.ics".to_owned(), body: "BEGIN:VCALENDAR".to_owned() };
    elsewhere.put_calendar(&file, 1).unwrap();
    let number = elsewhere.add_silence(10, 0, |number| format!("{{\"id\":{number}}}")).unwrap();
    let after = here.versions().unwrap();
    assert!(after.calendars > before.calendars && after.silences > before.silences);
    assert_eq!(here.calendars().unwrap(), [file]);
    assert_eq!(here.silences(9).unwrap()[0].number, number);
    assert_eq!(here.silences(10).unwrap(), [], "over");
    assert!(here.remove_silence(number).unwrap() && !here.remove_silence(number).unwrap());
}

/// A state folder with the database of this SQL.
fn written(base: &Path, sql: &str) -> StateFolder {
    let folder = StateFolder::open(&base.join("state")).unwrap();
    let connection = Connection::open(folder.reserve(DATABASE_FILE).unwrap()).unwrap();
    connection.execute_batch(sql).unwrap();
    folder
}

#[test]
fn a_database_of_the_first_version_is_brought_up_to_date_with_all_it_holds() {
    let base = tempfile::tempdir().unwrap();
    let folder = written(base.path(), include_str!("golden/version_1.sql"));
    let old = Store::open_to_look(&folder.file(DATABASE_FILE)).unwrap();
    assert_eq!(old.schema_version().unwrap(), 1);
    assert_eq!(crate::verify::verify(&old).unwrap().problems, [""; 0], "looking does not change it");
    drop(old);

    let store = Store::open(&folder).unwrap();
    let report = crate::verify::verify(&store).unwrap();
    assert_eq!((report.problems.as_slice(), report.schema), ([].as_slice(), Store::schema_known()));
    assert_eq!((report.parts, report.incidents, report.deliveries), (6, 1, 1));
    let id = "01M81C665GXK5GYD70F7R8EEG1";
    let states = store.incident(id).unwrap();
    let entered: Vec<&str> = states.iter().map(|state| state.state.as_str()).collect();
    assert_eq!(entered, ["suppressed", "open"]);
    assert!(states.iter().all(|state| state.basis.is_none()) && store.labels([id]).unwrap().is_empty());
    assert_eq!(store.ledger(id).unwrap().len(), 2);
    assert_eq!(
        store.due_deliveries("webhook.ops", i64::MAX, 9).unwrap()[0].idempotency_key,
        format!("{id}-open-2")
    );
    let agents = store.enrolled_agents().unwrap();
    assert_eq!((agents[0].agent.as_str(), agents[0].revoked_ms), ("edge-1", None));
    assert!(store.calendars().unwrap()[0].body.contains("SUMMARY:Final"));
    assert!(store.silences(0).unwrap()[0].body.contains("planned work"));
    assert_eq!(store.versions().unwrap(), Versions { calendars: 1, silences: 3 });
    assert!(store.users().unwrap().is_empty() && !store.has_accounts(0).unwrap());

    let parts = store.parts().unwrap();
    let parts = parts.iter().map(|(_, body)| serde_json::from_str::<Part>(body).unwrap());
    let core = Aggregator::restore(Config::default().core_settings(), parts);
    let open = core.snapshot().open;
    assert_eq!((open.len(), open[0].alarm.id.as_str()), (1, id), "the incident goes on under its id");
}

#[test]
fn a_step_that_fails_leaves_the_former_version_whole() {
    let base = tempfile::tempdir().unwrap();
    let golden = include_str!("golden/version_1.sql");
    // A table of that name is in the way of the fourth step; those before it would have gone well.
    let folder = written(base.path(), &format!("{golden}CREATE TABLE users (name TEXT);"));
    assert!(matches!(Store::open(&folder), Err(StoreError::Sqlite(_))));
    let store = Store::open_to_look(&folder.file(DATABASE_FILE)).unwrap();
    assert_eq!(store.schema_version().unwrap(), 1);
    assert!(store.labels(["X"]).is_err(), "nothing of the steps before it stayed");
}

#[test]
fn a_database_of_a_later_program_is_refused_and_left_alone() {
    let base = tempfile::tempdir().unwrap();
    drop(open(base.path()));
    let folder = written(base.path(), "PRAGMA user_version = 99");
    let file = folder.file(DATABASE_FILE);
    for refused in [Store::open(&folder), Store::open_to_look(&file)] {
        let error = refused.unwrap_err().to_string();
        assert!(error.contains("schema version 99") && error.contains("use the newer program"), "{error}");
    }
    let backup = folder.file("backup");
    std::fs::copy(&file, &backup).unwrap();
    assert!(matches!(restore_database(&backup, &file), Err(CopyError::Store(StoreError::Newer { .. }))));
}

#[test]
fn a_copy_is_of_one_moment_and_replaces_nothing() {
    let base = tempfile::tempdir().unwrap();
    let mut store = open(base.path());
    let filled = |key: &str| Batch { parts: vec![part(key, Some("1"))], ..Batch::default() };
    store.commit(&filled("session/a"), 5, 10).unwrap();
    let (copy, folder) = (base.path().join("copy"), StateFolder::open(&base.path().join("state")).unwrap());
    std::fs::write(base.path().join("copy.new"), "somebody else's").unwrap();
    Store::open_to_look(&folder.file(DATABASE_FILE)).unwrap().copy_to(&copy).unwrap();
    assert_eq!(std::fs::metadata(&copy).unwrap().permissions().mode() & 0o777, 0o600);
    let names = || base.path().read_dir().unwrap().map(|it| it.unwrap().file_name().into_string().unwrap());
    let left: Vec<_> = names().filter(|it| it.starts_with("copy")).collect();
    assert!(left.len() == 2 && left.contains(&"copy.new".into()), "what is not its own it leaves: {left:?}");
    assert!(matches!(store.copy_to(&copy), Err(CopyError::Exists(_))));
    store.commit(&filled("session/b"), 6, 10).unwrap();
    drop(store);
    let kept = restore_database(&copy, &folder.file(DATABASE_FILE)).unwrap().unwrap();
    assert_eq!(open(base.path()).parts().unwrap().len(), 1, "as of the copy");
    assert_eq!(Store::open_to_look(&kept).unwrap().parts().unwrap().len(), 2, "what was there is kept");
    let again = restore_database(&copy, &folder.file(DATABASE_FILE));
    assert!(matches!(again, Err(CopyError::Exists(it)) if it == kept), "and is not lost to the next restore");
}

#[test]
fn a_restore_that_was_cut_short_keeps_everybody_out_and_is_finished_by_the_next() {
    let base = tempfile::tempdir().unwrap();
    let mut store = open(base.path());
    let filled = |key: &str| Batch { parts: vec![part(key, Some("1"))], ..Batch::default() };
    store.commit(&filled("session/a"), 5, 10).unwrap();
    let (copy, folder) = (base.path().join("copy"), StateFolder::open(&base.path().join("state")).unwrap());
    store.copy_to(&copy).unwrap();
    store.commit(&filled("session/b"), 6, 10).unwrap();
    let database = folder.file(DATABASE_FILE);
    // As a process leaves it that was killed: the log of the former database is there and not in its file.
    let copied = |end: &str| {
        let name = format!("{}{end}", database.display());
        (std::fs::read(&name).unwrap(), name)
    };
    let killed = [copied(""), copied("-wal")];
    drop(store);
    for (body, name) in killed {
        std::fs::write(name, body).unwrap();
    }
    let kept = folder.file("vedette.before-restore");
    std::fs::hard_link(&database, &kept).unwrap();
    std::fs::write(folder.file("vedette.restored"), "half of it").unwrap();
    let refused = Store::open(&folder).unwrap_err();
    assert!(refused.to_string().contains("run `vedette-aggregator restore` again"), "{refused}");
    assert_eq!(restore_database(&copy, &database).unwrap(), Some(kept.clone()));
    assert_eq!(open(base.path()).parts().unwrap().len(), 1, "as of the copy");
    let reopened = rusqlite::Connection::open(&kept).unwrap();
    let parts: i64 = reopened.query_row("SELECT count(*) FROM core_parts", [], |row| row.get(0)).unwrap();
    assert_eq!(parts, 2, "with what stood in its log");
}

#[test]
fn a_look_is_of_one_moment_whatever_others_commit() {
    let base = tempfile::tempdir().unwrap();
    let mut store = open(base.path());
    let filled = |key: &str| Batch { parts: vec![part(key, Some("1"))], ..Batch::default() };
    store.commit(&filled("session/a"), 5, 10).unwrap();
    let elsewhere = open(base.path());
    let seen = elsewhere.at_one_moment(|elsewhere| {
        let before = elsewhere.parts()?.len();
        store.commit(&filled("session/b"), 6, 10)?;
        Ok((before, elsewhere.parts()?.len()))
    });
    assert_eq!(seen.unwrap(), (1, 1));
    assert_eq!(elsewhere.parts().unwrap().len(), 2);
}

#[test]
fn silences_have_a_limit_and_those_that_ended_make_room_and_go() {
    let base = tempfile::tempdir().unwrap();
    let mut store = open(base.path());
    let add = |store: &mut Store, now_ms| store.add_silence(10, now_ms, |number| number.to_string());
    for _ in 0..crate::limits::SILENCES_MAX {
        add(&mut store, 0).unwrap();
    }
    assert!(matches!(add(&mut store, 9), Err(StoreError::Full { what: "silences", .. })));
    add(&mut store, 10).unwrap();
    assert_eq!(store.forget_history(10).unwrap(), 0);
    assert_eq!(store.forget_history(11).unwrap(), crate::limits::SILENCES_MAX + 1);
}

#[test]
fn what_does_not_agree_is_found() {
    let base = tempfile::tempdir().unwrap();
    let folder = written(base.path(), include_str!("golden/version_1.sql"));
    let store = Store::open(&folder).unwrap();
    let mut problems = Vec::new();
    for damage in [
        "UPDATE incidents SET body = replace(body, '\"state\":\"open\"', '\"state\":\"resolved\"') WHERE number = 2",
        "UPDATE core_parts SET body = replace(body, '\"told\":\"open\"', '\"told\":\"suppressed\"') WHERE key LIKE 'incident/%'",
        "UPDATE core_parts SET key = 'session/edge-2' WHERE key = 'session/edge-1'",
        "UPDATE core_parts SET body = 'x' WHERE key = 'names'",
        "PRAGMA foreign_keys = OFF; UPDATE outbox SET incident_number = 77",
    ] {
        store.connection.execute_batch(damage).unwrap();
        let found = crate::verify::verify(&store).unwrap().problems;
        assert_ne!(found, problems, "{damage}");
        problems = found;
    }
    assert!(problems[0].contains("a row of outbox refers to one of incidents"), "{problems:?}");
}

#[test]
fn the_latest_label_of_an_incident_holds_and_goes_with_it() {
    let base = tempfile::tempdir().unwrap();
    let mut store = open(base.path());
    let label = |label: &str| Label {
        label: label.into(),
        author: "ada".into(),
        comment: "a release".into(),
        written_ms: 7,
    };
    assert!(!store.put_label("NONE", &label("real")).unwrap(), "no such incident");
    let basis = StoredState { basis: Some("{}".into()), ..state("X", "open", false) };
    let states = vec![basis, state("X", "resolved", false)];
    store.commit(&Batch { states, ..Batch::default() }, 5, 10).unwrap();
    assert_eq!(store.incident("X").unwrap()[0].basis.as_deref(), Some("{}"));
    assert!(store.put_label("X", &label("noise")).unwrap() && store.put_label("X", &label("real")).unwrap());
    assert_eq!(store.labels(["X"]).unwrap()["X"], label("real"));
    assert_eq!((store.label("X").unwrap(), store.label("Y").unwrap()), (Some(label("real")), None));
    store.forget_history(6).unwrap();
    assert!(store.labels(["X"]).unwrap().is_empty());
}

#[test]
fn deliveries_that_nobody_makes_any_more_are_given_up_and_counted() {
    let base = tempfile::tempdir().unwrap();
    let mut store = open(base.path());
    let entered = vec![state("A", "open", true), state("B", "open", true)];
    store.commit(&Batch { states: entered, ..Batch::default() }, 5, 10).unwrap();
    let rows = store.outbox_rows().unwrap();
    assert_eq!(store.forget_deliveries(5).unwrap(), []);
    let given_up = store.forget_deliveries(6).unwrap();
    assert_eq!(given_up.iter().map(|(_, rows)| rows).sum::<u64>(), rows);
    assert!(rows > 0 && store.outbox_rows().unwrap() == 0, "{given_up:?}");
}

#[test]
fn an_answer_about_one_incident_is_bounded() {
    let base = tempfile::tempdir().unwrap();
    let mut store = open(base.path());
    let states = ["open", "suppressed"].repeat(120);
    let states = states.iter().map(|entered| state("FLAPS", entered, false)).collect();
    store.commit(&Batch { states, ..Batch::default() }, 5, 10).unwrap();
    let found = store.incident("FLAPS").unwrap();
    assert_eq!((found.len(), found[0].number, found.last().unwrap().number), (200, 41, 240), "the latest");
}
