//! Every fixed limit of the aggregator's shell, in one place; limits of the wire stand in `vedette_common::limits`, tunable ones in the config.
//! It must never hold behaviour. The hard case is relations between limits: those are asserted at compile time below.

use std::time::Duration;

/// How long a certificate of the CA itself is valid.
pub const CA_VALIDITY: Duration = Duration::from_secs(10 * 365 * 86_400);
/// How long a server certificate is valid; a running aggregator makes itself a new one every [`SERVER_CERTIFICATE_RENEWAL`].
pub const SERVER_CERTIFICATE_VALIDITY: Duration = Duration::from_secs(30 * 86_400);
/// How often a running aggregator makes itself a new server certificate.
pub const SERVER_CERTIFICATE_RENEWAL: Duration = Duration::from_secs(86_400);
/// How long an agent's certificate is valid.
pub const AGENT_CERTIFICATE_VALIDITY: Duration = Duration::from_secs(397 * 86_400);
/// How often an open connection looks whether its agent's certificate has expired, at least.
pub const STANDING_CHECK: Duration = Duration::from_secs(60);
/// Former keys of the CA that are trusted at a time, the latest: each for as long as a certificate that it signed can be valid.
pub const FORMER_CAS_MAX: usize = 4;
/// How far back a certificate's validity begins, so that a peer whose clock is late accepts it.
pub const CLOCK_SKEW: Duration = Duration::from_secs(3_600);
/// Bytes of a certificate signing request (DER) that the CA is willing to parse.
pub const SIGNING_REQUEST_BYTES_MAX: usize = vedette_common::limits::CERTIFICATE_BYTES_MAX;
/// Unused enrolment tokens kept at a time: more are refused at creation, so a script cannot grow the table.
pub const TOKENS_MAX: usize = 10_000;
/// Used or expired tokens are remembered this long, so that using one again is refused with its own reason.
pub const TOKEN_MEMORY: Duration = Duration::from_secs(30 * 86_400);

