//! Generated reference pages must be what the program would generate now.
//!
//! To update: HOLDFAST_UPDATE=1 cargo test --release -p holdfast --test reference_pages

use std::{path::Path, process::Command};

fn page_is_current(page: &str, args: &[&str]) {
    let output = Command::new(env!("CARGO_BIN_EXE_holdfast"))
        .args(args)
        .output()
        .expect("the binary was built for this test");
    assert!(output.status.success(), "{output:?}");
    let generated = String::from_utf8(output.stdout).expect("pages are text");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs").join(page);
    if std::env::var_os("HOLDFAST_UPDATE").is_some() {
        std::fs::write(&path, &generated).expect("docs/ can be written");
    }
    let stored = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(stored == generated, "{page} is out of date: see the head of this test");
}

#[test]
fn the_configuration_page_is_current() {
    page_is_current("configuration.md", &["config", "--reference"]);
}

#[test]
fn the_metrics_page_is_current() {
    page_is_current("metrics.md", &["metrics"]);
}

#[test]
fn the_commands_page_is_current() {
    page_is_current("commands.md", &["commands"]);
}
