//! Every order of events within a few scopes keeps the rules, and each planted bug breaks one.

use holdfast_model::{ALWAYS, Bug, Cluster, REACHED, Scope};
use stateright::{Checker, Model};

const SMALL: Scope = Scope { nodes: 2, ticks: 4, writes: 1, messages: 5, cuts: 1, at_start: false };

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Checks all of a scope; gives the number of states.
fn check(name: &str, scope: Scope, must_reach: &[&'static str]) {
    let began = std::time::Instant::now();
    let checker = Cluster { scope, bug: None }.checker().threads(threads()).spawn_bfs().join();
    for rule in ALWAYS {
        if let Some(path) = checker.discovery(rule) {
            panic!("{name}: {rule} is broken:\n{path}");
        }
    }
    for reached in must_reach {
        assert!(checker.discovery(reached).is_some(), "{name}: nowhere {reached}");
    }
    println!(
        "{name}: {} states, {:.1} s",
        checker.unique_state_count(),
        began.elapsed().as_secs_f64()
    );
}

#[test]
fn a_silent_owner_is_replaced_in_every_order_of_events() {
    let scope = Scope { messages: 4, ..SMALL };
    check("silence", scope, &[REACHED[0], REACHED[1], REACHED[2], REACHED[5]]);
}

#[test]
fn late_messages_are_dead_in_every_order_of_events() {
    let scope = Scope { writes: 2, ticks: 3, messages: 4, cuts: 0, ..SMALL };
    check("late messages", scope, &[REACHED[3]]);
}

#[test]
fn data_is_handed_over_in_every_order_of_events() {
    let scope = Scope { ticks: 2, messages: 6, writes: 2, cuts: 0, ..SMALL };
    check("hand-over", scope, &[REACHED[4]]);
}

#[test]
fn whoever_takes_over_at_its_start_waits_in_every_order_of_events() {
    let scope = Scope { ticks: 5, messages: 4, cuts: 0, at_start: true, ..SMALL };
    check("at start", scope, &[REACHED[0], REACHED[1]]);
}

#[test]
fn three_nodes_share_a_shard_in_every_order_of_events() {
    let scope = Scope { nodes: 3, ticks: 3, messages: 4, writes: 1, cuts: 0, at_start: false };
    check("three nodes", scope, &[REACHED[1], REACHED[5]]);
}

/// A scope in which the bug shows.
fn scope_for(bug: Bug) -> Scope {
    match bug {
        Bug::AtStartNoWait => Scope { at_start: true, ..SMALL },
        Bug::PartingEarly => Scope { ticks: 2, cuts: 0, ..SMALL },
        Bug::NoFilter | Bug::NotPoisoned | Bug::BarrierAnywhere => {
            Scope { writes: 2, ticks: 3, cuts: 0, ..SMALL }
        }
        Bug::NoCheckOfSign | Bug::LeaseFromAnswer => Scope { cuts: 0, ..SMALL },
        _ => SMALL,
    }
}

#[test]
fn every_planted_bug_breaks_a_rule() {
    for bug in Bug::ALL {
        let model = Cluster { scope: scope_for(bug), bug: Some(bug) };
        let finish = stateright::HasDiscoveries::AnyOf(ALWAYS.into());
        let checker = model.checker().threads(threads()).finish_when(finish).spawn_bfs().join();
        let broken = ALWAYS.iter().find_map(|rule| Some((rule, checker.discovery(rule)?)));
        let Some((rule, path)) = broken else { panic!("{bug:?} breaks no rule") };
        println!("{bug:?}: {rule:?} after {} steps", path.into_actions().len());
    }
}