/// Records handed to the core that wait for the store, at most; the core takes no more input until the store has caught up.
pub const BATCH_RECORDS_MAX: usize = 512;
/// Records of each lane (deviations, roll-ups) that wait for the core, at most; more are refused with a time to try again.
pub const ADMITTED_MAX: [usize; 2] = [512, 512];
/// The shortest time after which a refused agent is to try again, milliseconds.
pub const RETRY_AFTER_MS_MIN: u32 = 250;
/// The longest.
pub const RETRY_AFTER_MS_MAX: u32 = 60_000;
/// Frames that wait to be written to one connection; an agent that does not read that many is disconnected.
pub const REPLY_QUEUE_MAX: usize = 256;
/// Bytes of a frame to an agent.
pub const REPLY_FRAME_BYTES_MAX: usize = vedette_common::limits::FRAME_BYTES_MAX;
/// How long a handshake, and the first frame after it, may take.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection may be silent; agents send keep-alives more often than that.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long the aggregator waits for an agent to read the last words of a connection.
pub const FAREWELL_TIMEOUT: Duration = Duration::from_secs(2);
/// Bytes that an agent may send on a stream before the aggregator has read them: four frames.
pub const STREAM_WINDOW_BYTES: u32 = 64 * 1024;
/// Bytes of answers held for an agent until it acknowledges them in QUIC.
pub const SEND_WINDOW_BYTES: u64 = 64 * 1024;
/// Bytes of one message from or to an agent over MQTT: a batch of frames.
pub const MQTT_MESSAGE_BYTES_MAX: usize = 2 * vedette_common::limits::FRAME_BYTES_MAX;
/// Bytes of the longest MQTT packet that is read; a broker that speaks MQTT 5 sends none above it.
pub const MQTT_PACKET_BYTES_MAX: u32 = 128 * 1024;
/// MQTT messages that wait for the core's queue; the broker then holds further ones back.
pub const MQTT_ARRIVALS_MAX: usize = 16;
/// MQTT messages sent and not yet confirmed by the broker, at most.
pub const MQTT_UNCONFIRMED_MAX: u16 = 64;
/// Requests to the MQTT library that wait for room among those.
pub const MQTT_REQUESTS_MAX: usize = 16;
/// Connections under way at a time whose agent is not known yet, at most; more are turned away before any cryptography.
pub const HANDSHAKES_MAX: usize = 256;
/// Those of one address (of one /64 in IPv6), at most: a flood from there leaves room for others.
pub const HANDSHAKES_PER_ADDRESS_MAX: usize = 64;
/// Handshakes under way from which a newcomer must first prove its address by a QUIC retry.
pub const HANDSHAKES_UNPROVEN_MAX: usize = 32;
/// Addresses whose fruitless handshakes are remembered, at most; of more, the one with the fewest is forgotten.
pub const SUSPECTS_MAX: usize = 4_096;
/// Fruitless handshakes of one address (of one /64 in IPv6) from which it has to wait.
pub const FRUITLESS_MAX: u32 = 128;
/// How long it takes until one of them is forgiven: an address that goes on gets one handshake in this time.
pub const FRUITLESS_FORGIVEN: Duration = Duration::from_secs(1);
/// As how many of them an enrolment counts that was refused: it also asked the store.
pub const REFUSED_ENROLMENT_WEIGHT: u32 = 8;
/// Enrolments under way, at most.
pub const ENROLMENTS_MAX: usize = 64;
/// When an agent that came over the limit of connections should try again, milliseconds.
pub const OVERLOADED_RETRY_MS: u32 = 5_000;
/// Requests that wait for the store (enrolments, commits, outbox); the sender waits when it is full.
pub const STORE_QUEUE_MAX: usize = 64;
/// How long the first record of a batch waits for company before it is committed.
pub const COMMIT_LINGER: Duration = Duration::from_millis(20);
/// Pause before a failed commit is tried again.
pub const COMMIT_RETRY: Duration = Duration::from_secs(1);
/// How often a new picture of the core is published for the API and the console.
pub const PUBLISH_INTERVAL: Duration = Duration::from_millis(500);
/// How long a turn of the core's task may take before the service watchdog is no longer fed.
pub const TURN_MAX: Duration = Duration::from_secs(20);
/// How often the run loop looks whether another process changed the calendar, the silences, the agents or the CA.
pub const OPERATIONS_POLL: Duration = Duration::from_secs(1);
/// How often recurrences are expanded anew.
pub const SCHEDULE_RENEWAL: Duration = Duration::from_secs(3_600);
/// How far back scheduled events and silences are kept, milliseconds: as late as a record may come, and a day for what
/// lasts into its window.
pub const SCHEDULE_LOOKBACK_MS: i64 = 15 * 86_400_000;
/// How often history past its retention is removed.
pub const HISTORY_SWEEP: Duration = Duration::from_secs(3_600);
/// How often the database is looked through.
pub const STORE_CHECK: Duration = Duration::from_secs(6 * 3_600);
/// How often the config's file is looked at; a new content is taken over when two looks in a row have found it.
pub const CONFIG_POLL: Duration = Duration::from_secs(2);
/// How long a graceful stop may take before the process leaves anyway; everything acknowledged is committed by then.
pub const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// Deliveries of one notifier read from the outbox at once.
pub const OUTBOX_BATCH_MAX: usize = 64;
/// First pause after a failed delivery; it doubles up to [`RETRY_PAUSE_MAX`], with jitter.
pub const RETRY_PAUSE_MIN: Duration = Duration::from_secs(1);
/// Longest pause between two attempts.
pub const RETRY_PAUSE_MAX: Duration = Duration::from_secs(300);
/// A delivery older than this is given up, counted with reason `expired`.
pub const DELIVERY_AGE_MAX: Duration = Duration::from_secs(3 * 86_400);
/// How often the outbox is looked at without being woken.
pub const OUTBOX_POLL: Duration = Duration::from_secs(1);
/// How often an open alarm is sent to Alertmanager again; its default `resolve_timeout` is five minutes.
pub const ALERTMANAGER_RESEND: Duration = Duration::from_secs(60);
/// How long after its last sending Alertmanager should believe an open alarm (`endsAt`), so that one missed sending changes nothing.
pub const ALERTMANAGER_BELIEF: Duration = Duration::from_secs(4 * 60);
/// Open alarms that are sent to Alertmanager again in one request, at most.
pub const ALERTMANAGER_ALARMS_MAX: usize = 1_000;

