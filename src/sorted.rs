//! Sets that are made at once. In the binary each kind of them takes a fraction of a `BTreeSet`.

/// A set of values.
#[derive(Debug, Default)]
pub struct SortedSet<T>(Vec<T>);

impl<T: Ord> SortedSet<T> {
    /// The set of these values.
    pub fn new(mut values: Vec<T>) -> Self {
        values.sort_unstable();
        values.dedup();
        SortedSet(values)
    }

    /// True if the value is one of them.
    pub fn contains(&self, value: &T) -> bool {
        self.0.binary_search(value).is_ok()
    }

    /// The values in their order.
    pub fn as_slice(&self) -> &[T] {
        &self.0
    }

    /// See [`SortedSet::as_slice`].
    pub fn into_vec(self) -> Vec<T> {
        self.0
    }
}

/// Each value once, in the order of their first places.
pub fn unique<T: Ord>(values: Vec<T>) -> Vec<T> {
    let mut numbered: Vec<(T, usize)> = values.into_iter().zip(0..).collect();
    numbered.sort_unstable();
    numbered.dedup_by(|later, first| later.0 == first.0);
    numbered.sort_unstable_by_key(|(_, number)| *number);
    numbered.into_iter().map(|(value, _)| value).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_holds_each_value_once() {
        let set = SortedSet::new(vec![3, 1, 3, 2, 1]);
        assert!(set.contains(&2) && !set.contains(&4));
        assert_eq!(set.as_slice(), [1, 2, 3]);
        assert_eq!(set.into_vec(), [1, 2, 3]);
    }

    #[test]
    fn repeated_values_go() {
        assert_eq!(unique(vec![3, 1, 3, 2, 1]), [3, 1, 2]);
    }
}
