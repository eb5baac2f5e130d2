//! Changes what keys of a stopped node hold, in its engine and behind the log's back, as a failing disk or memory
//! might: for tests of what notices it. `change_row DATA KEY...`

use std::{env, ops::ControlFlow, path::Path, process::ExitCode};

use holdfast_base::{Generation, Slot, key};
use holdfast_engine::{Batch, Engine, EngineOptions, OpenMode, RocksEngine, Tier};

fn change(engine: &RocksEngine, name: &str) -> Result<(), String> {
    let failed = |error: holdfast_engine::EngineError| error.to_string();
    let mut from = Vec::new();
    key::head_position(&mut from, Generation(0), Slot::of(name.as_bytes()), 0);
    let mut found = None;
    let mut look = |row: &[u8], value: &[u8]| {
        let is_it = key::parse_head(row).is_some_and(|(.., key)| key == name.as_bytes());
        if is_it {
            found = Some((row.to_vec(), value.to_vec()));
        }
        if is_it { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let snapshot = engine.snapshot().map_err(failed)?;
    snapshot.scan(&from, &[], false, Tier::Any, &mut look).map_err(failed)?;
    let (row, mut value) = found.ok_or_else(|| format!("there is no key {name:?}"))?;
    if let Some(last) = value.last_mut() {
        *last ^= 1;
    }
    let mut batch = Batch::new();
    batch.put(&row, &value);
    engine.write(&batch).map_err(failed)
}

fn change_all(data: &Path, names: impl Iterator<Item = String>) -> Result<(), String> {
    let failed = |error: holdfast_engine::EngineError| error.to_string();
    let options = EngineOptions::default();
    let engine = RocksEngine::open(&data.join("engine"), OpenMode::Existing, &options);
    let engine = engine.map_err(failed)?;
    for name in names {
        change(&engine, &name)?;
    }
    engine.flush().map_err(failed)
}

fn main() -> ExitCode {
    let mut args = env::args().skip(1);
    let Some(data) = args.next() else {
        eprintln!("change_row DATA KEY...");
        return ExitCode::from(2);
    };
    match change_all(Path::new(&data), args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
