//! `datasets diff`.

use datasets::compare::{ClassCount, ComparedData, Difference, Shift, TableDifference, compare_within};
use datasets::registry::{Registry, RegistryError};

use super::text::{aligned, counted, one_line, path_line, short};
use super::{DataReference, PrintFormat};

const FILES_SHOWN_MAX: usize = 50;
const CATEGORIES_SHOWN_MAX: usize = 20;

pub(super) fn run(
    registry: &Registry,
    a: &str,
    b: &str,
    memory_mb: u64,
    output: PrintFormat,
) -> Result<String, RegistryError> {
    let difference = compare_within(&side(registry, a)?, &side(registry, b)?, memory_mb)?;
    if output == PrintFormat::Json {
        let value = serde_json::to_value(&difference)
            .map_err(|why| RegistryError::Wrong { place: format!("{a}, {b}"), problem: why.to_string() })?;
        return Ok(printable::json(&format!("{value:#}\n")).into_owned());
    }
    Ok(text_of(&difference))
}

fn side(registry: &Registry, word: &str) -> Result<ComparedData, RegistryError> {
    match DataReference::by(word)? {
        DataReference::Path(path) => ComparedData::of_path(&path),
        DataReference::Version(reference) => {
            Ok(ComparedData::of_version(registry, &registry.find(&reference)?))
        }
    }
}

fn text_of(difference: &Difference) -> String {
    let (added, removed, changed) =
        (difference.added.len(), difference.removed.len(), difference.changed.len());
    let mut text = format!(
        "{} -> {}\nfiles: {added} added, {removed} removed, {changed} changed, {} the same\n",
        difference.before, difference.after, difference.same
    );
    let one =
        |sign: &str, (path, bytes): &(String, u64)| format!("  {sign} {}  {bytes} bytes\n", path_line(path));
    listed(&mut text, &difference.added, |file| one("+", file));
    listed(&mut text, &difference.removed, |file| one("-", file));
    listed(&mut text, &difference.changed, |(path, before, after)| {
        format!("  ~ {}  {before} -> {after} bytes\n", path_line(path))
    });
    push_classes(&mut text, &difference.classes);
    for table in &difference.tables {
        push_table(&mut text, table);
    }
    for note in &difference.notes {
        text.push_str(&format!("\n{}\n", path_line(note)));
    }
    text
}

/// Formats the first items, then the number of items left out.
fn listed<T>(text: &mut String, all: &[T], line: impl Fn(&T) -> String) {
    all.iter().take(FILES_SHOWN_MAX).for_each(|one| text.push_str(&line(one)));
    if all.len() > FILES_SHOWN_MAX {
        text.push_str(&format!("  and {} more\n", all.len() - FILES_SHOWN_MAX));
    }
}

fn push_classes(text: &mut String, classes: &[ClassCount]) {
    if classes.is_empty() {
        return;
    }
    text.push_str("\nimages of each class\n");
    let shown = classes.iter().take(CATEGORIES_SHOWN_MAX);
    let line =
        |class: &ClassCount| [format!("  {}", path_line(&class.class)), moved(&class.before, &class.after)];
    text.push_str(&aligned(&shown.map(line).collect::<Vec<_>>()));
    if classes.len() > CATEGORIES_SHOWN_MAX {
        text.push_str(&format!("  and {} more\n", classes.len() - CATEGORIES_SHOWN_MAX));
    }
}

fn push_table(text: &mut String, table: &TableDifference) {
    let rows = &table.rows;
    text.push_str(&format!(
        "\n{}: {} -> {}: {} added, {} removed\n",
        path_line(&table.path),
        rows.rows_before,
        counted(rows.rows_after, "row"),
        rows.rows_added,
        rows.rows_removed
    ));
    for (sign, names) in [("+", &table.columns_added), ("-", &table.columns_removed)] {
        names.iter().for_each(|name| text.push_str(&format!("  {sign} column {}\n", one_line(name))));
    }
    if table.columns.is_empty() {
        return;
    }
    let head = ["column", "missing", "mean", "5%", "median", "95%", "psi", ""].map(str::to_owned);
    let lines: Vec<_> = std::iter::once(head).chain(table.columns.iter().map(row)).collect();
    text.push_str(&aligned(&lines));
    for column in table.columns.iter().filter(|column| !column.counts.is_empty()) {
        text.push_str(&format!("counts of {}\n", one_line(&column.name)));
        let shown = column.counts.iter().take(CATEGORIES_SHOWN_MAX);
        let lines: Vec<_> = shown
            .map(|(label, before, after)| [format!("  {}", one_line(label)), moved(before, after)])
            .collect();
        text.push_str(&aligned(&lines));
        if column.counts.len() > CATEGORIES_SHOWN_MAX {
            text.push_str(&format!("  and {} more\n", column.counts.len() - CATEGORIES_SHOWN_MAX));
        }
    }
}

fn row(column: &Shift) -> [String; 8] {
    let number = |pair: Option<[f64; 2]>| pair.map_or_else(String::new, |[a, b]| moved(&short(a), &short(b)));
    let quantile = |place: usize| number(column.quantiles.map(|[a, b]| [a[place], b[place]]));
    // The rule of thumb documented at `population_stability`.
    let verdict = match column.psi {
        None => "",
        Some(psi) if psi < 0.1 => "little change",
        Some(psi) if psi <= 0.25 => "some change",
        Some(_) => "great change",
    };
    [
        one_line(&column.name),
        moved(&column.missing[0], &column.missing[1]),
        number(column.mean),
        quantile(0),
        quantile(2),
        quantile(4),
        column.psi.map_or_else(String::new, |psi| format!("{psi:.3}")),
        verdict.to_owned(),
    ]
}

/// `before -> after`, or the value alone if it didn't change.
fn moved<T: PartialEq + std::fmt::Display>(before: &T, after: &T) -> String {
    if before == after { before.to_string() } else { format!("{before} -> {after}") }
}
