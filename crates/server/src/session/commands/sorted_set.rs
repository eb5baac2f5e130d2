//! Commands on sorted sets.

use std::ops::Bound;

use holdfast_protocol::{
    number::{parse_f64, parse_i64},
    resp::Protocol,
};
use holdfast_shard::{
    OpError,
    ops::sorted_set::{self, AddCondition, Scored, Selection},
};

use super::super::{
    Call, Command, CommandError, Outcome, Run,
    command::{COMMAND, ONE_KEY},
    errors::SYNTAX,
};
use super::keys::{ScanOptions, parse_cursor, refuse_scan};

const READ: Command = Command {
    group: "sorted-set",
    key_spec: ONE_KEY,
    since: "1.2.0",
    flags: &["readonly"],
    complexity: "O(log(N)) with N being the number of elements in the sorted set.",
    ..COMMAND
};
const FAST: Command = Command { flags: &["readonly", "fast"], ..READ };
const WRITE: Command = Command { flags: &["write", "denyoom", "fast"], ..READ };
const REMOVE: Command = Command { flags: &["write"], ..READ };
const RANGE_COST: &str = "O(log(N)+M) with N being the number of elements in the sorted set and M \
                          the number of elements returned.";

pub(crate) const COMMANDS: &[Command] = &[
    Command {
        name: "zadd",
        arity: -4,
        run: Run::Write(add),
        summary: "Adds one or more members to a sorted set, or updates their scores. Creates the \
                  key if it doesn't exist.",
        ..WRITE
    },
    Command {
        name: "zincrby",
        arity: 4,
        run: Run::Write(increment_by),
        summary: "Increments the score of a member in a sorted set.",
        ..WRITE
    },
    Command {
        name: "zrem",
        arity: -3,
        run: Run::Write(|call| {
            let removed = sorted_set::remove(call.txn, &call.keys[0], &call.rest(2))?;
            call.out.integer(removed as i64);
            Ok(())
        }),
        flags: &["write", "fast"],
        summary: "Removes one or more members from a sorted set. Deletes the sorted set if all \
                  members were removed.",
        ..WRITE
    },
    Command {
        name: "zscore",
        arity: 3,
        run: Run::Read(|call| {
            let score = sorted_set::score(call.txn, &call.keys[0], call.arg(2))?;
            write_score(call, score);
            Ok(())
        }),
        complexity: "O(1)",
        summary: "Returns the score of a member in a sorted set.",
        ..FAST
    },
    Command {
        name: "zmscore",
        arity: -3,
        run: Run::Read(|call| {
            let scores = sorted_set::scores(call.txn, &call.keys[0], &call.rest(2))?;
            call.out.array(scores.len());
            scores.into_iter().for_each(|score| write_score(call, score));
            Ok(())
        }),
        since: "6.2.0",
        complexity: "O(N) where N is the number of members being requested.",
        summary: "Returns the score of one or more members in a sorted set.",
        ..FAST
    },
    Command {
        name: "zcard",
        arity: 2,
        run: Run::Read(|call| {
            let count = sorted_set::cardinality(call.txn, &call.keys[0])?;
            call.out.integer(count as i64);
            Ok(())
        }),
        complexity: "O(1)",
        summary: "Returns the number of members in a sorted set.",
        ..FAST
    },
    Command {
        name: "zcount",
        arity: 4,
        run: Run::Read(|call| {
            let selection = scores(call.arg(2), call.arg(3))?;
            let count = sorted_set::count(call.txn, &call.keys[0], &selection)?;
            call.out.integer(count as i64);
            Ok(())
        }),
        since: "2.0.0",
        summary: "Returns the count of members in a sorted set that have scores within a range.",
        ..FAST
    },
    Command {
        name: "zrank",
        arity: 3,
        run: Run::Read(|call| rank(call, false)),
        since: "2.0.0",
        summary: "Returns the index of a member in a sorted set ordered by ascending scores.",
        ..FAST
    },
    Command {
        name: "zrevrank",
        arity: 3,
        run: Run::Read(|call| rank(call, true)),
        since: "2.0.0",
        summary: "Returns the index of a member in a sorted set ordered by descending scores.",
        ..FAST
    },
    Command {
        name: "zrange",
        arity: -4,
        run: Run::Read(|call| range(call, RangeForm { any: true, ..RangeForm::default() })),
        complexity: RANGE_COST,
        summary: "Returns members in a sorted set within a range of indexes.",
        ..READ
    },
    Command {
        name: "zrevrange",
        arity: -4,
        run: Run::Read(|call| range(call, RangeForm { reverse: true, ..RangeForm::default() })),
        complexity: RANGE_COST,
        summary: "Returns members in a sorted set within a range of indexes in reverse order.",
        ..READ
    },
    Command {
        name: "zrangebyscore",
        arity: -4,
        run: Run::Read(|call| {
            range(call, RangeForm { by: By::Score, limit: true, ..RangeForm::default() })
        }),
        since: "1.0.5",
        complexity: RANGE_COST,
        summary: "Returns members in a sorted set within a range of scores.",
        ..READ
    },
    Command {
        name: "zrevrangebyscore",
        arity: -4,
        run: Run::Read(|call| {
            let form = RangeForm { by: By::Score, reverse: true, limit: true, any: false };
            range(call, form)
        }),
        since: "2.2.0",
        complexity: RANGE_COST,
        summary: "Returns members in a sorted set within a range of scores in reverse order.",
        ..READ
    },
    Command {
        name: "zremrangebyscore",
        arity: 4,
        run: Run::Write(|call| {
            let selection = scores(call.arg(2), call.arg(3))?;
            remove_range(call, &selection)
        }),
        complexity: RANGE_COST,
        summary: "Removes members in a sorted set within a range of scores. Deletes the sorted \
                  set if all members were removed.",
        ..REMOVE
    },
    Command {
        name: "zremrangebyrank",
        arity: 4,
        run: Run::Write(|call| {
            let selection = Selection::Indexes(call.integer(2)?, call.integer(3)?);
            remove_range(call, &selection)
        }),
        since: "2.0.0",
        complexity: RANGE_COST,
        summary: "Removes members in a sorted set within a range of indexes. Deletes the sorted \
                  set if all members were removed.",
        ..REMOVE
    },
    Command {
        name: "zpopmin",
        arity: -2,
        run: Run::Write(|call| pop(call, false)),
        since: "5.0.0",
        flags: &["write", "fast"],
        summary: "Returns the lowest-scoring members from a sorted set after removing them. \
                  Deletes the sorted set if the last member was popped.",
        ..REMOVE
    },
    Command {
        name: "zpopmax",
        arity: -2,
        run: Run::Write(|call| pop(call, true)),
        since: "5.0.0",
        flags: &["write", "fast"],
        summary: "Returns the highest-scoring members from a sorted set after removing them. \
                  Deletes the sorted set if the last member was popped.",
        ..REMOVE
    },
    Command {
        name: "zscan",
        arity: -3,
        run: Run::Read(scan),
        since: "2.8.0",
        complexity: "O(1) for every call. O(N) for a complete iteration.",
        summary: "Iterates over members and scores of a sorted set.",
        ..READ
    },
];

