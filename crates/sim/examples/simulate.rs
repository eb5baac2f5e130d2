//! Runs the simulator over a range of seeds: `simulate --from 0 --seeds 1000 [--steps 600]`.
//!
//! Prints what was reached, and for a failing seed its last events and the command that repeats it.

use std::process::ExitCode;

use holdfast_sim::simulator::{Plan, Reached, run};

fn option(name: &str, default: u64) -> Result<u64, String> {
    let mut arguments = std::env::args().skip_while(|argument| argument != name);
    match (arguments.next(), arguments.next()) {
        (None, _) => Ok(default),
        (_, Some(value)) => value.parse().map_err(|_| format!("{name} {value} is not a number")),
        (_, None) => Err(format!("{name} needs a number")),
    }
}

fn plans() -> Result<Vec<Plan>, String> {
    let (from, seeds) = (option("--from", 0)?, option("--seeds", 100)?);
    let steps = u32::try_from(option("--steps", 600)?).map_err(|_| "--steps is too large")?;
    Ok((from..from + seeds).map(|seed| Plan { steps, ..Plan::new(seed) }).collect())
}

fn main() -> ExitCode {
    let plans = match plans() {
        Ok(plans) => plans,
        Err(wrong) => {
            eprintln!("{wrong}");
            return ExitCode::from(2);
        }
    };
    let (mut reached, mut failed, mut events, mut answered) = (Reached::default(), 0, 0, 0);
    for plan in &plans {
        match run(*plan) {
            Ok(report) => {
                reached.add(&report.reached);
                events += report.events;
                answered += report.answered;
            }
            Err(failure) => {
                println!("{failure}\n");
                failed += 1;
            }
        }
    }
    println!("{reached}{} runs, {failed} failed, {events} events, {answered} answers", plans.len());
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
