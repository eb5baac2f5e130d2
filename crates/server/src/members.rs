//! The nodes of a cluster, as each tells the others, and who owns which shard.
//!
//! Each node keeps one entry of its own and the owner of a shard that of the shard, all by compare-and-set
//! (`holdfast_jetstream::Entries`; stored form: docs/formats.md, "Cluster entries"). What stands there sends
//! clients to the right node and shows people what is going on. It decides nothing: whose the data is, the log
//! alone says, so an entry that is old costs a redirect and no answer.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::Thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use holdfast_base::Lsn;
use holdfast_jetstream::{ENTRY_BYTES_MAX, Entries, Entry};
use holdfast_log::LogError;
use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};

use crate::{
    Config,
    digests::{self, Told},
    listeners::Addresses,
    startup::Startup,
};

/// Between two looks at the entries of others.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Between two changes of a node's own entry, which are its signs of life.
const TELL_EVERY: Duration = Duration::from_secs(1);
/// A node whose entry has not changed for so long counts as gone.
const SILENCE: Duration = Duration::from_secs(5);
/// Between two lines about entries that cannot be read or written.
const COMPLAIN_EVERY: Duration = Duration::from_secs(10);
/// Nodes that are looked at.
const MEMBERS_MAX: usize = 1_000;
/// The entry of the only shard.
const SHARD_KEY: &str = "shard.0";
const NODE_PREFIX: &str = "node.";

/// What a node does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Role {
    /// It replays its log.
    Starting,
    /// It follows the log of an owner.
    StandingBy,
    /// Nobody else owns the shard any more; it answers soon.
    TakingOver,
    /// It owns the shard.
    Owner,
    /// It has given the shard up and ends.
    Stopping,
}

/// The entry of a node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct NodeEntry {
    /// Its process: another one under the same name is a mistake.
    pub instance: u64,
    pub version: String,
    pub role: Role,
    /// `HOST:PORT` of what clients speak to.
    pub redis: Option<String>,
    pub redis_tls: Option<String>,
    pub http: Option<String>,
    /// The last position that its engine has.
    pub applied: u64,
    /// The last position that a crash leaves in its engine: it needs the log behind that.
    #[serde(default)]
    pub flushed: u64,
    /// Of its rows, at moments that all nodes agree on.
    #[serde(default)]
    pub digests: Vec<Told>,
    /// Of an owner: it may answer, as far as it knows.
    #[serde(default)]
    pub lease_held: bool,
    /// Of an owner: the log takes its writes.
    #[serde(default)]
    pub log_takes_writes: bool,
}

/// The entry of a shard.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct ShardEntry {
    epoch: u64,
    node: String,
}

/// A node as this one sees it.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub name: String,
    pub entry: NodeEntry,
    version: u64,
    changed: Instant,
}

/// What this node knows of the cluster, by name.
#[derive(Clone, Default, Debug)]
pub(crate) struct View {
    pub members: Vec<Member>,
    shard: Option<(ShardEntry, u64)>,
}

impl Member {
    /// Whether it has given a sign of life lately.
    pub(crate) fn is_alive(&self) -> bool {
        self.changed.elapsed() < SILENCE
    }

    /// Whether another process than this one keeps this entry, which this one wrote in the version `told`.
    fn is_of_another(&self, instance: u64, told: u64) -> bool {
        let after = told > 0 && self.version > told;
        after && self.entry.instance != instance && self.is_alive()
    }

    /// How long it has given none.
    pub(crate) fn silent_for(&self) -> Duration {
        self.changed.elapsed()
    }

    /// Host and port for a client that speaks TLS, or does not.
    pub(crate) fn address(&self, over_tls: bool) -> Option<(&str, u16)> {
        let NodeEntry { redis, redis_tls, .. } = &self.entry;
        let addr = if over_tls { redis_tls.as_ref().or(redis.as_ref()) } else { redis.as_ref() };
        split(addr.or(redis_tls.as_ref())?)
    }

    /// 40 hexadecimal digits, as clients of Redis Cluster expect to name a node.
    pub(crate) fn id(&self) -> String {
        node_id(&self.name)
    }
}

/// See [`Member::id`].
pub(crate) fn node_id(name: &str) -> String {
    use sha2::{Digest, Sha256};
    Sha256::digest(name.as_bytes()).iter().take(20).map(|byte| format!("{byte:02x}")).collect()
}