fn write_score(call: &mut Call<'_, '_, '_>, score: Option<f64>) {
    match score {
        Some(score) => call.out.double(score),
        None => call.out.null(),
    }
}

fn float(text: &[u8]) -> Result<f64, CommandError> {
    parse_f64(text).ok_or(CommandError::Op(OpError::NotFloat))
}

fn add(call: &mut Call<'_, '_, '_>) -> Outcome {
    let mut condition = AddCondition::default();
    let (mut changed, mut incremented) = (false, false);
    let mut at = 2;
    while let Some(word) = call.args.get(at) {
        match word.to_ascii_lowercase().as_slice() {
            b"nx" => condition.absent = true,
            b"xx" => condition.present = true,
            b"gt" => condition.greater = true,
            b"lt" => condition.less = true,
            b"ch" => changed = true,
            b"incr" => incremented = true,
            _ => break,
        }
        at += 1;
    }
    let rest = call.rest(at);
    if rest.is_empty() || !rest.len().is_multiple_of(2) {
        return Err(SYNTAX);
    }
    if condition.absent && condition.present {
        let text = "ERR XX and NX options at the same time are not compatible";
        return Err(CommandError::text(text));
    }
    if condition.greater && (condition.absent || condition.less)
        || condition.less && condition.absent
    {
        let text = "ERR GT, LT, and/or NX options at the same time are not compatible";
        return Err(CommandError::text(text));
    }
    if incremented && rest.len() > 2 {
        let text = "ERR INCR option supports a single increment-element pair";
        return Err(CommandError::text(text));
    }
    let pairs = rest.as_chunks::<2>().0.iter().map(|[score, member]| Ok((float(score)?, *member)));
    let pairs: Vec<_> = pairs.collect::<Result<_, CommandError>>()?;
    let key = &call.keys[0];
    if let (true, [(by, member)]) = (incremented, pairs.as_slice()) {
        let score = sorted_set::increment(call.txn, key, member, *by, condition)?;
        write_score(call, score);
        return Ok(());
    }
    let done = sorted_set::add(call.txn, key, &pairs, condition)?;
    let count = if changed { done.added + done.updated } else { done.added };
    call.out.integer(count as i64);
    Ok(())
}

