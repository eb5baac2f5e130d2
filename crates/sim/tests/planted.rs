//! The simulator finds bugs that are put there for it, each within a few seeds, and for the right
//! reason.

use holdfast_sim::simulator::{Plan, Planted, run};

#[test]
fn every_planted_bug_is_found_within_its_seeds() {
    for planted in Planted::ALL {
        let found = (0..planted.seeds_max()).find_map(|seed| {
            let plan = Plan { planted: Some(*planted), ..Plan::new(seed) };
            let failure = run(plan).err()?;
            let told = planted.evidence().iter().any(|words| failure.what.contains(words));
            told.then_some((seed, failure))
        });
        let Some((seed, failure)) = found else {
            panic!("{planted:?} was not found within {} seeds", planted.seeds_max());
        };
        let what = failure.what.lines().next().unwrap_or_default();
        println!("{planted:?}: seed {seed}: {}", what.chars().take(120).collect::<String>());
        assert!(failure.to_string().contains(&format!("--planted {planted:?}")), "{failure}");
    }
}
