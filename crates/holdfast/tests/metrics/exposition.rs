//! A strict reader of the Prometheus text format, version 0.0.4.
//!
//! Stricter than Prometheus: every metric has HELP and TYPE, once and in this order, its samples
//! follow, none is told twice, and a histogram's buckets rise up to `+Inf`, which is its count.

use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// A metric with its samples: name and labels as they are written, and value.
#[derive(Debug)]
pub struct Family {
    pub name: String,
    pub kind: Kind,
    pub samples: Vec<(String, f64)>,
}

#[derive(Debug)]
pub struct Page {
    families: Vec<Family>,
    by_sample: BTreeMap<String, f64>,
}

impl Page {
    pub fn parse(text: &str) -> Result<Page, String> {
        if !text.ends_with('\n') {
            return Err("the last line does not end".into());
        }
        let mut page = Page { families: Vec::new(), by_sample: BTreeMap::new() };
        let mut helped: Option<String> = None;
        for line in text.lines() {
            page.line(line, &mut helped).map_err(|what| format!("{what}: {line}"))?;
        }
        if helped.is_some() {
            return Err("HELP without TYPE at the end".into());
        }
        page.families.iter().try_for_each(Family::check)?;
        Ok(page)
    }

    fn line(&mut self, line: &str, helped: &mut Option<String>) -> Result<(), String> {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').ok_or("no help")?;
            let known = self.families.iter().any(|family| family.name == name);
            if known || helped.is_some() || help.is_empty() || !is_name(name) {
                return Err("HELP twice, out of place, empty, or of a bad name".into());
            }
            *helped = Some(name.into());
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').ok_or("no type")?;
            if helped.take().as_deref() != Some(name) {
                return Err("TYPE without HELP before it".into());
            }
            let kind = match kind {
                "counter" => Kind::Counter,
                "gauge" => Kind::Gauge,
                "histogram" => Kind::Histogram,
                _ => return Err("an unknown type".into()),
            };
            self.families.push(Family { name: name.into(), kind, samples: Vec::new() });
        } else {
            self.sample(line)?;
        }
        Ok(())
    }

    fn sample(&mut self, line: &str) -> Result<(), String> {
        let (sample, value) = line.rsplit_once(' ').ok_or("no value")?;
        let value: f64 = value.parse().map_err(|_| "the value is no number")?;
        let (name, labels) =
            sample.split_once('{').map_or((sample, None), |(name, rest)| (name, Some(rest)));
        if let Some(labels) = labels {
            labels_of(labels.strip_suffix('}').ok_or("labels that do not end")?)?;
        }
        let family = self.families.last_mut().ok_or("a sample before any TYPE")?;
        let suffixes: &[&str] = match family.kind {
            Kind::Histogram => &["_bucket", "_sum", "_count"],
            Kind::Counter | Kind::Gauge => &[""],
        };
        let suffix = name.strip_prefix(family.name.as_str()).ok_or("a sample of another metric")?;
        if !suffixes.contains(&suffix) {
            return Err("not a sample of this type".into());
        }
        if self.by_sample.insert(sample.into(), value).is_some() {
            return Err("told twice".into());
        }
        family.samples.push((sample.into(), value));
        Ok(())
    }

    pub fn families(&self) -> &[Family] {
        &self.families
    }

    pub fn get(&self, sample: &str) -> Option<f64> {
        self.by_sample.get(sample).copied()
    }

    pub fn value(&self, sample: &str) -> f64 {
        self.get(sample).unwrap_or_else(|| panic!("no sample {sample}"))
    }

    /// Names by which rules may ask for samples.
    pub fn sample_names(&self) -> BTreeSet<String> {
        let names = self.by_sample.keys();
        names.map(|name| name.split('{').next().unwrap_or_default().to_string()).collect()
    }
}

