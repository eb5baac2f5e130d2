//! Judges a history of registers that real clients recorded: `judge FILE`, in the text form of
//! `History::load`.
//!
//! Prints the verdict. Exit code 0: linearizable; 1: not; 3: undecided within the budget; 2: the
//! file cannot be read.

use std::process::ExitCode;

use holdfast_sim::checker::{Key, KeyedOp, Register, RegisterReply, StepBudget, Verdict, check};
use holdfast_sim::history::History;

fn recorded() -> Result<History<KeyedOp, RegisterReply>, String> {
    let path = std::env::args().nth(1).ok_or("usage: judge FILE")?;
    let text = std::fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
    History::load(&text).map_err(|error| format!("{path}: {error}"))
}

fn keys(partitions: &[Vec<Key>]) -> String {
    let names: Vec<_> = partitions.iter().flatten().map(Key::to_string).collect();
    names.join(", ")
}

fn main() -> ExitCode {
    let history = match recorded() {
        Ok(history) => history,
        Err(wrong) => {
            eprintln!("{wrong}");
            return ExitCode::from(2);
        }
    };
    match check(&Register, &history, StepBudget::default()) {
        Verdict::Linearizable => {
            println!("linearizable: {} operations", history.len());
            ExitCode::SUCCESS
        }
        Verdict::NotLinearizable(violation) => {
            println!("{}", violation.report);
            ExitCode::FAILURE
        }
        Verdict::Undecided { steps, partitions } => {
            println!("undecided after {steps} steps: {}", keys(&partitions));
            ExitCode::from(3)
        }
    }
}
