//! Hand-written histories in their text form: right ones, and the classic ways to be wrong.

use super::{Model, Register, StepBudget, Transactions, Verdict, Violation, check};
use crate::history::History;

mod random;

enum Told<M: Model> {
    Right,
    Wrong(Violation<M>),
}

fn judge<M: Model<Input: std::str::FromStr, Output: std::str::FromStr>>(
    model: &M,
    text: &str,
) -> Told<M> {
    let history = History::load(text).expect("the history in this test is well formed");
    match check(model, &history, StepBudget::default()) {
        Verdict::Linearizable => Told::Right,
        Verdict::NotLinearizable(violation) => Told::Wrong(*violation),
        verdict @ Verdict::Undecided { .. } => panic!("{verdict:?}: {text}"),
    }
}

fn accepts(text: &str) {
    if let Told::Wrong(violation) = judge(&Register, text) {
        panic!("{}", violation.report);
    }
}

/// The violation, whose failing prefix must fail by itself with the same shortest prefix.
fn rejects(text: &str) -> Violation<Register> {
    let Told::Wrong(violation) = judge(&Register, text) else { panic!("accepted: {text}") };
    assert!(violation.shortest);
    let failing = violation.failing.dump();
    let Told::Wrong(again) = judge(&Register, &failing) else { panic!("accepted: {failing}") };
    assert_eq!(again.failing.dump(), failing);
    violation
}

fn accepts_transactions(text: &str) {
    if let Told::Wrong(violation) = judge(&Transactions, text) {
        panic!("{}", violation.report);
    }
}

fn rejects_transactions(text: &str) -> Violation<Transactions> {
    let Told::Wrong(violation) = judge(&Transactions, text) else { panic!("accepted: {text}") };
    violation
}

#[test]
fn a_read_during_a_write_may_see_either_value() {
    for value in ["nil", "1"] {
        accepts(&format!(
            "1 invoke 0 c1 k1 set 1\n2 invoke 1 c2 k1 get\n3 return 1 value {value}\n4 return 0 ok"
        ));
    }
}

#[test]
fn a_stale_read_after_an_acknowledged_write_is_rejected() {
    rejects("1 invoke 0 c1 k1 set 1\n2 return 0 ok\n3 invoke 1 c2 k1 get\n4 return 1 value nil");
}

#[test]
fn events_at_the_same_moment_are_concurrent() {
    accepts("1 invoke 0 c1 k1 set 1\n2 return 0 ok\n2 invoke 1 c2 k1 get\n4 return 1 value nil");
}

#[test]
fn a_lost_update_is_rejected() {
    rejects(
        "1 invoke 0 c1 k1 incrby 1\n1 invoke 1 c2 k1 incrby 1\n\
         2 return 0 number 1\n2 return 1 number 1",
    );
    rejects(
        "1 invoke 0 c1 k1 incrby 1\n2 return 0 number 1\n3 invoke 1 c2 k1 incrby 1\n\
         4 return 1 number 2\n5 invoke 2 c1 k1 get\n6 return 2 value 1",
    );
}

#[test]
fn a_duplicate_increment_is_rejected() {
    rejects(
        "1 invoke 0 c1 k1 incrby 1\n2 return 0 number 1\n\
         3 invoke 1 c1 k1 get\n4 return 1 value 2",
    );
}

#[test]
fn a_dirty_read_of_a_refused_write_is_rejected() {
    rejects("1 invoke 0 c1 k1 set 1\n2 refuse 0\n1 invoke 1 c2 k1 get\n3 return 1 value 1");
}

#[test]
fn reads_that_go_back_in_time_are_rejected() {
    // The write is still on its way: either value may be read, but not new before old.
    let reads = |first: &str, second: &str| {
        format!(
            "1 invoke 0 c1 k1 set 1\n2 invoke 1 c2 k1 get\n3 return 1 value {first}\n\
             4 invoke 2 c3 k1 get\n5 return 2 value {second}\n9 return 0 ok"
        )
    };
    accepts(&reads("nil", "1"));
    rejects(&reads("1", "nil"));
}

#[test]
fn an_unknown_write_may_take_effect_late() {
    accepts(
        "1 invoke 0 c1 k1 set 1\n2 invoke 1 c2 k1 set 2\n3 return 1 ok\n\
         4 invoke 2 c2 k1 get\n5 return 2 value 2\n6 invoke 3 c2 k1 get\n7 return 3 value 1",
    );
}

