//! The rows of COMPAT.md's section "Differences that the table test sees".

use super::cases;

/// Part of the program, since the guest has no source.
const COMPAT: &str = include_str!("../../COMPAT.md");
const SECTION: &str = "## Differences that the table test sees";

/// One row. In the first four columns stands a list of words, or `*` for all; `reference` and `ours` are parts of what each
/// side answers, or `*` for anything.
#[derive(Debug)]
pub struct Row {
    plugins: String,
    versions: String,
    verbs: String,
    cases: String,
    reference: String,
    ours: String,
}

/// Where a difference was seen.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    pub plugin: &'a str,
    pub version: &'a str,
    pub verb: &'a str,
    pub case: &'a str,
}

/// All rows that name a plugin.
pub fn rows_of(plugin: &str) -> Vec<Row> {
    all_rows().into_iter().filter(|row| lists(&row.plugins, plugin)).collect()
}

fn all_rows() -> Vec<Row> {
    let section = COMPAT.split_once(SECTION).unwrap_or_else(|| panic!("COMPAT.md has no {SECTION:?}")).1;
    let lines = section.split("\n## ").next().unwrap().lines().filter(|line| line.starts_with('|')).skip(2);
    let rows: Vec<_> = lines.map(parse).collect();
    assert!(!rows.is_empty(), "COMPAT.md has no rows under {SECTION:?}");
    rows
}

/// A row's text must say why, too.
fn parse(line: &str) -> Row {
    let cells = line.trim().trim_matches('|').split(" | ");
    let cells: Vec<_> = cells.map(|cell| cell.trim().trim_matches('`')).collect();
    let &[plugins, versions, verbs, cases, reference, ours, why] = cells.as_slice() else {
        panic!("not a row of seven columns: {line}")
    };
    assert!(!why.is_empty(), "says not why: {line}");
    let [plugins, versions, verbs, cases, reference, ours] =
        [plugins, versions, verbs, cases, reference, ours].map(str::to_string);
    Row { plugins, versions, verbs, cases, reference, ours }
}

fn lists(column: &str, word: &str) -> bool {
    column == "*" || column.split(", ").any(|one| one == word)
}

impl Row {
    /// Whether the row is about such a call at all.
    pub fn is_about(&self, place: Place<'_>) -> bool {
        lists(&self.versions, place.version) && lists(&self.verbs, place.verb) && lists(&self.cases, place.case)
    }

    /// Whether the row tells these two answers.
    pub fn tells(&self, theirs: &str, ours: &str) -> bool {
        let fits = |cell: &str, answer: &str| cell == "*" || answer.contains(cell);
        fits(&self.reference, theirs) && fits(&self.ours, ours)
    }
}

/// A row with a word that is never asked for would neither excuse anything nor be missed.
#[test]
fn rows_name_only_what_is_asked() {
    let versions = cases::versions().iter().map(cases::version_name).collect();
    let verbs = super::VERBS.map(str::to_string).to_vec();
    let plugins = super::ALL.map(str::to_string).to_vec();
    for row in all_rows() {
        for (column, known) in
            [(&row.plugins, &plugins), (&row.versions, &versions), (&row.verbs, &verbs), (&row.cases, &cases::names())]
        {
            let unknown: Vec<_> = column.split(", ").filter(|word| !lists(&known.join(", "), word)).collect();
            assert!(column == "*" || unknown.is_empty(), "{unknown:?} is never asked: {row:#?}");
        }
    }
}
