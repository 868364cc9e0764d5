//! Patterns of the allowlist: regular expressions as Go reads them (RE2), without what makes no sense for the name of a
//! setting (Unicode classes, `[[:^name:]]`, `\Q`, `\x`: those are errors). A crate for them would be a tenth of this program.
//!
//! A pattern is matched while it is read, by sets of places: each part turns the places where it may begin into those where
//! it may end. What is repeated is read again. So nothing has to be compiled, and the time is bounded whatever the pattern.

use crate::error::{Error, Result};

/// Groups within groups; Go allows a thousand.
const DEEPEST: u32 = 100;

/// Go's limit for `{n}`.
const MOST_REPEATS: usize = 1000;

/// Places between the letters of the text, from before the first to behind the last.
type Places = Vec<bool>;

/// True if the pattern matches anywhere in the text.
pub(super) fn is_found(pattern: &str, text: &str) -> Result<bool> {
    let text: Vec<char> = text.chars().collect();
    let mut matcher = Matcher { text: &text, rest: pattern, folds_case: false, depth: 0 };
    let ends = matcher.either(&vec![true; text.len() + 1])?;
    match matcher.rest {
        "" => Ok(ends.contains(&true)),
        _ => Err(unreadable("unexpected )", pattern)),
    }
}

fn unreadable(why: &str, what: &str) -> Error {
    Error::internal(format!("error parsing regexp: {why}: `{what}`"))
}

struct Matcher<'p> {
    text: &'p [char],
    /// What is still to be read of the pattern.
    rest: &'p str,
    folds_case: bool,
    depth: u32,
}