#[test]
fn an_unknown_write_may_never_take_effect() {
    accepts("1 invoke 0 c1 k1 set 1\n8 invoke 1 c2 k1 get\n9 return 1 value nil");
}

#[test]
fn an_unknown_write_cannot_take_effect_before_it_is_sent() {
    rejects("1 invoke 0 c2 k1 get\n2 return 0 value 1\n3 invoke 1 c1 k1 set 1");
}

#[test]
fn an_unknown_operation_that_takes_effect_twice_is_rejected() {
    rejects(
        "1 invoke 0 c1 k1 set 1\n2 invoke 1 c2 k1 get\n3 return 1 value 1\n\
         4 invoke 2 c2 k1 set 2\n5 return 2 ok\n6 invoke 3 c2 k1 get\n7 return 3 value 1",
    );
    let increments = |value| {
        format!(
            "1 invoke 0 c1 k1 incrby 1\n1 invoke 1 c3 k1 incrby 1\n\
             8 invoke 2 c2 k1 get\n9 return 2 value {value}"
        )
    };
    accepts(&increments(1));
    accepts(&increments(2));
    rejects(&increments(3));
}

#[test]
fn a_lock_that_two_clients_hold_is_rejected() {
    let both = |second: bool| {
        format!(
            "1 invoke 0 c1 k1 setnx 1\n1 invoke 1 c2 k1 setnx 2\n\
             2 return 0 applied true\n2 return 1 applied {second}"
        )
    };
    accepts(&both(false));
    rejects(&both(true));
}

#[test]
fn a_compare_and_set_on_an_old_value_is_rejected() {
    let history = |applied: bool| {
        format!(
            "1 invoke 0 c1 k1 set 1\n2 return 0 ok\n3 invoke 1 c1 k1 getset 2\n\
             4 return 1 value 1\n5 invoke 2 c2 k1 cas 1 3\n6 return 2 applied {applied}\n\
             7 invoke 3 c1 k1 del\n8 return 3 applied true\n"
        )
    };
    accepts(&history(false));
    rejects(&history(true));
}

#[test]
fn an_overflowing_increment_must_be_told_and_has_no_effect() {
    let history = |reply: &str, by: i64| {
        format!(
            "1 invoke 0 c1 k1 set {}\n2 return 0 ok\n3 invoke 1 c1 k1 incrby {by}\n\
             4 return 1 {reply}\n5 invoke 2 c1 k1 get\n6 return 2 value {}",
            i64::MAX,
            i64::MAX
        )
    };
    accepts(&history("overflow", 1));
    accepts(&history(&format!("number {}", i64::MAX), 0));
    rejects(&history("overflow", 0));
}

#[test]
fn keys_are_judged_apart_and_the_guilty_one_is_named() {
    let violation = rejects(
        "1 invoke 0 c1 k1 set 1\n2 return 0 ok\n3 invoke 1 c1 k2 get\n4 return 1 value 1\n\
         5 invoke 2 c1 k1 get\n6 return 2 value 1\n",
    );
    assert_eq!(violation.partition, [super::Key(2)]);
    assert_eq!(violation.failing.len(), 1);
}

#[test]
fn the_failing_prefix_ends_at_the_first_impossible_return_and_the_report_shows_it() {
    let violation = rejects(
        "1 invoke 0 c1 k1 set 1\n2 return 0 ok\n3 invoke 1 c2 k1 set 2\n4 invoke 2 c1 k1 get\n\
         5 return 2 value 7\n6 return 1 ok\n7 invoke 3 c1 k1 get\n8 return 3 value 2",
    );
    assert_eq!(
        violation.failing.dump(),
        "1 invoke 0 c1 k1 set 1\n2 return 0 ok\n3 invoke 1 c2 k1 set 2\n4 invoke 2 c1 k1 get\n\
         5 return 2 value 7\n"
    );
    let expected = "\
not linearizable: k1
shortest failing prefix: 3 of 4 operations
every order explains at most 1 of its 2 returns
first return without explanation: [4..5] k1 get -> value 7
states possible before it, not all: [Some(1), Some(2)]
the last 3 operations, by invocation (0 not shown):
  c1   ||     [1..2] k1 set 1 -> ok
  c2     |--> [3..] k1 set 2 -> unknown
! c1      ||  [4..5] k1 get -> value 7
";
    assert_eq!(violation.report, expected);
}

