//! Things with numbers that stay the same while others come and go.

/// A vector with holes.
#[derive(Debug)]
pub(super) struct Slots<T>(Vec<Option<Box<T>>>);

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Slots(Vec::new())
    }
}

impl<T> Slots<T> {
    /// Puts it into the first hole and gives its number.
    pub(super) fn insert(&mut self, thing: T) -> usize {
        let thing = Some(Box::new(thing));
        match self.0.iter_mut().position(|slot| slot.is_none()) {
            Some(slot) => {
                if let Some(hole) = self.0.get_mut(slot) {
                    *hole = thing;
                }
                slot
            }
            None => {
                self.0.push(thing);
                self.0.len() - 1
            }
        }
    }

    pub(super) fn get(&self, slot: usize) -> Option<&T> {
        self.0.get(slot)?.as_deref()
    }

    pub(super) fn get_mut(&mut self, slot: usize) -> Option<&mut T> {
        self.0.get_mut(slot)?.as_deref_mut()
    }

    pub(super) fn remove(&mut self, slot: usize) -> Option<Box<T>> {
        self.0.get_mut(slot)?.take()
    }

    pub(super) fn len(&self) -> usize {
        self.0.iter().flatten().count()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (usize, &T)> {
        self.0.iter().enumerate().filter_map(|(slot, thing)| Some((slot, thing.as_deref()?)))
    }

    /// The numbers of those for which `is_due` holds.
    pub(super) fn due(&self, is_due: impl Fn(&T) -> bool) -> Vec<usize> {
        self.iter().filter(|(_, thing)| is_due(thing)).map(|(slot, _)| slot).collect()
    }
}