/// Host and port; an IPv6 address without its brackets.
pub(crate) fn split(addr: &str) -> Option<(&str, u16)> {
    let (host, port) = addr.rsplit_once(':')?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    // It goes into replies as it is.
    let is_plain = !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_graphic());
    Some((host, port.parse().ok()?)).filter(|_| is_plain)
}

impl View {
    /// The shard's owner.
    pub(crate) fn owner(&self) -> Option<&Member> {
        let (shard, _) = self.shard.as_ref()?;
        self.members.iter().find(|member| member.name == shard.node)
    }

    /// The epoch in which it took the shard; 0: nobody has yet.
    pub(crate) fn epoch(&self) -> u64 {
        self.shard.as_ref().map_or(0, |(shard, _)| shard.epoch)
    }

    /// The owner first, then the others that give signs of life.
    pub(crate) fn serving(&self) -> Vec<&Member> {
        let owner = self.owner();
        let is_owner = |member: &Member| owner.is_some_and(|owner| owner.name == member.name);
        let others = self.members.iter().filter(|one| !is_owner(one) && one.is_alive());
        owner.into_iter().chain(others).collect()
    }

    /// Takes in what a copy of the entries says; it may be older than what is known.
    fn learn(&mut self, entries: Vec<Entry>, now: Instant) {
        let mut known: BTreeMap<String, Member> =
            std::mem::take(&mut self.members).into_iter().map(|m| (m.name.clone(), m)).collect();
        for Entry { key, version, value } in entries {
            if key == SHARD_KEY {
                let is_newer = self.shard.as_ref().is_none_or(|(_, seen)| *seen < version);
                if is_newer && let Ok(shard) = serde_json::from_slice(&value) {
                    self.shard = Some((shard, version));
                }
            } else if let Some(name) = key.strip_prefix(NODE_PREFIX)
                && known.get(name).is_none_or(|member| member.version < version)
                && let Ok(entry) = serde_json::from_slice(&value)
                && (known.len() < MEMBERS_MAX || known.contains_key(name))
            {
                let member = Member { name: name.to_owned(), entry, version, changed: now };
                known.insert(name.to_owned(), member);
            }
        }
        self.members = known.into_values().collect();
    }
}

/// See the module's head.
pub(crate) struct Members {
    pub name: String,
    entries: Entries,
    instance: u64,
    addresses: [Option<String>; 3],
    view: RwLock<Arc<View>>,
    role: Mutex<Role>,
    /// Epoch of this node's session while it owns the shard; 0: it does not.
    epoch: AtomicU64,
    applied: AtomicU64,
    flushed: AtomicU64,
    digests: Mutex<Vec<Told>>,
    lease_held: AtomicBool,
    log_takes_writes: AtomicBool,
    /// Version of this process' own entry as it wrote it last; 0: it has not yet.
    told: AtomicU64,
    /// The last such epoch that stands in the shard's entry.
    claimed: AtomicU64,
    changed: AtomicBool,
    thread: Mutex<Option<Thread>>,
}

impl Members {
    pub(crate) fn new(
        config: &Config,
        entries: Entries,
        addresses: Addresses,
        instance: u64,
    ) -> Members {
        let told = |announced: &str, bound: Option<SocketAddr>| {
            let bound = || bound.map(|addr| reachable(addr, &config.log_servers).to_string());
            if announced.is_empty() { bound() } else { Some(announced.to_owned()) }
        };
        Members {
            name: config.node_name.clone(),
            entries,
            instance,
            addresses: [
                told(&config.redis_announce, addresses.redis),
                told(&config.redis_tls_announce, addresses.redis_tls),
                told("", addresses.http.or(addresses.http_tls)),
            ],
            view: RwLock::default(),
            role: Mutex::new(Role::Starting),
            epoch: AtomicU64::new(0),
            applied: AtomicU64::new(0),
            flushed: AtomicU64::new(0),
            digests: Mutex::default(),
            lease_held: AtomicBool::new(false),
            log_takes_writes: AtomicBool::new(false),
            told: AtomicU64::new(0),
            claimed: AtomicU64::new(0),
            changed: AtomicBool::new(true),
            thread: Mutex::new(None),
        }
    }

    /// What is known now.
    pub(crate) fn view(&self) -> Arc<View> {
        self.view.read().clone()
    }

    /// Where a client that came here for data is to go: another node's host and port.
    pub(crate) fn elsewhere(&self, over_tls: bool) -> Option<(String, u16)> {
        let view = self.view();
        let owner = view.owner().filter(|owner| owner.name != self.name)?;
        owner.address(over_tls).map(|(host, port)| (host.to_owned(), port))
    }

