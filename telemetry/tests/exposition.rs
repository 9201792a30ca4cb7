//! For any declarations and values: a strict parser of Prometheus's text format accepts the scrape and finds the
//! values.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use telemetry::prometheus::Registry;

/// A sample line: name, labels, value.
type Sample = (String, BTreeMap<String, String>, f64);

/// A parsed scrape.
#[derive(Default, Debug)]
struct Scrape {
    kinds: BTreeMap<String, String>,
    helps: BTreeMap<String, String>,
    samples: Vec<Sample>,
}

/// The name at the beginning of a text, and the rest.
fn name(text: &str, colons: bool) -> Result<(&str, &str), String> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_' || (colons && c == ':');
    let end = text.find(|c| !is_part(c)).unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(format!("no name at {text:?}"));
    }
    Ok((name, rest))
}

/// A string `"..."` with the three escapes, and the rest.
fn quoted(text: &str) -> Result<(String, &str), String> {
    let mut chars = text.strip_prefix('"').ok_or("no quote")?.char_indices();
    let mut value = String::new();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Ok((value, &text[at + 2..])),
            '\\' => value.push(match chars.next() {
                Some((_, '\\')) => '\\',
                Some((_, '"')) => '"',
                Some((_, 'n')) => '\n',
                other => return Err(format!("escape {other:?}")),
            }),
            c => value.push(c),
        }
    }
    Err("a label's value has no end".to_owned())
}

fn sample(line: &str) -> Result<Sample, String> {
    let (metric, mut rest) = name(line, true)?;
    let mut labels = BTreeMap::new();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        loop {
            let (label, after) = name(rest, false)?;
            let (value, after) = quoted(after.strip_prefix('=').ok_or("no =")?)?;
            if labels.insert(label.to_owned(), value).is_some() {
                return Err(format!("label {label} twice"));
            }
            match after.strip_prefix(',') {
                Some(more) => rest = more,
                None => {
                    rest = after.strip_prefix('}').ok_or("no }")?;
                    break;
                }
            }
        }
    }
    let text = rest.strip_prefix(' ').ok_or("no space before the value")?;
    let value = match text {
        "NaN" => f64::NAN,
        "+Inf" => f64::INFINITY,
        "-Inf" => f64::NEG_INFINITY,
        _ if text.contains(|c: char| c.is_alphabetic() && c != 'e') => return Err(format!("value {text:?}")),
        _ => text.parse().map_err(|e| format!("value {text:?}: {e}"))?,
    };
    Ok((metric.to_owned(), labels, value))
}

/// The family of a sample's name: a histogram's samples have suffixes.
fn family<'a>(scrape: &Scrape, name: &'a str) -> &'a str {
    let base = ["_bucket", "_sum", "_count"].iter().find_map(|ending| name.strip_suffix(ending));
    base.filter(|base| scrape.kinds.get(*base).is_some_and(|kind| kind == "histogram")).unwrap_or(name)
}

/// Parses a scrape; the error explains what is wrong.
fn parse(text: &str) -> Result<Scrape, String> {
    let mut scrape = Scrape::default();
    let (mut current, mut closed, mut seen) = (String::new(), BTreeSet::new(), BTreeSet::new());
    let body = text.strip_suffix('\n').ok_or("no newline at the end")?;
    for line in body.split('\n') {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (metric, help) = name(rest, true)?;
            let help = help.strip_prefix(' ').ok_or("HELP without a text")?;
            scrape.helps.insert(metric.to_owned(), help.to_owned()).map_or(Ok(()), |_| Err("HELP twice"))?;
            if !closed.insert(metric.to_owned()) {
                return Err(format!("{metric} is in two places"));
            }
            current = metric.to_owned();
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (metric, kind) = name(rest, true)?;
            if metric != current || !["counter", "gauge", "histogram"].contains(&kind.trim_start()) {
                return Err(format!("TYPE {rest}"));
            }
            scrape.kinds.insert(metric.to_owned(), kind[1..].to_owned());
        } else {
            let found = sample(line).map_err(|why| format!("{line:?}: {why}"))?;
            if family(&scrape, &found.0) != current || !scrape.kinds.contains_key(&current) {
                return Err(format!("{line:?} is not below its TYPE"));
            }
            if !seen.insert((found.0.clone(), found.1.clone())) {
                return Err(format!("{line:?} twice"));
            }
            scrape.samples.push(found);
        }
    }
    Ok(scrape)
}

const BOUNDS: [f64; 4] = [0.001, 0.5, 1.0, 1e6];

proptest! {
    #[test]
    fn a_strict_reader_takes_it(
        label in "\\PC{0,12}|[\"\\\\\n]{0,4}",
        counted: u32,
        bits: u64,
        observed in proptest::collection::vec(prop_oneof![Just(0.5), -1.0..2e6f64, Just(f64::NAN)], 0..20),
    ) {
        let gauge_value = f64::from_bits(bits);
        let mut registry = Registry::new();
        let counter = registry.counter("c_total", "Counts.\nOn two lines.", &[("who", label.as_str())]);
        let gauge = registry.gauge("g", "A gauge.", &[("who", label.as_str()), ("what", "x")]);
        let histogram = registry.histogram("h_seconds", "Took.", &[("who", label.as_str())], &BOUNDS);
        counter.add(u64::from(counted));
        gauge.set(gauge_value);
        observed.iter().for_each(|value| histogram.observe(*value));

        let text = registry.render();
        let scrape = parse(&text).map_err(|why| TestCaseError::fail(format!("{why}\n{text}")))?;
        let value = |name: &str, le: Option<&str>| {
            let is_it = |s: &&Sample| s.0 == name && s.1.get("le").map(String::as_str) == le;
            scrape.samples.iter().find(is_it).map(|s| s.2)
        };
        prop_assert!(scrape.samples.iter().all(|s| s.1["who"] == label));
        prop_assert_eq!(value("c_total", None), Some(f64::from(counted)));
        let read = value("g", None).expect("a gauge");
        prop_assert!(read == gauge_value || (read.is_nan() && gauge_value.is_nan()));
        let finite: Vec<f64> = observed.iter().copied().filter(|v| v.is_finite()).collect();
        for bound in BOUNDS {
            let below = finite.iter().filter(|v| **v <= bound).count() as f64;
            prop_assert_eq!(value("h_seconds_bucket", Some(&bound.to_string())), Some(below));
        }
        prop_assert_eq!(value("h_seconds_bucket", Some("+Inf")), Some(finite.len() as f64));
        prop_assert_eq!(value("h_seconds_count", None), Some(finite.len() as f64));
    }
}

#[test]
fn the_reader_is_strict() {
    for wrong in [
        "",
        "a 1",
        "a 1\n",
        "# TYPE a counter\na 1\n",
        "# HELP a x\n# TYPE a counter\na  1\n",
        "# HELP a x\n# TYPE a counter\na{} 1\n",
        "# HELP a x\n# TYPE a counter\na{b=\"\\x\"} 1\n",
        "# HELP a x\n# TYPE a counter\na{b=\"1\",b=\"2\"} 1\n",
        "# HELP a x\n# TYPE a counter\na 1\na 2\n",
        "# HELP a x\n# TYPE a counter\na inf\n",
        "# HELP a x\n# TYPE a count\na 1\n",
        "# HELP a x\n# TYPE a counter\nb 1\n",
    ] {
        assert!(parse(wrong).is_err(), "{wrong:?} was taken");
    }
    assert!(parse("# HELP a x\n# TYPE a counter\na{b=\"1\"} 1.5e3\n").is_ok());
}
