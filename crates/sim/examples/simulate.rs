//! Runs the simulator over a range of seeds: `simulate --from 0 --seeds 1000 [--steps 600]
//! [--planted AcknowledgeBeforeSync]`.
//!
//! Prints what was reached, and for a failing seed its last events and the command that repeats it.

use std::process::ExitCode;

use holdfast_sim::simulator::{Plan, Planted, Reached, run};

/// What follows the option; `None` if it is not given.
fn given(name: &str) -> Option<String> {
    let mut arguments = std::env::args().skip_while(|argument| argument != name);
    arguments.next().map(|_| arguments.next().unwrap_or_default())
}

fn number(name: &str, default: u64) -> Result<u64, String> {
    let wrong = |text: &str| format!("{name} {text:?} is not a number");
    given(name).map_or(Ok(default), |text| text.parse().map_err(|_| wrong(&text)))
}

fn plans() -> Result<Vec<Plan>, String> {
    let (from, seeds) = (number("--from", 0)?, number("--seeds", 100)?);
    let steps = u32::try_from(number("--steps", 600)?).map_err(|_| "--steps is too large")?;
    let planted = match given("--planted") {
        None => None,
        Some(name) => {
            let known = Planted::ALL.iter().copied().find(|planted| format!("{planted:?}") == name);
            Some(known.ok_or(format!("--planted {name:?} is none of {:?}", Planted::ALL))?)
        }
    };
    Ok((from..from + seeds).map(|seed| Plan { steps, planted, ..Plan::new(seed) }).collect())
}

fn main() -> ExitCode {
    let plans = match plans() {
        Ok(plans) => plans,
        Err(wrong) => {
            eprintln!("{wrong}");
            return ExitCode::from(2);
        }
    };
    let (mut reached, mut failed, mut undecided) = (Reached::default(), 0, 0);
    let (mut events, mut answered) = (0, 0);
    for plan in &plans {
        match run(*plan) {
            Ok(report) => {
                reached.add(&report.reached);
                events += report.events;
                answered += report.answered;
                undecided += u64::from(report.undecided);
            }
            Err(failure) => {
                println!("{failure}\n");
                failed += 1;
            }
        }
    }
    println!("{reached}{} runs, {failed} failed, {undecided} undecided", plans.len());
    println!("{events} events, {answered} answers");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
