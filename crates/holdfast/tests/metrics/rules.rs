//! What can be wrong with the alert rules without Prometheus noticing.

use std::{collections::BTreeSet, path::Path};

/// Mistakes in the text of the rules: metrics, pages and drills that do not exist.
pub fn faults(text: &str, metrics: &BTreeSet<String>, root: &Path) -> Vec<String> {
    let mut faults = Vec::new();
    let rules = text.lines().filter(|line| !line.trim_start().starts_with('#'));
    for line in rules.clone() {
        let words = line.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        for word in words.filter(|word| word.starts_with("holdfast_")) {
            if !metrics.contains(word) {
                faults.push(format!("there is no metric {word}"));
            }
        }
    }
    let alerts = rules.clone().filter(|line| line.trim_start().starts_with("- alert:")).count();
    let pages: Vec<_> = rules.filter_map(|line| line.trim().strip_prefix("runbook: ")).collect();
    if pages.len() != alerts {
        faults.push(format!("{alerts} alerts name {} pages", pages.len()));
    }
    for page in &pages {
        match std::fs::read_to_string(root.join(page)) {
            Err(_) => faults.push(format!("there is no page {page}")),
            Ok(text) if !text.contains("**Drill.**") => faults.push(format!("{page} has no drill")),
            Ok(_) => {}
        }
    }
    // An alert whose page fails to say what it is for has been forgotten in the list.
    let list = std::fs::read_to_string(root.join("docs/runbooks/README.md")).unwrap_or_default();
    for line in text.lines() {
        if let Some(alert) = line.trim().strip_prefix("- alert: ")
            && !list.split(['|', ',', ' ']).any(|word| word == alert)
        {
            faults.push(format!("docs/runbooks/README.md does not list {alert}"));
        }
    }
    faults
}