    /// Where connections without TLS are passed on to.
    pub(crate) fn passes_on_to(&self) -> Option<String> {
        let view = self.view();
        let owner = view.owner().filter(|owner| owner.name != self.name)?;
        owner.entry.redis.clone().filter(|addr| split(addr).is_some())
    }

    /// This node follows the log, and is so far.
    pub(crate) fn note_standing_by(&self, applied: Lsn) {
        self.applied.store(applied.0, Ordering::Relaxed);
        self.note_role(Role::StandingBy);
    }

    /// This node has taken the shard in this epoch. Clients are sent here from now on, before the entry says so.
    pub(crate) fn note_taking_over(&self, epoch: u64) {
        self.epoch.store(epoch, Ordering::Release);
        let mut view = self.view.write();
        let version = view.shard.as_ref().map_or(0, |(_, version)| *version);
        let shard = ShardEntry { epoch, node: self.name.clone() };
        Arc::make_mut(&mut *view).shard = Some((shard, version));
        drop(view);
        self.note_role(Role::TakingOver);
    }

    /// Whether another node stands by that lives.
    pub(crate) fn has_successor(&self) -> bool {
        let stands_by = |member: &Member| {
            let Member { name, entry, .. } = member;
            *name != self.name && entry.role == Role::StandingBy && member.is_alive()
        };
        self.view().members.iter().any(stands_by)
    }

    /// Whether this node is about to serve.
    pub(crate) fn is_taking_over(&self) -> bool {
        *self.role.lock() == Role::TakingOver
    }

    /// This node owns the shard since this epoch.
    pub(crate) fn note_owner(&self, epoch: u64) {
        self.epoch.store(epoch, Ordering::Release);
        self.note_role(Role::Owner);
    }

    /// This node has given the shard up, or is about to.
    pub(crate) fn note_stopping(&self) {
        self.epoch.store(0, Ordering::Release);
        self.note_role(Role::Stopping);
    }

    fn note_role(&self, role: Role) {
        if std::mem::replace(&mut *self.role.lock(), role) != role {
            self.changed.store(true, Ordering::Release);
            self.thread.lock().iter().for_each(Thread::unpark);
        }
    }

    /// All of it, for people and programs.
    pub(crate) fn status(&self) -> serde_json::Value {
        let view = self.view();
        let owner = view.owner();
        let nodes = view.members.iter().map(|member| {
            let owns = owner.is_some_and(|owner| owner.name == member.name);
            let NodeEntry { version, role, redis, redis_tls, http, applied, .. } = &member.entry;
            let NodeEntry { flushed, lease_held, log_takes_writes, .. } = &member.entry;
            serde_json::json!({
                "name": member.name, "role": role, "owns": owns, "alive": member.is_alive(),
                "silent_ms": member.silent_for().as_millis() as u64, "applied": applied, "flushed": flushed,
                "lease_held": lease_held, "log_takes_writes": log_takes_writes,
                "redis": redis, "redis_tls": redis_tls, "http": http, "version": version,
            })
        });
        serde_json::json!({
            "node": self.name,
            "shards": [{
                "shard": 0, "epoch": view.epoch(), "owner": owner.map(|owner| &owner.name),
            }],
            "nodes": nodes.collect::<Vec<_>>(),
        })
    }

    fn own_entry(&self) -> NodeEntry {
        let [redis, redis_tls, http] = self.addresses.clone();
        NodeEntry {
            instance: self.instance,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            role: *self.role.lock(),
            redis,
            redis_tls,
            http,
            applied: self.applied.load(Ordering::Relaxed),
            flushed: self.flushed.load(Ordering::Relaxed),
            digests: self.digests.lock().clone(),
            lease_held: self.lease_held.load(Ordering::Relaxed),
            log_takes_writes: self.log_takes_writes.load(Ordering::Relaxed),
        }
    }

    /// Looks at the entries of all.
    fn look(&self) -> Result<(), LogError> {
        let entries = self.entries.all()?;
        Arc::make_mut(&mut *self.view.write()).learn(entries, Instant::now());
        Ok(())
    }

