//! The log's contract on real log servers: one, and three of which the leader dies or stands still.

mod server;

use std::{cell::RefCell, rc::Rc, time::Duration};

use holdfast_base::ShardId;
use holdfast_io::SeededRandom;
use holdfast_jetstream::{JetStreamLog, JetStreamOptions};
use holdfast_log::{
    Log, LogError, OpenMode, Owner,
    suite::{self, World},
};

use server::LogServers;

type TestResult = Result<(), Box<dyn std::error::Error>>;

/// Long enough for a machine that is busy, short enough to wait for.
const APPEND_TIMEOUT: Duration = Duration::from_secs(2);
const SHARDS: [ShardId; 5] = [ShardId(0), ShardId(3), ShardId(7), ShardId(9), ShardId(65_535)];

struct JetStreamWorld {
    servers: Rc<RefCell<LogServers>>,
    /// Streams begin with this: each world has its own.
    name: String,
    replicas: usize,
    log: Option<JetStreamLog>,
    /// The server that was made to stand still.
    stands_still: Option<usize>,
}

fn options(servers: &LogServers, name: &str, replicas: usize) -> JetStreamOptions {
    JetStreamOptions {
        replicas,
        append_timeout: APPEND_TIMEOUT,
        // Calls are cut into parts here.
        message_bytes_max: 4 << 10,
        call_bytes_max: 1 << 20,
        ..JetStreamOptions::new(servers.urls(), name, SHARDS.to_vec())
    }
}

impl JetStreamWorld {
    fn fresh(
        servers: &Rc<RefCell<LogServers>>,
        number: usize,
        replicas: usize,
    ) -> Result<JetStreamWorld, LogError> {
        let name = format!("test-{number}");
        let options = options(&servers.borrow(), &name, replicas);
        let log = JetStreamLog::open(options, &mut SeededRandom::new(number as u64))?;
        let servers = Rc::clone(servers);
        Ok(JetStreamWorld { servers, name, replicas, log: Some(log), stands_still: None })
    }

    /// The server without which the first shard's stream takes nothing.
    fn leader(&self) -> usize {
        let stream = format!("{}-{}", self.name, SHARDS[0]);
        match self.replicas {
            1 => 0,
            _ => self.servers.borrow().leader_of(&stream).expect("the servers elect one"),
        }
    }
}

impl World for JetStreamWorld {
    fn log(&self) -> &dyn Log {
        self.log.as_ref().expect("there is one but while it restarts")
    }

    fn restart(&mut self) -> Result<(), String> {
        self.log = None;
        let leader = self.leader();
        self.servers.borrow_mut().restart(leader).map_err(|error| error.to_string())?;
        let options = options(&self.servers.borrow(), &self.name, self.replicas);
        let opened = JetStreamLog::open(options, &mut SeededRandom::new(2));
        let log = opened.map_err(|error| error.to_string())?;
        // A copy that is behind may have answered. Where the log ends only a session knows.
        for shard in SHARDS {
            log.open_session(shard).map_err(|error| error.to_string())?;
        }
        self.log = Some(log);
        Ok(())
    }

    fn fail_next_append(&mut self) -> bool {
        let leader = self.leader();
        self.servers.borrow().stand_still(leader);
        self.stands_still = Some(leader);
        true
    }

    fn heal(&mut self) {
        if let Some(server) = self.stands_still.take() {
            self.servers.borrow().go_on(server);
        }
    }
}

fn run_suite(servers: usize) -> TestResult {
    let replicas = servers;
    let servers = Rc::new(RefCell::new(LogServers::start(servers)?));
    let mut worlds = 0;
    suite::run(&mut || {
        worlds += 1;
        let world = JetStreamWorld::fresh(&servers, worlds, replicas);
        Box::new(world.expect("the servers make streams"))
    })?;
    Ok(())
}

#[test]
fn the_contract_holds_on_a_log_server_that_is_killed() -> TestResult {
    run_suite(1)
}

#[test]
#[ignore = "takes minutes, by elections: proofs/jetstream.py runs it"]
fn the_contract_holds_on_three_log_servers_whose_leader_is_killed_or_stopped() -> TestResult {
    run_suite(3)
}

#[test]
fn a_stream_that_could_lose_records_is_refused() -> TestResult {
    let servers = LogServers::start(1)?;
    drop(JetStreamLog::open(options(&servers, "test", 1), &mut SeededRandom::new(1))?);
    let mode = OpenMode::Existing;
    let other = JetStreamOptions { mode, ..options(&servers, "test", 3) };
    let refused = JetStreamLog::open(other, &mut SeededRandom::new(1)).err();
    let told = refused.ok_or("a stream with one copy was taken for three")?.to_string();
    assert!(told.contains("another number of copies"), "{told}");
    let other = JetStreamOptions { mode, ..options(&servers, "nobody", 1) };
    let refused = JetStreamLog::open(other, &mut SeededRandom::new(1)).err();
    assert!(matches!(refused, Some(LogError::Missing(_))), "{refused:?}");
    Ok(())
}

#[test]
fn a_server_that_is_not_there_is_told() {
    let options = JetStreamOptions {
        request_timeout: Duration::from_millis(300),
        ..JetStreamOptions::new(vec!["nats://127.0.0.1:1".to_owned()], "test", vec![ShardId(0)])
    };
    let refused = JetStreamLog::open(options, &mut SeededRandom::new(1)).err();
    assert!(
        refused.is_some_and(|error| error.to_string().contains("connecting to the log servers"))
    );
}

#[test]
fn whoever_stands_by_sees_signs_and_takes_only_what_is_silent_or_given_up() -> TestResult {
    let servers = LogServers::start(1)?;
    let shard = SHARDS[0];
    let open =
        |seed| JetStreamLog::open(options(&servers, "signs", 1), &mut SeededRandom::new(seed));
    let (one, other) = (open(1)?, open(2)?);
    assert_eq!(other.look(shard)?.owner, Owner::Nobody);
    let (mut session, position) = one.open_session(shard)?;
    let began = other.look(shard)?;
    assert_eq!(began.owner, Owner::Session(position.epoch));
    session.renew(false)?;
    let renewed = other.look(shard)?;
    assert!(renewed.number > began.number && renewed.owner == began.owner);
    let refused = other.open_session_after(shard, began);
    assert!(matches!(refused, Err(LogError::NotOwner(_))), "it lives");
    session.renew(true)?;
    let given_up = other.look(shard)?;
    assert_eq!(given_up.owner, Owner::Nobody);
    let (mut next, position) = other.open_session_after(shard, given_up)?;
    assert_eq!(one.look(shard)?.owner, Owner::Session(position.epoch));
    assert!(session.renew(false).is_err(), "it was replaced");
    let late = one.open_session_after(shard, given_up);
    assert!(matches!(late, Err(LogError::NotOwner(_))), "somebody was faster");
    next.renew(false)?;
    Ok(())
}
