//! Sets and maps that are made at once. In the binary each kind of them takes a fraction of a `BTreeSet`.

/// A set of values.
#[derive(Debug)]
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

/// Values to be found by their keys; a key may have several, in their order.
#[derive(Debug)]
pub struct Groups<K, V>(Vec<(K, V)>);

impl<K: Ord, V> Groups<K, V> {
    /// The groups of these values.
    pub fn new(mut pairs: Vec<(K, V)>) -> Self {
        pairs.sort_by(|one, other| one.0.cmp(&other.0));
        Groups(pairs)
    }

    /// The values of a key.
    pub fn get(&self, key: &K) -> impl Iterator<Item = &V> {
        let first = self.0.partition_point(|(known, _)| known < key);
        let behind = self.0.iter().skip(first);
        behind.take_while(move |(known, _)| known == key).map(|(_, value)| value)
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
    fn the_values_of_a_key_are_found_in_their_order() {
        let groups = Groups::new(vec![("b", 3), ("a", 1), ("b", 2)]);
        let of = |key| groups.get(&key).copied().collect::<Vec<i32>>();
        assert_eq!([of("a"), of("b"), of("c")], [vec![1], vec![3, 2], vec![]]);
    }

    #[test]
    fn repeated_values_go() {
        assert_eq!(unique(vec![3, 1, 3, 2, 1]), [3, 1, 2]);
    }
}