    /// Gives a sign of life. False: another process that lives has this node's name.
    fn tell(&self) -> Result<bool, LogError> {
        let view = self.view();
        let own = view.members.iter().find(|member| member.name == self.name);
        let told = self.told.load(Ordering::Relaxed);
        if own.is_some_and(|member| member.is_of_another(self.instance, told)) {
            return Ok(false);
        }
        let value = serde_json::to_vec(&self.own_entry()).unwrap_or_default();
        if value.len() > ENTRY_BYTES_MAX {
            return Err(LogError::Invalid("the addresses to announce are too long".to_owned()));
        }
        let version = own.map_or(0, |member| member.version);
        let key = format!("{NODE_PREFIX}{}", self.name);
        let value = Bytes::from(value);
        if let Some(version) = self.entries.put(&key, value.clone(), version)? {
            self.told.store(version, Ordering::Relaxed);
            let own = vec![Entry { key, version, value }];
            Arc::make_mut(&mut *self.view.write()).learn(own, Instant::now());
            return Ok(true);
        }
        // Somebody was faster, or the bucket was made anew and counts from the beginning.
        let entries = self.entries.all()?;
        let mut view = self.view.write();
        let stands = entries.iter().find(|entry| entry.key == key).map_or(0, |entry| entry.version);
        if stands < version {
            *view = Arc::default();
        }
        Arc::make_mut(&mut *view).learn(entries, Instant::now());
        self.changed.store(true, Ordering::Release);
        Ok(true)
    }

    /// Writes down that this node owns the shard, unless somebody has taken it since.
    fn claim(&self) -> Result<(), LogError> {
        let epoch = self.epoch.load(Ordering::Acquire);
        let view = self.view();
        let (known, version) = match &view.shard {
            Some((shard, version)) => (shard.epoch, *version),
            None => (0, 0),
        };
        if epoch == 0 || known > epoch || self.claimed.load(Ordering::Relaxed) == epoch {
            return Ok(());
        }
        let entry = ShardEntry { epoch, node: self.name.clone() };
        let value = serde_json::to_vec(&entry).unwrap_or_default();
        if self.entries.put(SHARD_KEY, value.into(), version)?.is_some() {
            self.claimed.store(epoch, Ordering::Relaxed);
        }
        // If it was refused, this shows by whom.
        self.look()
    }
}

/// An address that others can use: if this node listens everywhere, the one that leads to the log servers.
fn reachable(bound: SocketAddr, servers: &[String]) -> SocketAddr {
    if !bound.ip().is_unspecified() {
        return bound;
    }
    let own_ip = |server: &String| -> Option<IpAddr> {
        let host = server.rsplit_once("//").map_or(server.as_str(), |(_, host)| host);
        let socket = UdpSocket::bind((bound.ip(), 0)).ok()?;
        // Nothing is sent: the system only chooses its way.
        socket.connect(host).ok()?;
        socket.local_addr().ok().map(|addr| addr.ip())
    };
    let ip = servers.iter().find_map(own_ip).unwrap_or(bound.ip());
    SocketAddr::new(ip, bound.port())
}

