//! Compares what both servers hold: the keys by SCAN, and of each type, deadline and content.

use std::collections::BTreeSet;

use crate::{
    compare::{self, Slack},
    connection::Connection,
    play::Difference,
    request::{Request, elements, text},
    servers::Pair,
};

/// The first difference between the contents of the first databases.
pub fn difference(pair: &Pair, databases: usize, slack: Slack) -> Option<Difference> {
    let mut redis = Connection::open(pair.redis.address);
    let mut ours = Connection::open(pair.ours.address);
    for database in 0..databases {
        let select = Request::new("select").arg(database.to_string());
        redis.ask(select.clone());
        ours.ask(select);
        let keys = (all(&mut redis, "scan", None, 1_000), all(&mut ours, "scan", None, 3));
        if keys.0 != keys.1 {
            let shown = |keys: &BTreeSet<Vec<u8>>| format!("{keys:?}").into_bytes();
            return Some(Difference {
                request: Request::of("(all keys by scan)"),
                redis: shown(&keys.0),
                ours: shown(&keys.1),
            });
        }
        for key in &keys.0 {
            let found = key_difference(&mut redis, &mut ours, key, slack);
            if found.is_some() {
                return found;
            }
        }
    }
    None
}

fn key_difference(
    redis: &mut Connection,
    ours: &mut Connection,
    key: &[u8],
    slack: Slack,
) -> Option<Difference> {
    let kind = redis.ask(Request::new("type").arg(key));
    let content = match text(&kind) {
        Some(b"string") => Request::new("get").arg(key),
        Some(b"hash") => Request::new("hgetall").arg(key),
        Some(b"set") => Request::new("smembers").arg(key),
        Some(b"list") => Request::new("lrange").arg(key).arg("0").arg("-1"),
        _ => Request::new("zrange").arg(key).arg("0").arg("-1").arg("withscores"),
    };
    let questions = [Request::new("type").arg(key), Request::new("pttl").arg(key), content];
    redis.send(&questions);
    ours.send(&questions);
    let answers = questions.map(|request| {
        let (redis, ours) = (redis.receive(), ours.receive());
        Difference { request, redis, ours }
    });
    answers.into_iter().find(|a| !compare::same(&a.request, &a.redis, &a.ours, slack))
}

/// Everything that a full iteration by SCAN or one of its relatives gives, `count` a step.
/// Elements of HSCAN and ZSCAN come one by one; what is not a step ends up in the result.
pub fn all(
    connection: &mut Connection,
    command: &str,
    key: Option<&[u8]>,
    count: usize,
) -> BTreeSet<Vec<u8>> {
    const STEPS_MAX: usize = 100_000;
    let (mut cursor, mut found) = (b"0".to_vec(), BTreeSet::new());
    for _ in 0..STEPS_MAX {
        let request = Request::new(command).args(key).arg(&cursor).arg("count");
        let reply = connection.ask(request.arg(count.to_string()));
        let step = elements(&reply).unwrap_or_default();
        let (Some(next), Some(members)) = (step.first().and_then(|c| text(c)), step.get(1)) else {
            found.insert(reply);
            return found;
        };
        let members = elements(members).unwrap_or_default();
        found.extend(members.iter().filter_map(|member| text(member)).map(<[u8]>::to_vec));
        if next == b"0" {
            return found;
        }
        cursor = next.to_vec();
    }
    panic!("{command} does not come to an end");
}
