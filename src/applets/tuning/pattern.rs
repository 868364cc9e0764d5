//! Patterns of the allowlist: regular expressions as Go reads them (RE2), without what makes no sense for the name of a
//! setting (Unicode classes, `[[:^name:]]`, `\Q`, `\x`: those are errors). A crate for them would be a tenth of this program.
//!
//! A pattern is matched by sets of places: each part turns the places where it may begin into those where it may end. So
//! the time is bounded whatever the pattern, and nothing has to be compiled.

use crate::error::{Error, Result};

/// Groups within groups; Go allows a thousand.
const DEEPEST: u32 = 100;

/// Go's limit for `{n}`.
const MOST_REPEATS: usize = 1000;

/// A part of a pattern.
#[derive(Debug)]
enum Part {
    /// One letter of these ranges or, if negated, of none of them.
    Letter { negated: bool, ranges: Vec<(char, char)> },
    /// The beginning.
    Start,
    /// The end.
    End,
    /// A place where a word begins or ends; or, if false, any other.
    Boundary(bool),
    /// One after the other.
    Sequence(Vec<Part>),
    /// Any of these.
    Either(Vec<Part>),
    /// So many times, or more if there is no upper limit.
    Repeat(Box<Part>, usize, Option<usize>),
}

/// True if the pattern matches anywhere in the text.
pub(super) fn is_found(pattern: &str, text: &str) -> Result<bool> {
    let mut parser = Parser { rest: pattern, folds_case: false, depth: 0 };
    let part = parser.either()?;
    if !parser.rest.is_empty() {
        return Err(unreadable("unexpected )", pattern));
    }
    let text: Vec<char> = text.chars().collect();
    Ok(part.ends(&text, vec![true; text.len() + 1]).contains(&true))
}

fn unreadable(why: &str, what: &str) -> Error {
    Error::internal(format!("error parsing regexp: {why}: `{what}`"))
}

impl Part {
    /// Where the part ends if it begins at one of the places that are true.
    fn ends(&self, text: &[char], mut from: Vec<bool>) -> Vec<bool> {
        match self {
            Part::Letter { negated, ranges } => {
                let fits = |letter: char| ranges.iter().any(|(low, high)| (*low..=*high).contains(&letter)) != *negated;
                let after = text.iter().zip(&from).map(|(letter, begins)| *begins && fits(*letter));
                std::iter::once(false).chain(after).collect()
            }
            Part::Start => keep(from, |place| place == 0),
            Part::End => keep(from, |place| place == text.len()),
            Part::Boundary(wanted) => {
                let is_word = |place: Option<usize>| place.and_then(|place| text.get(place)).is_some_and(is_of_word);
                keep(from, |place| (is_word(place.checked_sub(1)) != is_word(Some(place))) == *wanted)
            }
            Part::Sequence(parts) => parts.iter().fold(from, |places, part| part.ends(text, places)),
            Part::Either(parts) => {
                let mut ends = vec![false; from.len()];
                parts.iter().for_each(|part| join(&mut ends, &part.ends(text, from.clone())));
                ends
            }
            Part::Repeat(part, least, most) => {
                rounds(*least, &mut from, |places| part.ends(text, places));
                let mut ends = from;
                // No more rounds than the text has letters lead anywhere new.
                let most = most.map_or(text.len(), |most| (most - least).min(text.len()));
                rounds(most, &mut ends, |places| {
                    let mut all = places.clone();
                    join(&mut all, &part.ends(text, places));
                    all
                });
                ends
            }
        }
    }
}

/// Changes the places so many times, or until that makes no difference any more.
fn rounds(times: usize, places: &mut Vec<bool>, change: impl Fn(Vec<bool>) -> Vec<bool>) {
    for _ in 0..times {
        let next = change(places.clone());
        if next == *places {
            return;
        }
        *places = next;
    }
}

fn keep(mut places: Vec<bool>, wanted: impl Fn(usize) -> bool) -> Vec<bool> {
    places.iter_mut().enumerate().for_each(|(place, begins)| *begins &= wanted(place));
    places
}

