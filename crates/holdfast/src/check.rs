//! `holdfast check`: verifies a stopped node's data.

use std::path::PathBuf;

use clap::Args;

/// Arguments of `holdfast check`.
#[derive(Args)]
#[command(after_help = "Example:\n  holdfast check --data ./data")]
pub struct CheckArgs {
    /// Folder of log and engine; the node must be stopped.
    #[arg(long, value_name = "DIR", default_value = "data")]
    data: PathBuf,
}

/// Prints what was verified; the first damage is the error.
pub fn run(args: &CheckArgs) -> Result<(), String> {
    let report = holdfast_server::check(&args.data).map_err(|error| error.to_string())?;
    for line in report {
        println!("{line}");
    }
    println!("ok");
    Ok(())
}