impl Matcher<'_> {
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

    /// Alternatives.
    fn either(&mut self, from: &[bool]) -> Result<Places> {
        let mut ends = self.sequence(from)?;
        while self.take("|") {
            join(&mut ends, &self.sequence(from)?);
        }
        Ok(ends)
    }

    fn sequence(&mut self, from: &[bool]) -> Result<Places> {
        let mut places = from.to_vec();
        while !self.rest.is_empty() && !self.rest.starts_with(['|', ')']) {
            places = self.repeated(places)?;
        }
        Ok(places)
    }

    /// A part with the signs of repetition that follow it.
    fn repeated(&mut self, from: Places) -> Result<Places> {
        let start = (self.rest, self.folds_case);
        let mut once = Some(self.one(&from)?);
        let Some((least, most)) = self.counts()? else { return Ok(once.unwrap_or_default()) };
        // Greedy or not is about which match counts, and here any does.
        self.take("?");
        if self.counts()?.is_some() {
            return Err(unreadable("invalid nested repetition operator", "*"));
        }
        let behind = (self.rest, self.folds_case);
        let mut places = from;
        // No more rounds than the text has letters lead anywhere new.
        let most = most.unwrap_or(usize::MAX).min(least.saturating_add(self.text.len()));
        for round in 0..most {
            (self.rest, self.folds_case) = start;
            let mut next = once.take().map_or_else(|| self.one(&places), Ok)?;
            if round >= least {
                join(&mut next, &places);
            }
            if next == places {
                break;
            }
            places = next;
        }
        (self.rest, self.folds_case) = behind;
        Ok(places)
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

    /// A letter, class, group or place.
    fn one(&mut self, from: &[bool]) -> Result<Places> {
        let Some(letter) = self.next() else { return Ok(from.to_vec()) };
        Ok(match letter {
            '(' => return self.group(from),
            '[' => return self.class(from),
            '\\' => return self.escape(from),
            '*' | '+' | '?' => {
                return Err(unreadable("missing argument to repetition operator", &letter.to_string()));
            }
            '^' => keep(from, |place| place == 0),
            '$' => keep(from, |place| place == self.text.len()),
            '.' => self.letters(from, true, &['\n', '\n']),
            _ => self.letters(from, false, &[letter, letter]),
        })
    }

    /// One letter of these ranges (first and last, first and last) or, if negated, of none of them.
    fn letters(&self, from: &[bool], negated: bool, ranges: &[char]) -> Places {
        let is_in = |letter: char| {
            ranges.chunks(2).any(|range| range.first() <= Some(&letter) && Some(&letter) <= range.last())
        };
        let folded = |letter: char| match letter.is_ascii_lowercase() {
            true => letter.to_ascii_uppercase(),
            false => letter.to_ascii_lowercase(),
        };
        let fits = |letter: char| (is_in(letter) || self.folds_case && is_in(folded(letter))) != negated;
        let after = self.text.iter().zip(from).map(|(letter, begins)| *begins && fits(*letter));
        std::iter::once(false).chain(after).collect()
    }

    /// What follows `(`: a group, named or not, or flags, for it or for all that follows.
    fn group(&mut self, from: &[bool]) -> Result<Places> {
        let folds_case = self.folds_case;
        if self.take("?P<") || self.take("?<") {
            self.rest = self.rest.split_once('>').map_or("", |(_, rest)| rest);
        } else if self.take("?") {
            let mut on = true;
            loop {
                match self.next() {
                    Some(':') => break,
                    Some(')') => return Ok(from.to_vec()),
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
        let ends = self.either(from)?;
        self.depth -= 1;
        self.folds_case = folds_case;
        if self.take(")") { Ok(ends) } else { Err(unreadable("missing closing )", "(")) }
    }

    /// What follows `[`.
    fn class(&mut self, from: &[bool]) -> Result<Places> {
        let negated = self.take("^");
        let mut ranges: Vec<char> = Vec::new();
        while ranges.is_empty() || !self.take("]") {
            let shorthand = self.rest.strip_prefix('\\').and_then(|rest| shorthand(rest.chars().next()?));
            if self.take("[:") {
                let (name, rest) = self.rest.split_once(":]").unwrap_or_default();
                self.rest = rest;
                ranges.extend(named(name).ok_or_else(|| unreadable("invalid character class range", name))?.chars());
            } else if let Some(many) = shorthand {
                self.rest = self.rest.get(2..).unwrap_or_default();
                ranges.extend(many.chars());
            } else {
                let low = self.class_letter()?;
                let is_range = self.rest.starts_with('-') && !self.rest.starts_with("-]");
                let high = if is_range && self.take("-") { self.class_letter()? } else { low };
                if high < low {
                    return Err(unreadable("invalid character class range", &format!("{low}-{high}")));
                }
                ranges.extend([low, high]);
            }
        }
        Ok(self.letters(from, negated, &ranges))
    }

    fn class_letter(&mut self) -> Result<char> {
        let escaped = self.take("\\");
        match self.next() {
            None => Err(unreadable("missing closing ]", "[")),
            Some(letter) if escaped && !letter.is_ascii_punctuation() => Err(bad_escape(letter)),
            Some(letter) => Ok(letter),
        }
    }

    /// What follows a backslash outside a class.
    fn escape(&mut self, from: &[bool]) -> Result<Places> {
        let letter = self.next().ok_or_else(|| unreadable("trailing backslash at end of expression", "\\"))?;
        let is_word =
            |place: usize| self.text.get(place).is_some_and(|letter| letter.is_ascii_alphanumeric() || *letter == '_');
        let is_boundary = |place: usize| place.checked_sub(1).is_some_and(is_word) != is_word(place);
        Ok(match letter {
            'A' => keep(from, |place| place == 0),
            'z' => keep(from, |place| place == self.text.len()),
            'b' => keep(from, is_boundary),
            'B' => keep(from, |place| !is_boundary(place)),
            _ if letter.is_ascii_punctuation() => self.letters(from, false, &[letter, letter]),
            _ => {
                let ranges = shorthand(letter.to_ascii_lowercase()).ok_or_else(|| bad_escape(letter))?;
                self.letters(from, letter.is_ascii_uppercase(), &ranges.chars().collect::<Vec<_>>())
            }
        })
    }
}

fn keep(from: &[bool], wanted: impl Fn(usize) -> bool) -> Places {
    from.iter().enumerate().map(|(place, begins)| *begins && wanted(place)).collect()
}

fn join(places: &mut [bool], others: &[bool]) {
    places.iter_mut().zip(others).for_each(|(place, other)| *place |= *other);
}

fn bad_escape(letter: char) -> Error {
    unreadable("invalid escape sequence", &format!("\\{letter}"))
}

/// Letters with a name of their own, behind a backslash.
fn shorthand(letter: char) -> Option<&'static str> {
    match letter {
        'd' => named("digit"),
        'w' => named("word"),
        's' => named("space"),
        _ => None,
    }
}

/// Letters between `[:` and `:]`, as ranges.
fn named(name: &str) -> Option<&'static str> {
    Some(match name {
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
    })
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
            ("^(ab?){2,3}c*$", "aabacc"),
            ("^((?i)A)B{0,1}$", "a"),
            ("(?i)^[^a-z]N$", "1n"),
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
            ("^(ab?){2,3}$", "a"),
            ("^((?i)A)B+$", "ab"),
            ("(?i)^[^a-z]$", "N"),
            ("^a{0}$", "a"),
            (r"^\W\D$", "a1"),
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
            (r"[\y]", r"invalid escape sequence: `\y`"),
            (r"(\Z*)", r"invalid escape sequence: `\Z`"),
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
        let nested = |inner: &str| format!("^{}{inner}{}b$", "(".repeat(90), ")*".repeat(90));
        assert!(!found(&nested("a"), &"a".repeat(200)));
        assert!(!found(&nested("(a|aa)+"), &"a".repeat(200)));
    }
}
