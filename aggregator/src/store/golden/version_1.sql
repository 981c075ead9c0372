-- A database as the first released version of the tables held it, written by that program: one region with a fault that was silenced, then told;
-- a delivery that waits, an agent, tokens, a calendar and a silence. It must never be changed: every later program has to open it.
BEGIN TRANSACTION;
CREATE TABLE agents (
        agent TEXT PRIMARY KEY,
        key_fingerprint BLOB NOT NULL,
        regions TEXT NOT NULL,
        enrolled_ms INTEGER NOT NULL,
        not_after_ms INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
INSERT INTO "agents" VALUES('edge-1',X'C231B091FF44D29833F37A58F000B4CC51C7C6B63EA859FD8E7E04D0B077E432','*',1795342660692,1829643460692);
CREATE TABLE calendars (
        name TEXT PRIMARY KEY,
        imported_ms INTEGER NOT NULL,
        body TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;
INSERT INTO "calendars" VALUES('final.ics',1795342662947,'BEGIN:VCALENDAR
VERSION:2.0
PRODID:x
BEGIN:VEVENT
UID:1
DTSTAMP:20260101T000000Z
DTSTART:20260601T180000Z
DTEND:20260601T200000Z
SUMMARY:Final
CATEGORIES:football
LOCATION:uk
END:VEVENT
END:VCALENDAR
');
CREATE TABLE core_parts (
        key TEXT PRIMARY KEY,
        body TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;
INSERT INTO "core_parts" VALUES('incident/01M81C665GXK5GYD70F7R8EEG1','{"incident":{"id":"01M81C665GXK5GYD70F7R8EEG1","source":"leftover","stage":{"told":"open"},"verdict":"malfunction","severity":"critical","scope":{"region":["uk"],"device":["tv"],"stack":["playback"]},"votes":[[{"region":["uk"],"device":["tv"],"stack":["playback"]},1631.0546473004633]],"started_at":1795342670000,"entered_at":1795342780000,"seen_at":1795342780000,"windows":11,"notify_windows":1,"quiet":0,"evidence":{"metric":"activity","metric_is_traffic":true,"direction":"drop","observed":100.0,"expected":1000.0,"log_ratio":-2.302585,"common_mode":0.0,"residual":-2.298097,"tolerance":0.288916,"significance":35.793963,"significance_threshold":4.5,"peers":["browse","search"],"windows":11,"score":0.0,"reason":"a very large part is left over against browse and search","counterfactual":"would have been held back had browse and search changed by -90 % too"},"series":[{"measurement":"activity","tags":{"device":"tv","region":"uk","stack":"playback"},"observed":100.0,"expected":1000.0,"score":0.0}]}}');
INSERT INTO "core_parts" VALUES('memory/0','{"memory":{"noise":[[{"metric":0,"region":0,"device":0,"stack":0},{"windows":35,"variance":[0.0031225882008490704,0.0037247727590266053]}],[{"metric":0,"region":0,"device":0,"stack":1},{"windows":45,"variance":[0.0018004088864658576,0.0024842167989993624]}],[{"metric":0,"region":0,"device":0,"stack":2},{"windows":45,"variance":[0.0018004088864658576,0.0024842167989993624]}],[{"metric":0,"region":0,"device":0,"stack":65535},{"windows":45,"variance":[0.01689942482754338,0.014453279214808372]}],[{"metric":0,"region":0,"device":65535,"stack":0},{"windows":45,"variance":[0.017012465731877157,0.01675716901930271]}],[{"metric":0,"region":0,"device":65535,"stack":1},{"windows":45,"variance":[0.0018004088864658576,0.0024842167989993624]}],[{"metric":0,"region":0,"device":65535,"stack":2},{"windows":45,"variance":[0.0018004088864658576,0.0024842167989993624]}],[{"metric":0,"region":0,"device":65535,"stack":65535},{"windows":51,"variance":[0.0004,0.0004]}]],"measures":[]}}');
INSERT INTO "core_parts" VALUES('memory/all','{"memory":{"noise":[],"measures":[]}}');
INSERT INTO "core_parts" VALUES('names','{"names":{"devices":["tv"],"stacks":["playback","browse","search"],"metrics":["activity"],"regions":["uk"],"reporters":["edge-1"]}}');
INSERT INTO "core_parts" VALUES('region/uk','{"region":{"name":"uk","window_ms":10000,"judged":1795342770000,"cells":[{"device":0,"stack":0,"reporter":0,"seen":1795342770000,"streak":51,"run":51,"usual_gap":0},{"device":0,"stack":1,"reporter":0,"seen":1795342770000,"streak":51,"run":51,"usual_gap":0},{"device":0,"stack":2,"reporter":0,"seen":1795342770000,"streak":51,"run":51,"usual_gap":0}],"series":[{"cell":0,"metric":0,"age":51,"latest":{"observed":100.0,"expected":1000.0,"count":10},"long":{"observed":552.0369438163798,"expected":3999.9904541008036,"count":0},"history":[-2.2980974,-2.2980974,-2.2980974,-2.2980974,-2.2980974,-2.2980974,-2.2980974,-2.2980974],"residual":-2.2980974265246576,"noise":0.1048785023247141,"score":0.0},{"cell":1,"metric":0,"age":51,"latest":{"observed":1000.0,"expected":1000.0,"count":10},"long":{"observed":3999.9904541008036,"expected":3999.9904541008036,"count":0},"history":[0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0],"residual":0.0,"noise":0.1048785023247141,"score":0.0},{"cell":2,"metric":0,"age":51,"latest":{"observed":1000.0,"expected":1000.0,"count":10},"long":{"observed":3999.9904541008036,"expected":3999.9904541008036,"count":0},"history":[0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0],"residual":0.0,"noise":0.1048785023247141,"score":0.0}],"common_modes":{"0":{"value":0.0,"peers":3,"lingering":0.0}}}}');
INSERT INTO "core_parts" VALUES('session/edge-1','{"session":{"agent":"edge-1","boots":[{"boot":7,"through":[null,51],"used_at":1795342662333}],"version":"0.1.0","window_ms":10000,"regions":{"uk":1795342770000},"last_heard_at":1795342662333,"rolled_up_at":1795342662333,"clock_ahead_ms":0,"missing":0,"heartbeat":null,"silent":false}}');
CREATE TABLE incidents (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL,
        state TEXT NOT NULL,
        written_ms INTEGER NOT NULL,
        body TEXT NOT NULL
    ) STRICT;
INSERT INTO "incidents" VALUES(1,'01M81C665GXK5GYD70F7R8EEG1','suppressed',1795342662290,'{"id":"01M81C665GXK5GYD70F7R8EEG1","state":"suppressed","kind":"malfunction","at":"2026-11-22T10:18:00Z","started_at":"2026-11-22T10:17:50Z","severity":"critical","verdict":"malfunction","scope":{"region":["uk"],"device":["tv"],"stack":["playback"]},"summary":"playback on tv in uk is 90% below expectation; its peers are not","evidence":{"metric":"activity","metric_is_traffic":true,"direction":"drop","observed":100.0,"expected":1000.0,"log_ratio":-2.302585,"common_mode":0.0,"residual":-2.298097,"tolerance":0.288916,"significance":35.793963,"significance_threshold":4.5,"peers":["browse","search"],"windows":1,"score":0.0,"reason":"silenced by anna (silence-1795342660650): planned work","counterfactual":"would have been judged by its numbers without the silence"},"series":[{"measurement":"activity","tags":{"device":"tv","region":"uk","stack":"playback"},"observed":100.0,"expected":1000.0,"score":0.0}]}');
INSERT INTO "incidents" VALUES(2,'01M81C665GXK5GYD70F7R8EEG1','open',1795342662835,'{"id":"01M81C665GXK5GYD70F7R8EEG1","state":"open","kind":"malfunction","at":"2026-11-22T10:19:40Z","started_at":"2026-11-22T10:17:50Z","severity":"critical","verdict":"malfunction","scope":{"region":["uk"],"device":["tv"],"stack":["playback"]},"summary":"playback on tv in uk is 90% below expectation; its peers are not","evidence":{"metric":"activity","metric_is_traffic":true,"direction":"drop","observed":100.0,"expected":1000.0,"log_ratio":-2.302585,"common_mode":0.0,"residual":-2.298097,"tolerance":0.288916,"significance":35.793963,"significance_threshold":4.5,"peers":["browse","search"],"windows":11,"score":0.0,"reason":"a very large part is left over against browse and search","counterfactual":"would have been held back had browse and search changed by -90 % too"},"series":[{"measurement":"activity","tags":{"device":"tv","region":"uk","stack":"playback"},"observed":100.0,"expected":1000.0,"score":0.0}]}');
CREATE TABLE ledger (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL,
        written_ms INTEGER NOT NULL,
        body TEXT NOT NULL
    ) STRICT;
INSERT INTO "ledger" VALUES(1,'01M81C665GXK5GYD70F7R8EEG1',1795342662290,'{"id":"01M81C665GXK5GYD70F7R8EEG1","at":"2026-11-22T10:18:00Z","decision":"suppress","started_at":"2026-11-22T10:17:50Z","region":["uk"],"scope":{"region":["uk"],"device":["tv"],"stack":["playback"]},"verdict":"malfunction","reason":"silenced by anna (silence-1795342660650): planned work","evidence":{"metric":"activity","metric_is_traffic":true,"direction":"drop","observed":100.0,"expected":1000.0,"log_ratio":-2.302585,"common_mode":0.0,"residual":-2.298097,"tolerance":0.288916,"significance":35.793963,"significance_threshold":4.5,"peers":["browse","search"],"windows":1,"score":0.0,"reason":"silenced by anna (silence-1795342660650): planned work","counterfactual":"would have been judged by its numbers without the silence"},"counterfactual":"would have been judged by its numbers without the silence"}');
INSERT INTO "ledger" VALUES(2,'01M81C665GXK5GYD70F7R8EEG1',1795342662835,'{"id":"01M81C665GXK5GYD70F7R8EEG1","at":"2026-11-22T10:19:40Z","decision":"release","started_at":"2026-11-22T10:17:50Z","region":["uk"],"scope":{"region":["uk"],"device":["tv"],"stack":["playback"]},"verdict":"malfunction","reason":"a very large part is left over against browse and search","evidence":{"metric":"activity","metric_is_traffic":true,"direction":"drop","observed":100.0,"expected":1000.0,"log_ratio":-2.302585,"common_mode":0.0,"residual":-2.298097,"tolerance":0.288916,"significance":35.793963,"significance_threshold":4.5,"peers":["browse","search"],"windows":11,"score":0.0,"reason":"a very large part is left over against browse and search","counterfactual":"would have been held back had browse and search changed by -90 % too"},"counterfactual":"would have been held back had browse and search changed by -90 % too"}');
CREATE TABLE outbox (
        number INTEGER PRIMARY KEY,
        notifier TEXT NOT NULL,
        idempotency_key TEXT NOT NULL,
        incident_number INTEGER NOT NULL REFERENCES incidents (number) ON DELETE CASCADE,
        attempts INTEGER NOT NULL DEFAULT 0,
        due_ms INTEGER NOT NULL,
        created_ms INTEGER NOT NULL,
        UNIQUE (notifier, idempotency_key)
    ) STRICT;
INSERT INTO "outbox" VALUES(1,'webhook.ops','01M81C665GXK5GYD70F7R8EEG1-open-2',2,1,1795342663737,1795342662835);
CREATE TABLE silences (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        until_ms INTEGER NOT NULL,
        body TEXT NOT NULL
    ) STRICT;
INSERT INTO "silences" VALUES(2,1795349862871,'{"id":"silence-1795342662871","scope":{"region":["ie"],"device":[],"stack":[]},"from":1795342662871,"until":1795349862871,"author":"anna","comment":"planned work"}');
CREATE TABLE tokens (
        secret_hash BLOB PRIMARY KEY,
        regions TEXT NOT NULL,
        replaces TEXT NOT NULL,
        created_ms INTEGER NOT NULL,
        expires_ms INTEGER NOT NULL,
        used_ms INTEGER,
        used_by TEXT
    ) STRICT, WITHOUT ROWID;
INSERT INTO "tokens" VALUES(X'404A06C7C083407C7D6B4706EA36476161BACE77575632E9743FD78DC7519B7F','*','*',1795342660693,9223372036854775807,NULL,NULL);
INSERT INTO "tokens" VALUES(X'A0966C564F58EF74FB66DFFCB6B23D28DDA7EDA38B4D9FF7BF0CF1AE4C51F582','*','*',1795342660624,9223372036854775807,1795342660692,'edge-1');
INSERT INTO "tokens" VALUES(X'BEF97913FA0A08D0F7FA8F35AC013E05C1BDBF1D3C41A7CD9E56E7C4ACA688CA','uk','',1795342662903,1795429062903,NULL,NULL);
CREATE TABLE versions (
        name TEXT PRIMARY KEY,
        version INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
INSERT INTO "versions" VALUES('calendars',1);
INSERT INTO "versions" VALUES('silences',3);
CREATE INDEX incidents_id ON incidents (id);
CREATE INDEX incidents_written ON incidents (written_ms);
CREATE INDEX ledger_id ON ledger (id);
CREATE INDEX ledger_written ON ledger (written_ms);
CREATE INDEX outbox_due ON outbox (notifier, number);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('silences',2);
INSERT INTO "sqlite_sequence" VALUES('incidents',2);
INSERT INTO "sqlite_sequence" VALUES('ledger',2);
COMMIT;
PRAGMA user_version = 1;