#[test]
fn a_search_that_runs_out_of_steps_says_undecided_and_where() {
    let text = "1 invoke 0 c1 k1 set 1\n2 return 0 ok\n3 invoke 1 c1 k2 set 1\n4 return 1 ok\n\
                5 invoke 2 c1 k2 set 1\n6 return 2 ok";
    let history = History::load(text).expect("well formed");
    match check(&Register, &history, StepBudget(2)) {
        Verdict::Undecided { steps, partitions } => {
            assert_eq!((steps, partitions), (4, vec![vec![super::Key(2)]]));
        }
        _ => panic!("two steps explain one write, not two"),
    }
    assert!(matches!(check(&Register, &history, StepBudget(4)), Verdict::Linearizable));
}

#[test]
fn an_empty_history_is_linearizable() {
    accepts("");
}

#[test]
fn half_a_transaction_is_never_visible() {
    let history = |k1: &str, k2: &str| {
        format!(
            "1 invoke 0 c1 k1 set 1; k2 set 1\n2 invoke 1 c2 k1 get; k2 get\n\
             3 return 1 exec value {k1}; value {k2}\n4 return 0 exec ok; ok"
        )
    };
    accepts_transactions(&history("nil", "nil"));
    accepts_transactions(&history("1", "1"));
    rejects_transactions(&history("1", "nil"));
    rejects_transactions(&history("nil", "1"));
}

#[test]
fn half_an_unknown_transaction_is_never_visible_to_single_reads() {
    let history = |k2: &str| {
        format!(
            "1 invoke 0 c1 k1 set 1; k2 set 1\n2 invoke 1 c2 k1 get\n3 return 1 exec value 1\n\
             4 invoke 2 c2 k2 get\n5 return 2 exec value {k2}"
        )
    };
    accepts_transactions(&history("1"));
    let violation = rejects_transactions(&history("nil"));
    assert_eq!(violation.partition, [super::Key(1), super::Key(2)]);
}

#[test]
fn reads_in_a_transaction_see_its_own_writes() {
    let history = |read: i64| {
        format!(
            "1 invoke 0 c1 k1 set 1; k1 incrby 2; k2 incrby 5; k1 get\n\
             2 return 0 exec ok; number 3; number 5; value {read}"
        )
    };
    accepts_transactions(&history(3));
    rejects_transactions(&history(1));
    rejects_transactions("1 invoke 0 c1 k1 set 1; k2 set 1\n2 return 0 exec ok");
}

#[test]
fn write_skew_between_watched_keys_is_rejected() {
    // Each withdraws because the other account still has money; only one may.
    let history = |second: &str| {
        format!(
            "1 invoke 0 c1 k1 set 1; k2 set 1\n2 return 0 exec ok; ok\n\
             3 invoke 1 c1 watch k1 1; watch k2 1; k1 set 0\n\
             3 invoke 2 c2 watch k1 1; watch k2 1; k2 set 0\n\
             4 return 1 exec ok\n4 return 2 {second}\n"
        )
    };
    accepts_transactions(&history("aborted"));
    rejects_transactions(&history("exec ok"));
}

#[test]
fn an_aborted_transaction_has_no_effect_and_an_unknown_one_needs_its_watched_values() {
    let read = "5 invoke 1 c2 k1 get\n6 return 1 exec value 7\n";
    rejects_transactions(&format!("1 invoke 0 c1 k1 set 7\n2 return 0 aborted\n{read}"));
    rejects_transactions(&format!("1 invoke 0 c1 watch k1 3; k1 set 7\n{read}"));
    accepts_transactions(&format!("1 invoke 0 c1 watch k1 nil; k1 set 7\n{read}"));
}

#[test]
fn a_transaction_joins_its_keys_and_leaves_others_apart() {
    let violation = rejects_transactions(
        "1 invoke 0 c1 k1 set 1; k2 set 1\n2 return 0 exec ok; ok\n\
         3 invoke 1 c1 watch k3 nil; k2 set 2\n4 return 1 exec ok\n\
         3 invoke 2 c2 k4 set 2\n4 return 2 exec ok\n\
         5 invoke 3 c1 k3 get\n6 return 3 exec value 9\n",
    );
    assert_eq!(violation.partition, [1, 2, 3].map(super::Key));
    assert_eq!(violation.failing.len(), 3);
}

#[test]
fn an_unknown_transaction_may_need_the_unknown_one_that_it_overwrites() {
    let history = |watched: i64| {
        format!(
            "1 invoke 0 c1 k1 set 1\n1 invoke 1 c2 watch k1 {watched}; k1 set 5\n\
             2 invoke 2 c3 k1 get\n3 return 2 exec value 5"
        )
    };
    accepts_transactions(&history(1));
    rejects_transactions(&history(2));
}