impl Family {
    fn check(&self) -> Result<(), String> {
        if self.kind != Kind::Histogram {
            return Ok(());
        }
        // Labels without `le`, and the buckets in the order of the page.
        let mut series: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
        let mut counts = BTreeMap::new();
        let mut sums = BTreeSet::new();
        for (sample, value) in &self.samples {
            let (name, labels) = sample.split_once('{').unwrap_or((sample, "}"));
            let labels = labels_of(labels.trim_end_matches('}'))?;
            let others: Vec<_> = labels.iter().filter(|(name, _)| name != "le").collect();
            let key = format!("{others:?}");
            if name.ends_with("_bucket") {
                let le = labels.iter().find(|(name, _)| name == "le").ok_or("no le")?;
                let edge = le.1.parse().map_err(|_| "le is no number")?;
                series.entry(key).or_default().push((edge, *value));
            } else if name.ends_with("_count") {
                counts.insert(key, *value);
            } else {
                sums.insert(key);
            }
        }
        for (key, buckets) in &series {
            let rising = buckets.windows(2).all(|two| two[0].0 < two[1].0 && two[0].1 <= two[1].1);
            let last = buckets.last().copied();
            if !rising || last.map(|(edge, _)| edge) != Some(f64::INFINITY) {
                return Err(format!("{}: buckets {key} do not rise to +Inf", self.name));
            }
            if last.map(|(_, count)| count) != counts.get(key).copied() || !sums.contains(key) {
                return Err(format!("{}: no count or sum for {key}, or another", self.name));
            }
        }
        if series.is_empty() { Err(format!("{}: no buckets", self.name)) } else { Ok(()) }
    }
}

fn is_name(name: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_';
    name.chars().all(fits) && !name.starts_with(|c: char| c.is_ascii_digit()) && !name.is_empty()
}

/// Labels with their values: `a="x",b="y"`.
fn labels_of(mut text: &str) -> Result<Vec<(String, String)>, String> {
    let mut labels = Vec::new();
    while !text.is_empty() {
        let (name, rest) = text.split_once("=\"").ok_or("a label without a value")?;
        if !is_name(name) {
            return Err(format!("a bad label name {name:?}"));
        }
        let (mut value, mut end, mut escaped) = (String::new(), None, false);
        for (at, c) in rest.char_indices() {
            match (escaped, c) {
                (true, '\\' | '"' | 'n') => escaped = false,
                (true, _) => return Err("an unknown escape".into()),
                (false, '\\') => escaped = true,
                (false, '"') => {
                    end = Some(at);
                    break;
                }
                (false, c) => value.push(c),
            }
        }
        text = rest.get(end.ok_or("a label's value does not end")? + 1..).unwrap_or_default();
        text = match text.strip_prefix(',') {
            Some("") => return Err("a comma at the end".into()),
            Some(more) => more,
            None if text.is_empty() => text,
            None => return Err("no comma between labels".into()),
        };
        labels.push((name.to_string(), value));
    }
    Ok(labels)
}

#[test]
fn a_page_with_a_mistake_is_refused() {
    let good = "# HELP a_total A.\n# TYPE a_total counter\na_total{x=\"1\"} 1\n\
                # HELP h H.\n# TYPE h histogram\nh_bucket{le=\"1\"} 1\nh_bucket{le=\"+Inf\"} 2\n\
                h_sum 3\nh_count 2\n";
    Page::parse(good).expect("it is right");
    for (right, wrong) in [
        ("# HELP a_total A.\n", ""),
        ("# TYPE a_total counter\n", ""),
        ("# TYPE a_total counter", "# TYPE a_total count"),
        ("a_total{x=\"1\"} 1\n", "a_total{x=\"1\"} 1\na_total{x=\"1\"} 1\n"),
        ("a_total{x=\"1\"} 1", "b_total{x=\"1\"} 1"),
        ("a_total{x=\"1\"} 1", "a_total{x=\"1\" 1"),
        ("a_total{x=\"1\"} 1", "a_total{x=\"1\",} 1"),
        ("a_total{x=\"1\"} 1", "a_total{1x=\"1\"} 1"),
        ("a_total{x=\"1\"} 1", "a_total{x=\"1\"} one"),
        ("h_bucket{le=\"1\"} 1", "h_bucket{le=\"1\"} 3"),
        ("h_bucket{le=\"+Inf\"} 2\n", ""),
        ("h_sum 3\n", ""),
        ("h_count 2\n", "h_count 3\n"),
    ] {
        assert!(good.contains(right), "{right}");
        Page::parse(&good.replacen(right, wrong, 1)).expect_err(wrong);
    }
}