fn join(places: &mut [bool], others: &[bool]) {
    places.iter_mut().zip(others).for_each(|(place, other)| *place |= *other);
}

fn is_of_word(letter: &char) -> bool {
    letter.is_ascii_alphanumeric() || *letter == '_'
}

struct Parser<'p> {
    rest: &'p str,
    folds_case: bool,
    depth: u32,
}

impl Parser<'_> {
    fn take(&mut self, text: &str) -> bool {
        let rest = self.rest.strip_prefix(text);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn next(&mut self) -> Option<char> {
        let mut letters = self.rest.chars();
        let letter = letters.next();
        self.rest = letters.as_str();
        letter
    }

    fn either(&mut self) -> Result<Part> {
        let mut choices = vec![self.sequence()?];
        while self.take("|") {
            choices.push(self.sequence()?);
        }
        Ok(Part::Either(choices))
    }

    fn sequence(&mut self) -> Result<Part> {
        let mut parts = Vec::new();
        while !self.rest.is_empty() && !self.rest.starts_with(['|', ')']) {
            let part = self.one()?;
            parts.push(self.repeated(part)?);
        }
        Ok(Part::Sequence(parts))
    }

    fn one(&mut self) -> Result<Part> {
        match self.next() {
            Some('(') => self.group(),
            Some('[') => self.class(),
            Some('^') => Ok(Part::Start),
            Some('$') => Ok(Part::End),
            Some('.') => Ok(Part::Letter { negated: true, ranges: vec![('\n', '\n')] }),
            Some(sign @ ('*' | '+' | '?')) => {
                Err(unreadable("missing argument to repetition operator", &sign.to_string()))
            }
            Some('\\') => self.escape(),
            letter => Ok(self.letters(false, letter.map(|letter| (letter, letter)).into_iter().collect())),
        }
    }

    /// Letters, in either case if the pattern says so.
    fn letters(&self, negated: bool, mut ranges: Vec<(char, char)>) -> Part {
        if self.folds_case {
            let letters = ranges.iter().flat_map(|(low, high)| *low..=*high).filter(char::is_ascii_alphabetic);
            let others: Vec<char> = letters.map(|letter| (letter as u8 ^ 0x20) as char).collect();
            ranges.extend(others.into_iter().map(|letter| (letter, letter)));
        }
        Part::Letter { negated, ranges }
    }

    /// What follows `(`: a group, named or not, or flags, for it or for all that follows.
    fn group(&mut self) -> Result<Part> {
        let folds_case = self.folds_case;
        if self.take("?P<") || self.take("?<") {
            self.rest = self.rest.split_once('>').map_or("", |(_, rest)| rest);
        } else if self.take("?") {
            let mut on = true;
            loop {
                match self.next() {
                    Some(':') => break,
                    Some(')') => return Ok(Part::Sequence(Vec::new())),
                    Some('i') => self.folds_case = on,
                    Some('-') => on = false,
                    // About several lines, and about which of several matches counts.
                    Some('s' | 'm' | 'U') => {}
                    _ => return Err(unreadable("invalid or unsupported Perl syntax", "(?")),
                }
            }
        }
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err(unreadable("expression nests too deeply", "("));
        }
        let inside = self.either()?;
        self.depth -= 1;
        self.folds_case = folds_case;
        if self.take(")") { Ok(inside) } else { Err(unreadable("missing closing )", "(")) }
    }

    /// What follows `[`.
    fn class(&mut self) -> Result<Part> {
        let negated = self.take("^");
        let mut ranges = Vec::new();
        while ranges.is_empty() || !self.take("]") {
            if self.take("[:") {
                let (name, rest) = self.rest.split_once(":]").unwrap_or_default();
                self.rest = rest;
                ranges.extend(named(name).ok_or_else(|| unreadable("invalid character class range", name))?);
            } else if let Some(many) = self.rest.strip_prefix('\\').and_then(|rest| shorthand(rest.chars().next()?)) {
                self.rest = self.rest.get(2..).unwrap_or_default();
                ranges.extend(many);
            } else {
                let low = self.class_letter()?;
                let is_range = self.rest.starts_with('-') && !self.rest.starts_with("-]");
                let high = if is_range && self.take("-") { self.class_letter()? } else { low };
                if high < low {
                    return Err(unreadable("invalid character class range", &format!("{low}-{high}")));
                }
                ranges.push((low, high));
            }
        }
        Ok(self.letters(negated, ranges))
    }

    fn class_letter(&mut self) -> Result<char> {
        let letter = if self.take("\\") { self.next().filter(char::is_ascii_punctuation) } else { self.next() };
        letter.ok_or_else(|| unreadable("missing closing ]", "["))
    }

    /// What follows a backslash outside a class.
    fn escape(&mut self) -> Result<Part> {
        let letter = self.next().ok_or_else(|| unreadable("trailing backslash at end of expression", "\\"))?;
        match letter {
            'A' => Ok(Part::Start),
            'z' => Ok(Part::End),
            'b' | 'B' => Ok(Part::Boundary(letter == 'b')),
            'D' | 'S' | 'W' => {
                let ranges = shorthand(letter.to_ascii_lowercase()).unwrap_or_default();
                Ok(Part::Letter { negated: true, ranges })
            }
            _ => match shorthand(letter) {
                Some(ranges) => Ok(Part::Letter { negated: false, ranges }),
                None if letter.is_ascii_punctuation() => Ok(self.letters(false, vec![(letter, letter)])),
                None => Err(unreadable("invalid escape sequence", &format!("\\{letter}"))),
            },
        }
    }

    /// A part with the signs of repetition that follow it.
    fn repeated(&mut self, part: Part) -> Result<Part> {
        let (least, most) = match self.counts()? {
            None => return Ok(part),
            Some(counts) => counts,
        };
        // Greedy or not is about which match counts, and here any does.
        self.take("?");
        if self.counts()?.is_some() {
            return Err(unreadable("invalid nested repetition operator", "*"));
        }
        Ok(Part::Repeat(Box::new(part), least, most))
    }

    /// How often; braces without numbers stand for themselves.
    fn counts(&mut self) -> Result<Option<(usize, Option<usize>)>> {
        for (sign, counts) in [("*", (0, None)), ("+", (1, None)), ("?", (0, Some(1)))] {
            if self.take(sign) {
                return Ok(Some(counts));
            }
        }
        let inside = self.rest.strip_prefix('{').and_then(|rest| rest.split_once('}'));
        let Some((numbers, rest)) = inside else { return Ok(None) };
        let (low, high) = numbers.split_once(',').unwrap_or((numbers, numbers));
        let are_digits = |text: &str| text.bytes().all(|digit| digit.is_ascii_digit());
        if low.is_empty() || !are_digits(low) || !are_digits(high) {
            return Ok(None);
        }
        let number = |text: &str| text.parse().ok().filter(|number| *number <= MOST_REPEATS);
        let bad = || unreadable("invalid repeat count", numbers);
        let least = number(low).ok_or_else(bad)?;
        let most = if high.is_empty() { None } else { Some(number(high).ok_or_else(bad)?) };
        if most.is_some_and(|most| most < least) {
            return Err(bad());
        }
        self.rest = rest;
        Ok(Some((least, most)))
    }
}

