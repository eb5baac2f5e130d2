//! A recorded history: who asked for what, when, and what came back.
//!
//! Operations are kept with the moments of their invocation and of their return; an operation that
//! never returned has an unknown outcome. The text form has one line per event and loads again, so
//! a failing history can be kept as a regression file. Nothing here judges a history: see `checker`.

use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::str::FromStr;

/// Who issued an operation: one session, which sees its own operations in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(pub u32);

/// A point on the one clock of a history, in any unit that grows.
///
/// Two events at the same moment count as concurrent. A clock that often stands still hides
/// defects: a simulator should use `History::next_moment`, which gives each event its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(pub u64);

/// Names an operation of one history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OpId(usize);

/// What the client learned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome<O> {
    /// The reply arrived.
    Returned {
        /// When it arrived.
        at: Moment,
        /// What it said.
        output: O,
    },
    /// The operation is known to have had no effect, now and for ever (a refusal).
    Refused {
        /// When the refusal arrived.
        at: Moment,
    },
    /// No reply: it may take effect once, at any moment after its invocation, or never.
    Unknown,
}

/// One operation of one client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation<I, O> {
    /// Who asked.
    pub client: ClientId,
    /// When it was sent.
    pub invoked: Moment,
    /// What was asked.
    pub input: I,
    /// What came of it.
    pub outcome: Outcome<O>,
}

impl<I, O> Operation<I, O> {
    /// When the reply arrived, if one did and it was not a refusal.
    pub fn returned(&self) -> Option<Moment> {
        match &self.outcome {
            Outcome::Returned { at, .. } => Some(*at),
            Outcome::Refused { .. } | Outcome::Unknown => None,
        }
    }

    /// The reply, if one arrived and it was not a refusal.
    pub fn output(&self) -> Option<&O> {
        match &self.outcome {
            Outcome::Returned { output, .. } => Some(output),
            Outcome::Refused { .. } | Outcome::Unknown => None,
        }
    }
}

/// All operations of one run, in the order in which they were recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct History<I, O> {
    operations: Vec<Operation<I, O>>,
    last: Option<Moment>,
}

impl<I, O> Default for History<I, O> {
    fn default() -> Self {
        History { operations: Vec::new(), last: None }
    }
}

impl<I, O> History<I, O> {
    /// A history without operations.
    pub fn new() -> Self {
        Self::default()
    }

    /// A moment after every event recorded so far.
    pub fn next_moment(&self) -> Moment {
        self.last.map_or(Moment(0), |last| Moment(last.0 + 1))
    }

    /// Records that `client` sends `input`. Its outcome is unknown until told otherwise.
    pub fn invoke(&mut self, client: ClientId, at: Moment, input: I) -> OpId {
        self.last = self.last.max(Some(at));
        self.operations.push(Operation { client, invoked: at, input, outcome: Outcome::Unknown });
        OpId(self.operations.len() - 1)
    }

    /// Records the reply to `op`, however late it comes.
    ///
    /// # Panics
    /// When `op` has an outcome already, was invoked after `at`, or is of another history.
    pub fn complete(&mut self, op: OpId, at: Moment, output: O) {
        self.settle(op, at, Outcome::Returned { at, output });
    }

    /// Records that `op` certainly had and will have no effect.
    ///
    /// # Panics
    /// As `complete`.
    pub fn refuse(&mut self, op: OpId, at: Moment) {
        self.settle(op, at, Outcome::Refused { at });
    }

    fn settle(&mut self, op: OpId, at: Moment, outcome: Outcome<O>) {
        let operation = self.operations.get_mut(op.0).expect("op was given out by this history");
        assert!(matches!(operation.outcome, Outcome::Unknown), "operation {} ended twice", op.0);
        assert!(operation.invoked <= at, "operation {} returned before it was sent", op.0);
        operation.outcome = outcome;
        self.last = self.last.max(Some(at));
    }