fn increment_by(call: &mut Call<'_, '_, '_>) -> Outcome {
    let by = float(call.arg(2))?;
    let condition = AddCondition::default();
    let score = sorted_set::increment(call.txn, &call.keys[0], call.arg(3), by, condition)?;
    write_score(call, score);
    Ok(())
}

fn rank(call: &mut Call<'_, '_, '_>, reverse: bool) -> Outcome {
    match sorted_set::rank(call.txn, &call.keys[0], call.arg(2), reverse)? {
        Some((rank, _)) => call.out.integer(rank as i64),
        None => call.out.null(),
    }
    Ok(())
}

fn remove_range(call: &mut Call<'_, '_, '_>, selection: &Selection<'_>) -> Outcome {
    let removed = sorted_set::remove_range(call.txn, &call.keys[0], selection)?;
    call.out.integer(removed as i64);
    Ok(())
}

fn score_bound(text: &[u8]) -> Result<Bound<f64>, CommandError> {
    let not_float = CommandError::text("ERR min or max is not a float");
    match text.strip_prefix(b"(") {
        Some(rest) => parse_f64(rest).map(Bound::Excluded),
        None => parse_f64(text).map(Bound::Included),
    }
    .ok_or(not_float)
}

fn scores(min: &[u8], max: &[u8]) -> Result<Selection<'static>, CommandError> {
    Ok(Selection::Scores(score_bound(min)?, score_bound(max)?))
}

/// `None`: the bound lies beyond every member on the wrong side, so nothing is selected.
fn member_bound(text: &[u8], lower: bool) -> Result<Option<Bound<&[u8]>>, CommandError> {
    match text {
        [b'[', member @ ..] => Ok(Some(Bound::Included(member))),
        [b'(', member @ ..] => Ok(Some(Bound::Excluded(member))),
        [b'-'] => Ok(lower.then_some(Bound::Unbounded)),
        [b'+'] => Ok((!lower).then_some(Bound::Unbounded)),
        _ => Err(CommandError::text("ERR min or max not valid string range item")),
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Default)]
enum By {
    #[default]
    Index,
    Score,
    Member,
}

/// What a command of the range family allows.
#[derive(Clone, Copy, Default)]
struct RangeForm {
    by: By,
    reverse: bool,
    /// LIMIT may be given.
    limit: bool,
    /// All options of the newer ZRANGE.
    any: bool,
}