/// Letters with a name of their own, behind a backslash.
fn shorthand(letter: char) -> Option<Vec<(char, char)>> {
    match letter {
        'd' => named("digit"),
        'w' => named("word"),
        's' => named("space"),
        't' => Some(vec![('\t', '\t')]),
        _ => None,
    }
}

/// Letters between `[:` and `:]`.
fn named(name: &str) -> Option<Vec<(char, char)>> {
    let pairs = match name {
        "digit" => "09",
        "lower" => "az",
        "upper" => "AZ",
        "alpha" => "azAZ",
        "alnum" => "azAZ09",
        "word" => "azAZ09__",
        "xdigit" => "afAF09",
        "space" => "\t\r  ",
        "punct" => "!/:@[`{~",
        _ => return None,
    };
    let letters: Vec<char> = pairs.chars().collect();
    Some(letters.chunks_exact(2).filter_map(|pair| Some((*pair.first()?, *pair.last()?))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(pattern: &str, text: &str) -> bool {
        is_found(pattern, text).unwrap_or_else(|error| panic!("{pattern}: {error}"))
    }

    /// Each line was tried as allowlist of the reference 1.9.1.
    #[test]
    fn matches_as_go_does() {
        let yes = [
            ("", "x"),
            ("core", "net.core.somaxconn"),
            (r"^net\.ipv4\.conf\.IFNAME\.[a-z_]*$", "net.ipv4.conf.IFNAME.arp_filter"),
            ("^net.ipv4.conf", "net/ipv4/conf"),
            ("a|b|^net", "net"),
            ("^(net|kernel)[./](ipv4|ipv6)", "net/ipv6/x"),
            ("^(?:ab)+$", "ababab"),
            ("^(?P<x>ab)?(?<y>c)$", "c"),
            ("^a{2,3}$", "aaa"),
            ("^a{2,}b{0}$", "aaaa"),
            ("^a{2}?$", "aa"),
            ("a{,2}", "a{,2}"),
            ("x{y}", "x{y}"),
            (r"^\w+\.\d\S$", "ab_.7x"),
            (r"^[^.]+\.[^\d]$", "net.x"),
            ("^[]a-c-]+$", "]-b"),
            (r"^[\]\-.\w]+$", "a]-._"),
            ("^[[:alnum:]_]+$", "aZ9_"),
            ("(?i)^NET", "net"),
            ("(?i:N)et", "net"),
            (r"\bipv4\b", "net.ipv4.x"),
            (r"\Anet\z", "net"),
            ("(|a)*b", "aab"),
            ("(a*)*$", "b"),
            ("^(a|)+$", "aa"),
        ];
        for (pattern, text) in yes {
            assert!(found(pattern, text), "{pattern} {text}");
        }
        let no = [
            ("^core", "net.core"),
            ("core$", "net.core.x"),
            (r"^net\.ipv4$", "net/ipv4"),
            ("^a{2,3}$", "aaaa"),
            ("^a{2,3}$", "a"),
            ("[^a]", "aaa"),
            ("(?i:N)ET", "net"),
            (r"\Bipv4", "net.ipv4"),
            ("a.c", "a\nc"),
            ("^(ab|c)$", "abc"),
        ];
        for (pattern, text) in no {
            assert!(!found(pattern, text), "{pattern} {text}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        let bad = [
            ("a)", "unexpected ): `a)`"),
            ("(a", "missing closing ): `(`"),
            ("[a", "missing closing ]: `[`"),
            ("[]", "missing closing ]: `[`"),
            ("*a", "missing argument to repetition operator: `*`"),
            ("a**", "invalid nested repetition operator: `*`"),
            ("a{2}{3}", "invalid nested repetition operator: `*`"),
            ("a{1001}", "invalid repeat count: `1001`"),
            ("a{3,2}", "invalid repeat count: `3,2`"),
            ("[z-a]", "invalid character class range: `z-a`"),
            ("a\\", "trailing backslash at end of expression: `\\`"),
            (r"\y", r"invalid escape sequence: `\y`"),
            ("(?=a)", "invalid or unsupported Perl syntax: `(?`"),
            ("[[:nope:]]", "invalid character class range: `nope`"),
        ];
        for (pattern, text) in bad {
            assert_eq!(is_found(pattern, "a").unwrap_err().msg, format!("error parsing regexp: {text}"), "{pattern}");
        }
        assert!(is_found(&"(".repeat(100_000), "a").is_err());
    }

    #[test]
    fn no_pattern_takes_long() {
        assert!(!found("^(a*)*(a*)*(a*)*(a*)*(a*)*b$", &"a".repeat(200)));
        assert!(!found("((a{1000}){1000})", &"a".repeat(200)));
    }
}