    /// All operations, by the order of `invoke`.
    pub fn operations(&self) -> &[Operation<I, O>] {
        &self.operations
    }

    /// The number of operations.
    pub fn len(&self) -> usize {
        self.operations.len()
    }

    /// Whether nothing was recorded.
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    pub(crate) fn push(&mut self, operation: Operation<I, O>) {
        let end = match &operation.outcome {
            Outcome::Returned { at, .. } | Outcome::Refused { at } => *at,
            Outcome::Unknown => operation.invoked,
        };
        self.last = self.last.max(Some(end)).max(Some(operation.invoked));
        self.operations.push(operation);
    }
}

impl<I: Display, O: Display> History<I, O> {
    /// The text form, one event a line, by moment:
    ///
    /// ```text
    /// 10 invoke 0 c1 k1 set 5
    /// 12 return 0 ok
    /// 13 refuse 1
    /// ```
    ///
    /// that is moment, event, number of the operation, then client and input, or output. Line
    /// breaks inside inputs and outputs are escaped with a backslash.
    pub fn dump(&self) -> String {
        let mut lines = Vec::new();
        for (number, op) in self.operations.iter().enumerate() {
            let (at, input) = (op.invoked, escape(&op.input.to_string()));
            let text = format!("{} invoke {number} c{} {input}", at.0, op.client.0);
            lines.push(((at, 0, number), text));
            match &op.outcome {
                Outcome::Returned { at, output } => {
                    let output = escape(&output.to_string());
                    let text = format!("{} return {number} {output}", at.0);
                    lines.push(((*at, 1, number), text));
                }
                Outcome::Refused { at } => {
                    lines.push(((*at, 1, number), format!("{} refuse {number}", at.0)));
                }
                Outcome::Unknown => {}
            }
        }
        lines.sort_by_key(|(order, _)| *order);
        lines.iter().map(|(_, text)| format!("{text}\n")).collect()
    }
}

/// Why a text is not a history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadError {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub reason: &'static str,
}

impl Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "history, line {}: {}", self.line, self.reason)
    }
}

impl std::error::Error for LoadError {}

impl<I: FromStr, O: FromStr> History<I, O> {
    /// Reads the form that `dump` writes. Empty lines and lines that begin with `#` are skipped;
    /// operations come out in the order of their numbers, which may have gaps.
    pub fn load(text: &str) -> Result<Self, LoadError> {
        let mut operations = BTreeMap::new();
        for (index, line) in text.lines().enumerate() {
            if line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            load_event(&mut operations, line)
                .map_err(|reason| LoadError { line: index + 1, reason })?;
        }
        let mut history = History::new();
        for operation in operations.into_values() {
            history.push(operation);
        }
        Ok(history)
    }
}

fn load_event<I: FromStr, O: FromStr>(
    operations: &mut BTreeMap<u64, Operation<I, O>>,
    line: &str,
) -> Result<(), &'static str> {
    let (at, rest) = word(line);
    let (event, rest) = word(rest);
    let (number, rest) = word(rest);
    let at = Moment(at.parse().map_err(|_| "the moment is not a number")?);
    let number = number.parse().map_err(|_| "the operation is not a number")?;
    if event == "invoke" {
        let (client, input) = word(rest);
        let client = client.strip_prefix('c').and_then(|c| c.parse().ok());
        let client = ClientId(client.ok_or("the client is not c and a number")?);
        let input = unescape(input).ok_or("a bad escape")?;
        let input = input.parse().map_err(|_| "the input is not understood")?;
        let operation = Operation { client, invoked: at, input, outcome: Outcome::Unknown };
        let before = operations.insert(number, operation);
        return if before.is_none() { Ok(()) } else { Err("this operation was invoked before") };
    }
    let operation = operations.get_mut(&number).ok_or("this operation was not invoked")?;
    if operation.invoked > at || !matches!(operation.outcome, Outcome::Unknown) {
        return Err("this operation returns too early or twice");
    }
    operation.outcome = match event {
        "return" => {
            let output = unescape(rest).ok_or("a bad escape")?;
            let output = output.parse().map_err(|_| "the output is not understood")?;
            Outcome::Returned { at, output }
        }
        "refuse" => Outcome::Refused { at },
        _ => return Err("the event is none of invoke, return, refuse"),
    };
    Ok(())
}