/// The loop of the thread that tells and looks.
pub(crate) fn run(startup: &Startup, members: &Members) {
    *members.thread.lock() = Some(std::thread::current());
    let (mut is_made, mut is_well, mut told) = (false, false, None::<Instant>);
    let mut complained: Option<Instant> = None;
    while !startup.is_over() {
        if let Some(node) = startup.node() {
            let stats = node.shard.stats();
            members.applied.store(stats.durable_lsn.0, Ordering::Relaxed);
            let told = node.digests.told();
            if std::mem::replace(&mut *members.digests.lock(), told.clone()) != told {
                members.changed.store(true, Ordering::Release);
            }
            members.flushed.store(node.flushed_seen().0, Ordering::Relaxed);
            members.lease_held.store(node.holds_lease(), Ordering::Relaxed);
            members.log_takes_writes.store(!stats.failed, Ordering::Relaxed);
        }
        let mut turn = || -> Result<bool, LogError> {
            if !is_made {
                members.entries.make()?;
                is_made = true;
            }
            members.look()?;
            let is_due = told.is_none_or(|at| at.elapsed() >= TELL_EVERY);
            let is_new = members.changed.swap(false, Ordering::AcqRel);
            if !is_due && !is_new {
                return Ok(true);
            }
            told = Some(Instant::now());
            let alone = members.tell()?;
            members.claim()?;
            Ok(alone)
        };
        let problem = match turn() {
            Ok(true) => None,
            Ok(false) => Some(format!(
                "another process has the name {}: give each node a node.name of its own",
                members.name
            )),
            Err(error) => {
                members.changed.store(true, Ordering::Release);
                is_made = false;
                Some(error.to_string())
            }
        };
        startup.metrics.members_fail.store(problem.is_some(), Ordering::Relaxed);
        if let Some(problem) = &problem
            && complained.is_none_or(|at| at.elapsed() > COMPLAIN_EVERY)
        {
            complained = Some(Instant::now());
            tracing::warn!(problem, "the cluster's entries are not up to date");
        }
        is_well = problem.is_none();
        // The others know by now what this node knows of its rows.
        if let Some(node) = startup.node().filter(|_| is_well) {
            digests::compare(node, members);
        }
        std::thread::park_timeout(LOOK_EVERY);
    }
    // The last word, unless nobody would hear it.
    if is_well && let Err(error) = members.tell() {
        tracing::info!(%error, "the other nodes are not told that this one stops");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, version: u64, role: Role) -> Entry {
        let entry = NodeEntry {
            instance: 1,
            version: String::new(),
            role,
            redis: Some(format!("[::1]:{version}")),
            redis_tls: None,
            http: None,
            applied: version,
            flushed: 0,
            digests: Vec::new(),
            lease_held: false,
            log_takes_writes: false,
        };
        let value = serde_json::to_vec(&entry).map(Into::into).unwrap_or_default();
        Entry { key: format!("{NODE_PREFIX}{name}"), version, value }
    }

    fn shard(epoch: u64, node: &str, version: u64) -> Entry {
        let entry = ShardEntry { epoch, node: node.to_owned() };
        let value = serde_json::to_vec(&entry).map(Into::into).unwrap_or_default();
        Entry { key: SHARD_KEY.to_owned(), version, value }
    }

    #[test]
    fn an_older_copy_of_the_entries_changes_nothing() {
        let mut view = View::default();
        let now = Instant::now();
        let newer =
            vec![node("a", 5, Role::Owner), node("b", 6, Role::StandingBy), shard(3, "a", 7)];
        view.learn(newer, now);
        let older =
            vec![node("a", 2, Role::StandingBy), node("c", 3, Role::Starting), shard(2, "b", 4)];
        view.learn(older, now);
        assert_eq!((view.epoch(), view.owner().map(|owner| owner.name.as_str())), (3, Some("a")));
        assert_eq!(view.owner().and_then(|owner| owner.address(false)), Some(("::1", 5)));
        let names: Vec<_> = view.serving().iter().map(|member| member.name.clone()).collect();
        assert_eq!(names, ["a", "b", "c"]);
    }

    #[test]
    fn who_is_silent_is_not_offered_to_clients_unless_it_owns_the_shard() {
        let mut view = View::default();
        let Some(long_ago) = Instant::now().checked_sub(2 * SILENCE) else { return };
        view.learn(
            vec![node("a", 1, Role::Owner), node("b", 2, Role::StandingBy), shard(1, "a", 3)],
            long_ago,
        );
        let names: Vec<_> = view.serving().iter().map(|member| member.name.clone()).collect();
        assert_eq!(names, ["a"]);
    }

    #[test]
    fn two_processes_of_one_name_are_told_apart() {
        let now = Instant::now();
        let long_ago = now.checked_sub(2 * SILENCE).unwrap_or(now);
        let seen = |version, at| {
            let mut view = View::default();
            view.learn(vec![node("a", version, Role::Owner)], at);
            view.members.remove(0)
        };
        assert!(seen(5, now).is_of_another(2, 4), "it has written since");
        assert!(!seen(5, now).is_of_another(1, 4), "that was this process");
        assert!(
            !seen(5, now).is_of_another(2, 0),
            "this one has just started: the other was before it"
        );
        assert!(!seen(5, now).is_of_another(2, 6), "an older copy answered");
        if long_ago < now {
            assert!(!seen(5, long_ago).is_of_another(2, 4), "it is gone");
        }
    }

    #[test]
    fn hostile_entries_are_passed_over() {
        let mut view = View::default();
        let bad = |key: &str, value: &'static [u8]| Entry {
            key: key.to_owned(),
            version: 1,
            value: value.into(),
        };
        view.learn(
            vec![bad("node.x", b"{"), bad(SHARD_KEY, b"\xff"), bad("other", b"1")],
            Instant::now(),
        );
        assert!(view.members.is_empty() && view.owner().is_none());
        for addr in ["", ":1", "host", "host:", "host:70000", "host:x", "a\r\n+OK:1", "a b:1"] {
            assert_eq!(split(addr), None, "{addr:?}");
        }
        assert_eq!(split("[fe80::1]:6379"), Some(("fe80::1", 6379)));
    }
}
