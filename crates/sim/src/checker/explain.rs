//! Turns a contradiction into something to look at: the shortest prefix (by return time) of the
//! partition that fails already, as a history of its own, and a report for a person.
//!
//! Prefixes of a linearizable history are linearizable, so the length is found by bisection. An
//! operation that was on its way at the cut has an unknown outcome in the prefix.

use std::fmt::{self, Display, Write};

use super::partition::{Call, Partition};
use super::wgl::{self, End, Found};
use super::{HistoryOf, Model, Violation};
use crate::history::{History, Operation, Outcome};

/// Operations drawn in a report, those with and those without a return: together a screenful.
const RETURNED_SHOWN_MAX: usize = 18;
const UNKNOWN_SHOWN_MAX: usize = 8;

/// The violation in `partition`, which `found` contradicts as a whole.
pub(super) fn violation<M: Model>(
    model: &M,
    history: &HistoryOf<M>,
    partition: Partition<'_, M>,
    found: Found<M::State>,
    steps_max: u64,
) -> Violation<M> {
    let (calls, found, shortest) = shortest_failing(model, &partition.calls, found, steps_max);
    let mut failing = History::new();
    for call in &calls {
        let Operation { client, invoked, ref input, .. } = history.operations()[call.number];
        let outcome = call.returned.map_or(Outcome::Unknown, |(at, output)| Outcome::Returned {
            at,
            output: output.clone(),
        });
        failing.push(Operation { client, invoked, input: input.clone(), outcome });
    }
    let report = report(&partition, &calls, &failing, &found, shortest);
    Violation { partition: partition.keys, failing, shortest, report }
}

/// The shortest prefix that fails, what was found in it, and whether the budget sufficed to show
/// that none is shorter.
fn shortest_failing<'h, M: Model>(
    model: &M,
    calls: &[Call<'h, M>],
    found: Found<M::State>,
    steps_max: u64,
) -> (Vec<Call<'h, M>>, Found<M::State>, bool) {
    let returns = wgl::by_return(calls);
    // The first `passes` returns can be explained, the first `fails` cannot.
    let (mut passes, mut fails) = (found.explained, returns.len());
    let (mut best, mut best_found) = (calls.to_vec(), found);
    let (mut steps, mut stride) = (0, 1);
    while passes + 1 < fails {
        // Nearly always the very next return fails: gallop from there, then bisect.
        let length = (passes + stride).min(passes + (fails - passes) / 2);
        let prefix = prefix(calls, &returns, length);
        let found = wgl::search(model, &prefix, steps_max.saturating_sub(steps));
        steps += found.steps;
        match found.end {
            End::Explained => (passes, stride) = (length, stride * 2),
            End::Contradiction => (fails, best, best_found) = (length, prefix, found),
            End::OutOfSteps => return (best, best_found, false),
        }
    }
    (best, best_found, true)
}

/// What was known when the first `length` returns had arrived.
fn prefix<'h, M: Model>(
    calls: &[Call<'h, M>],
    returns: &[usize],
    length: usize,
) -> Vec<Call<'h, M>> {
    let mut seen = vec![false; calls.len()];
    let mut end = None;
    for &call in &returns[..length] {
        seen[call] = true;
        end = calls[call].returned.map(|(at, _)| at);
    }
    let invoked = calls.iter().zip(seen).filter(|(call, _)| Some(call.invoked) <= end);
    invoked.map(|(call, seen)| Call { returned: call.returned.filter(|_| seen), ..*call }).collect()
}

fn report<M: Model>(
    partition: &Partition<'_, M>,
    calls: &[Call<'_, M>],
    failing: &HistoryOf<M>,
    found: &Found<M::State>,
    shortest: bool,
) -> String {
    let returns = wgl::by_return(calls);
    let culprit = returns.get(found.explained).copied();
    let mut text = String::from("not linearizable: ");
    match partition.keys.as_slice() {
        [] => text.push_str("operations on every key"),
        keys => text.push_str(&keys.iter().map(M::Key::to_string).collect::<Vec<_>>().join(" ")),
    }
    let total = partition.calls.len();
    let claim = if shortest { "shortest failing" } else { "failing, perhaps not shortest," };
    let (wanted, done) = (returns.len(), found.explained);
    let _ = writeln!(text, "\n{claim} prefix: {} of {total} operations", calls.len());
    let _ = writeln!(text, "every order explains at most {done} of its {wanted} returns");
    if let Some(operation) = culprit.and_then(|c| failing.operations().get(c)) {
        let _ = writeln!(text, "first return without explanation: {}", Line(operation));
    }
    let _ = writeln!(text, "states possible before it, not all: {:?}", found.states);
    draw(&mut text, failing, culprit);
    text
}

/// The operations that were still running last, with a bar from invocation to return.
fn draw<I: Display, O: Display>(
    text: &mut String,
    failing: &History<I, O>,
    culprit: Option<usize>,
) {
    let operations = failing.operations().iter().enumerate();
    let (mut shown, mut unknown): (Vec<_>, Vec<_>) =
        operations.partition(|(_, op)| op.returned().is_some());
    shown.sort_by_key(|(_, op)| op.returned());
    unknown.sort_by_key(|(_, op)| op.invoked);
    shown.drain(..shown.len().saturating_sub(RETURNED_SHOWN_MAX));
    unknown.drain(..unknown.len().saturating_sub(UNKNOWN_SHOWN_MAX));
    shown.append(&mut unknown);
    shown.sort_by_key(|(number, op)| (op.invoked, *number));
    let hidden = failing.len() - shown.len();

    let mut moments: Vec<_> =
        shown.iter().flat_map(|(_, op)| [Some(op.invoked), op.returned()]).flatten().collect();
    moments.sort_unstable();
    moments.dedup();
    let column = |moment| moments.partition_point(|m| *m < moment);
    let _ =
        writeln!(text, "the last {} operations, by invocation ({hidden} not shown):", shown.len());
    for (number, op) in shown {
        let start = column(op.invoked);
        let (end, tip) = op.returned().map_or((moments.len(), '>'), |at| (column(at), '|'));
        let bar = "-".repeat(end.saturating_sub(start + 1));
        let bar = format!("{}|{bar}{tip}", " ".repeat(start));
        let mark = if Some(number) == culprit { '!' } else { ' ' };
        let width = moments.len() + 1;
        let _ = writeln!(text, "{mark} c{:<3} {bar:width$} {}", op.client.0, Line(op));
    }
}

/// An operation in one line.
struct Line<'a, I, O>(&'a Operation<I, O>);

impl<I: Display, O: Display> Display for Line<'_, I, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Operation { invoked, input, outcome, .. } = self.0;
        match outcome {
            Outcome::Returned { at, output } => {
                write!(f, "[{}..{}] {input} -> {output}", invoked.0, at.0)
            }
            Outcome::Refused { at } => write!(f, "[{}..{}] {input} refused", invoked.0, at.0),
            Outcome::Unknown => write!(f, "[{}..] {input} -> unknown", invoked.0),
        }
    }
}