fn word(text: &str) -> (&str, &str) {
    text.split_once(' ').unwrap_or((text, ""))
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\n', "\\n").replace('\r', "\\r")
}

fn unescape(text: &str) -> Option<String> {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        plain.push(match c {
            '\\' => match rest.next()? {
                '\\' => '\\',
                'n' => '\n',
                'r' => '\r',
                _ => return None,
            },
            c => c,
        });
    }
    Some(plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Text = History<String, String>;

    fn reason(text: &str) -> (usize, &'static str) {
        let error = Text::load(text).expect_err("the text is meant to be refused");
        (error.line, error.reason)
    }

    #[test]
    fn bad_lines_are_refused_with_their_number_and_reason() {
        assert_eq!(reason("x invoke 0 c1 a"), (1, "the moment is not a number"));
        assert_eq!(reason("1 invoke x c1 a"), (1, "the operation is not a number"));
        assert_eq!(reason("# a\n\n1 invoke 0 1 a"), (3, "the client is not c and a number"));
        assert_eq!(reason("1 invoke 0 c1 a\\"), (1, "a bad escape"));
        assert_eq!(reason("1 return 0 a"), (1, "this operation was not invoked"));
        let twice = "1 invoke 0 c1 a\n2 return 0 b\n3 return 0 b";
        assert_eq!(reason(twice), (3, "this operation returns too early or twice"));
        let early = "5 invoke 0 c1 a\n4 refuse 0";
        assert_eq!(reason(early), (2, "this operation returns too early or twice"));
        let again = "1 invoke 0 c1 a\n1 invoke 0 c1 a";
        assert_eq!(reason(again), (2, "this operation was invoked before"));
        let other = "1 invoke 0 c1 a\n1 leave 0";
        assert_eq!(reason(other), (2, "the event is none of invoke, return, refuse"));
        let number = History::<u8, u8>::load("1 invoke 0 c1 7\n2 return 0 x");
        assert_eq!(number.expect_err("x is not a number").reason, "the output is not understood");
    }

    #[test]
    fn a_recorded_history_has_the_documented_text() {
        let mut history = Text::new();
        let set = history.invoke(ClientId(1), Moment(10), "k1 set 5".into());
        let get = history.invoke(ClientId(2), Moment(10), "k1 get".into());
        history.invoke(ClientId(3), history.next_moment(), "lost".into());
        history.complete(set, Moment(12), "ok".into());
        history.refuse(get, history.next_moment());
        assert_eq!(
            history.dump(),
            "10 invoke 0 c1 k1 set 5\n10 invoke 1 c2 k1 get\n11 invoke 2 c3 lost\n\
             12 return 0 ok\n13 refuse 1\n"
        );
        assert_eq!(history.next_moment(), Moment(14));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]
        #[test]
        fn a_dump_loads_as_the_same_history(
            events in proptest::collection::vec((0u32..4, 0u64..50, 0u64..50, 0u8..3, ".*", ".*"), 0..12),
        ) {
            let mut history = Text::new();
            for (client, at, took, kind, input, output) in events {
                let op = history.invoke(ClientId(client), Moment(at), input);
                match kind {
                    0 => history.complete(op, Moment(at + took), output),
                    1 => history.refuse(op, Moment(at + took)),
                    _ => {}
                }
            }
            let dump = history.dump();
            let loaded = Text::load(&dump);
            prop_assert_eq!(loaded, Ok(history), "{}", dump);
        }
    }
}
