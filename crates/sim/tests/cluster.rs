//! Three nodes on a simulated replicated log: a slice of seeds, and bugs that are put there to be found.
//!
//! `HOLDFAST_SIM_SEEDS` runs more seeds, `HOLDFAST_SIM_FROM` others.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

use holdfast_sim::cluster::{Planted, Reached, run, run_with_loss};

/// Some ten seconds on two cores.
const SEEDS: u64 = 200;
/// Within so many a planted bug has to be found.
const PLANTED_SEEDS: u64 = 2_000;

fn variable(name: &str, default: u64) -> u64 {
    let given = std::env::var(name).ok();
    given.map_or(default, |text| text.parse().expect("the variable must hold a number"))
}

#[test]
fn three_nodes_keep_every_promise_and_come_through_every_case() {
    let (from, seeds) = (variable("HOLDFAST_SIM_FROM", 0), variable("HOLDFAST_SIM_SEEDS", SEEDS));
    let began = std::time::Instant::now();
    let next = AtomicU64::new(from);
    let worker = || {
        let mut reached = Reached::default();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= from + seeds {
                return reached;
            }
            match run(seed, None) {
                Ok(more) => reached.add(&more),
                Err(broken) => panic!("{broken}"),
            }
        }
    };
    let mut reached = Reached::default();
    thread::scope(|scope| {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let workers: Vec<_> = (0..cores).map(|_| scope.spawn(worker)).collect();
        for worker in workers {
            match worker.join() {
                Ok(part) => reached.add(&part),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
    });
    println!("{seeds} seeds in {:.1} s: {:?}", began.elapsed().as_secs_f64(), reached.all());
    if seeds >= SEEDS {
        for (what, count) in reached.all() {
            assert!(count > 0, "no run came through {what}");
        }
    }
}

/// Servers that acknowledge before they sync break the promise that all else rests on. Whoever had read what is
/// gone has to notice, and say so in place of serving another history.
#[test]
fn a_log_that_lost_its_end_is_noticed() {
    let (mut by_nodes, mut by_clients) = (0, 0);
    for seed in 0..SEEDS {
        let Err(broken) = run_with_loss(seed) else { continue };
        let noticed = ["node ", "nobody serves", "waits for the log"];
        if noticed.iter().any(|words| broken.what.contains(words)) {
            by_nodes += 1;
        } else {
            assert!(broken.what.contains("not linearizable"), "{broken}");
            by_clients += 1;
        }
    }
    println!("{SEEDS} losses: {by_nodes} noticed by a node, {by_clients} by clients alone");
    assert!(by_nodes > SEEDS / 2, "{by_nodes} of {SEEDS} losses were noticed by a node");
}

#[test]
fn a_seed_gives_the_same_run_each_time() {
    for seed in [3, 77] {
        assert_eq!(run(seed, None).ok(), run(seed, None).ok());
    }
}

#[test]
fn every_planted_bug_is_found_within_its_seeds() {
    for planted in Planted::ALL {
        let found = (0..PLANTED_SEEDS).find_map(|seed| run(seed, Some(planted)).err());
        let Some(broken) = found else { panic!("{planted:?} was not found") };
        let what = broken.what.lines().next().unwrap_or_default();
        println!(
            "{planted:?}: seed {}: {}",
            broken.seed,
            what.chars().take(140).collect::<String>()
        );
    }
}