/// Users of console and API.
pub const USERS_MAX: usize = 1_000;
/// Silences that have not ended; each is compared with every incident of every window.
pub const SILENCES_MAX: usize = 1_000;
/// Tokens of scripts.
pub const API_TOKENS_MAX: usize = 1_000;
/// Log-ins of one user at a time; the oldest ends for one more.
pub const SESSIONS_PER_USER_MAX: u32 = 16;
/// Bytes of the name of a user or token.
pub const ACCOUNT_NAME_BYTES_MAX: usize = 64;
/// Sources of wrong log-ins that are remembered; of more, those that wait longest.
pub const LOGIN_ATTEMPTS_MAX: usize = 4_096;
/// Log-ins that may be wrong before a source has to wait.
pub const LOGIN_ATTEMPTS_FREE: u32 = 5;
/// First wait of a source of wrong log-ins; it doubles with each further one.
pub const LOGIN_PAUSE_MIN: Duration = Duration::from_secs(15);
/// Longest wait of a source of wrong log-ins.
pub const LOGIN_PAUSE_MAX: Duration = Duration::from_secs(900);
/// How long without an attempt until one wrong log-in is forgiven.
pub const LOGIN_FORGIVEN: Duration = Duration::from_secs(600);
/// How long after its last attempt a source is forgotten.
pub const LOGIN_MEMORY: Duration = Duration::from_secs(3_600);
/// Passwords checked at a time: each takes 19 MiB and a core.
pub const PASSWORD_CHECKS_MAX: usize = 2;
/// How long a log-in waits for its turn.
pub const PASSWORD_CHECK_WAIT: Duration = Duration::from_secs(5);
/// Bytes of the body of a request.
pub const REQUEST_BODY_BYTES_MAX: usize = 16 * 1024;
/// Connections of browsers and scripts at a time; more are closed at once. Each holds a request of some kilobytes.
pub const HTTP_CONNECTIONS_MAX: usize = 256;
/// Those of one address (of one /64 in IPv6), unless it is this machine or a proxy that the config names.
pub const HTTP_CONNECTIONS_PER_ADDRESS_MAX: usize = 64;
/// How long a connection may take to ask for something whole, counted from its beginning or from what was last said to it, and to take
/// what it is told.
pub const HTTP_PATIENCE: Duration = Duration::from_secs(30);

const _: () = assert!(2 * HTTP_CONNECTIONS_PER_ADDRESS_MAX <= HTTP_CONNECTIONS_MAX);
const _: () = assert!(LOGIN_PAUSE_MAX.as_secs() < LOGIN_MEMORY.as_secs());
const _: () = assert!(SERVER_CERTIFICATE_RENEWAL.as_secs() * 2 <= SERVER_CERTIFICATE_VALIDITY.as_secs());
const _: () = assert!(ALERTMANAGER_BELIEF.as_secs() >= 3 * ALERTMANAGER_RESEND.as_secs());
const _: () = assert!(TURN_MAX.as_secs() >= 10 * PUBLISH_INTERVAL.as_secs());
const _: () = assert!(STREAM_WINDOW_BYTES as usize >= 2 * vedette_common::limits::FRAME_BYTES_MAX);
const _: () = assert!(MQTT_PACKET_BYTES_MAX as usize > MQTT_MESSAGE_BYTES_MAX);
const _: () = assert!(HANDSHAKES_UNPROVEN_MAX < HANDSHAKES_PER_ADDRESS_MAX);
const _: () = assert!(2 * HANDSHAKES_PER_ADDRESS_MAX <= HANDSHAKES_MAX);
// All that an address may have under way at a time may end fruitlessly once without costing it anything.
const _: () = assert!(FRUITLESS_MAX as usize > HANDSHAKES_PER_ADDRESS_MAX);
const _: () = assert!(RETRY_AFTER_MS_MIN < RETRY_AFTER_MS_MAX);
const _: () = assert!(RETRY_PAUSE_MIN.as_millis() < RETRY_PAUSE_MAX.as_millis());