fn range(call: &mut Call<'_, '_, '_>, form: RangeForm) -> Outcome {
    let RangeForm { mut by, mut reverse, limit, any } = form;
    let (mut with_scores, mut window) = (false, None);
    let mut at = 4;
    while let Some(word) = call.args.get(at) {
        match word.to_ascii_lowercase().as_slice() {
            b"withscores" => with_scores = true,
            b"limit" if (limit || any) && call.args.len() > at + 2 => {
                window = Some((call.integer(at + 1)?, call.integer(at + 2)?));
                at += 2;
            }
            // Each at most once, as in Redis.
            b"rev" if any && !reverse => reverse = true,
            b"byscore" if any && by == By::Index => by = By::Score,
            b"bylex" if any && by == By::Index => by = By::Member,
            _ => return Err(SYNTAX),
        }
        at += 1;
    }
    if by == By::Index && window.is_some_and(|(_, count)| count != -1) {
        let text = "ERR syntax error, LIMIT is only supported in combination with either BYSCORE \
                    or BYLEX";
        return Err(CommandError::text(text));
    }
    if with_scores && by == By::Member {
        let text = "ERR syntax error, WITHSCORES not supported in combination with BYLEX";
        return Err(CommandError::text(text));
    }
    let (first, second) = (call.arg(2), call.arg(3));
    // Bounds are given in the order of the reply, so the first is the upper one in reverse.
    let (low, high) = if reverse { (second, first) } else { (first, second) };
    let selection = match by {
        By::Index => Some(Selection::Indexes(call.integer(2)?, call.integer(3)?)),
        By::Score => Some(scores(low, high)?),
        By::Member => match (member_bound(low, true)?, member_bound(high, false)?) {
            (Some(low), Some(high)) => Some(Selection::Members(low, high)),
            _ => None,
        },
    };
    // LIMIT without a count is taken by rank too, as in Redis, and means nothing there.
    let (offset, count) = window.filter(|_| by != By::Index).unwrap_or((0, -1));
    let count = u64::try_from(count).unwrap_or(u64::MAX);
    let found = match (selection, u64::try_from(offset)) {
        (Some(selection), Ok(offset)) => {
            sorted_set::range(call.txn, &call.keys[0], &selection, reverse, (offset, count))?
        }
        // Nothing can be selected, but a key of another type is still refused.
        _ => {
            sorted_set::cardinality(call.txn, &call.keys[0])?;
            Vec::new()
        }
    };
    write_members(call, &found, with_scores);
    Ok(())
}

/// Members, with scores as pairs (RESP3) or one behind the other (RESP2).
fn write_members(call: &mut Call<'_, '_, '_>, found: &[Scored], with_scores: bool) {
    let pairs = with_scores && call.out.protocol() == Protocol::Resp3;
    let flat = with_scores && !pairs;
    call.out.array(if flat { 2 * found.len() } else { found.len() });
    for Scored { member, score } in found {
        if pairs {
            call.out.array(2);
        }
        call.out.bulk(member);
        if with_scores {
            call.out.double(*score);
        }
    }
}

fn pop(call: &mut Call<'_, '_, '_>, highest: bool) -> Outcome {
    let count = match (call.args.get(2), call.args.len()) {
        (None, _) => None,
        (Some(text), 3) => {
            let positive = CommandError::text("ERR value is out of range, must be positive");
            let count = parse_i64(text).and_then(|count| u64::try_from(count).ok());
            Some(count.ok_or(positive)?)
        }
        _ => return Err(SYNTAX),
    };
    let popped = sorted_set::pop(call.txn, &call.keys[0], highest, count.unwrap_or(1))?;
    if let (None, [only]) = (count, popped.as_slice()) {
        call.out.array(2);
        call.out.bulk(&only.member);
        call.out.double(only.score);
    } else {
        write_members(call, &popped, true);
    }
    Ok(())
}

fn scan(call: &mut Call<'_, '_, '_>) -> Outcome {
    let cursor = parse_cursor(call.arg(2))?;
    let options = match ScanOptions::parse(call.args, 3, false) {
        Ok(options) => options,
        Err(refusal) => {
            let count = sorted_set::cardinality(call.txn, &call.keys[0])?;
            return refuse_scan(call, count, refusal);
        }
    };
    let step = sorted_set::scan(call.txn, &call.keys[0], cursor, options.count)?;
    let wanted: Vec<_> =
        step.members.iter().filter(|scored| options.wants(&scored.member)).collect();
    call.out.array(2);
    call.out.bulk(step.cursor.to_string().as_bytes());
    call.out.array(2 * wanted.len());
    for Scored { member, score } in wanted {
        let mut text = Vec::with_capacity(24);
        holdfast_protocol::number::write_double_17g(&mut text, *score);
        call.out.bulk(member);
        call.out.bulk(&text);
    }
    Ok(())
}
