//! The order in which addresses of a range set are tried (`RangeIter` of the reference's `allocator.go`): round robin,
//! so that a released address is not handed out again before all others have been.

use std::net::IpAddr;

use crate::ipam::ranges::{Range, RangeSet, successor};

/// Every address of a set once, each with its range, without the gateway of that range.
#[derive(Debug, Clone)]
pub struct Candidates<'s> {
    ranges: &'s [Range],
    /// Position of the current range.
    current: usize,
    last: Option<IpAddr>,
    /// Where the walk began; it ends when it comes back.
    first: Option<IpAddr>,
}

impl RangeSet {
    /// Begins after `last_reserved` when that lies in the set, so that it is tried last; otherwise at the start.
    pub fn candidates(&self, last_reserved: Option<IpAddr>) -> Candidates<'_> {
        let inside = |ip| Some((self.ranges().iter().position(|range| range.contains(ip))?, Some(ip)));
        let (current, last) = last_reserved.and_then(inside).unwrap_or((0, None));
        Candidates { ranges: self.ranges(), current, last, first: None }
    }
}

impl<'s> Iterator for Candidates<'s> {
    type Item = (&'s Range, IpAddr);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (range, address) = self.advance()?;
            if address != range.gateway() {
                return Some((range, address));
            }
        }
    }
}

impl<'s> Candidates<'s> {
    fn advance(&mut self) -> Option<(&'s Range, IpAddr)> {
        let range = self.ranges.get(self.current)?;
        let (range, address) = match self.last {
            None => (range, range.start()),
            Some(last) if last == range.end() => {
                self.current = (self.current + 1) % self.ranges.len();
                let range = self.ranges.get(self.current)?;
                (range, range.start())
            }
            Some(last) => (range, successor(last)),
        };
        if self.first == Some(address) {
            return None;
        }
        self.first.get_or_insert(address);
        self.last = Some(address);
        Some((range, address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cni::config::Object;
    use crate::ipam::ranges::{Draft, complete};
    use serde_json::{Value, json};

    fn set(ranges: Value) -> RangeSet {
        let document = json!({ "ranges": [ranges] });
        let drafts = Draft::decode_sets(&Object::top(document.as_object().unwrap()), "ranges").unwrap();
        complete(&drafts, "1.0.0").unwrap().remove(0)
    }

    fn walk(ranges: Value, last: &str) -> String {
        let set = set(ranges);
        let texts: Vec<String> = set.candidates(last.parse().ok()).map(|(_, ip)| ip.to_string()).collect();
        texts.join(" ")
    }

    #[test]
    fn begins_at_the_start_and_skips_the_gateway() {
        let range = json!([{"subnet": "10.0.0.0/29"}]);
        assert_eq!(walk(range.clone(), ""), "10.0.0.2 10.0.0.3 10.0.0.4 10.0.0.5 10.0.0.6");
        assert_eq!(walk(range.clone(), "10.9.9.9"), "10.0.0.2 10.0.0.3 10.0.0.4 10.0.0.5 10.0.0.6");
        let last = json!([{"subnet": "10.0.0.0/30", "gateway": "10.0.0.2"}]);
        assert_eq!(walk(last, ""), "10.0.0.1");
        assert_eq!(walk(json!([{"subnet": "fd00::/126"}]), ""), "fd00::2 fd00::3");
    }

    #[test]
    fn the_last_reserved_address_is_tried_last() {
        let range = json!([{"subnet": "10.0.0.0/29"}]);
        assert_eq!(walk(range.clone(), "10.0.0.3"), "10.0.0.4 10.0.0.5 10.0.0.6 10.0.0.2 10.0.0.3");
        assert_eq!(walk(range.clone(), "10.0.0.6"), "10.0.0.2 10.0.0.3 10.0.0.4 10.0.0.5 10.0.0.6");
        assert_eq!(walk(range, "10.0.0.1"), "10.0.0.2 10.0.0.3 10.0.0.4 10.0.0.5 10.0.0.6");
        assert_eq!(walk(json!([{"subnet": "fd00::/126"}]), "fd00::2"), "fd00::3 fd00::2");
    }

    #[test]
    fn goes_on_in_the_next_range_and_skips_only_its_own_gateway() {
        let ranges = json!([
            {"subnet": "10.0.0.0/30", "gateway": "10.0.1.2"},
            {"subnet": "10.0.1.0/30"},
        ]);
        assert_eq!(walk(ranges.clone(), ""), "10.0.0.1 10.0.0.2 10.0.1.2");
        assert_eq!(walk(ranges.clone(), "10.0.0.2"), "10.0.1.2 10.0.0.1 10.0.0.2");
        assert_eq!(walk(ranges, "10.0.1.2"), "10.0.0.1 10.0.0.2 10.0.1.2");
    }

    #[test]
    fn a_single_address_is_tried_once_unless_it_is_the_gateway() {
        let one = |gateway| json!([{"subnet": "10.0.0.0/29", "rangeStart": "10.0.0.5", "rangeEnd": "10.0.0.5", "gateway": gateway}]);
        assert_eq!(walk(one("10.0.0.1"), ""), "10.0.0.5");
        assert_eq!(walk(one("10.0.0.1"), "10.0.0.5"), "10.0.0.5");
        assert_eq!(walk(one("10.0.0.5"), ""), "");
        assert_eq!(walk(one("10.0.0.5"), "10.0.0.5"), "");
    }

    #[test]
    fn the_ends_of_the_address_space_do_not_overflow() {
        let top = json!([{"subnet": "255.255.255.252/30", "rangeEnd": "255.255.255.255"}]);
        assert_eq!(walk(top, "255.255.255.255"), "255.255.255.254 255.255.255.255");
        let everything = set(json!([{"subnet": "::/0"}]));
        let last = everything.ranges()[0].end();
        assert_eq!(everything.candidates(Some(last)).next().unwrap().1.to_string(), "::2");
    }
}
