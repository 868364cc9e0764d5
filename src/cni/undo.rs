//! The journal of an ADD: how to take back each thing it has done. Runs backwards unless committed.

use crate::error::{Error, Failures, Result};
use crate::sys::log::Step;

type Undoing = Box<dyn FnOnce() -> Result<()>>;

/// Steps that take back what has been done so far. Every ADD in a process (a plugin, its delegate, a whole chain) writes
/// to the same journal, so that a failure anywhere takes back everything.
#[derive(Default)]
pub struct Undo {
    steps: Vec<Undoing>,
    keeps_attachment: bool,
}

impl Undo {
    /// A journal for an ADD of what is attached already: it takes back what that ADD has done, but never deletes the
    /// attachment as a whole.
    pub fn of_repeated_add() -> Self {
        Undo { keeps_attachment: true, ..Undo::default() }
    }

    /// Remembers how to take back what was just done. The step must not depend on the state of the caller.
    pub fn push(&mut self, step: impl FnOnce() -> Result<()> + 'static) {
        self.steps.push(Box::new(step));
    }

    /// Remembers a step that deletes all there is of an attachment: what a program's DEL does.
    pub fn push_deletion(&mut self, step: impl FnOnce() -> Result<()> + 'static) {
        if !self.keeps_attachment {
            self.push(step);
        }
    }

    /// Everything stays.
    pub fn commit(self) {}

    /// Takes everything back, last first, past failures, and gives the error that made it necessary, with what could not
    /// be taken back in its details.
    pub fn roll_back(self, cause: Error) -> Error {
        let mut failures = Failures::default();
        let taking_back = Step::begin(format_args!("take back {} things", self.steps.len()));
        for step in self.steps.into_iter().rev() {
            failures.note(step());
        }
        match taking_back.end(failures.finish()) {
            Ok(()) => cause,
            Err(left) => {
                let separator = if cause.details.is_empty() { "" } else { "; " };
                let details = format!("{}{separator}not everything could be undone: {left}", cause.details);
                cause.with_details(details)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::rc::Rc;

    #[test]
    fn runs_backwards_and_past_failures() {
        let seen = Rc::new(RefCell::new(Vec::new()));
        let mut undo = Undo::default();
        for step in 1..=3 {
            let seen = Rc::clone(&seen);
            undo.push(move || {
                seen.borrow_mut().push(step);
                if step == 2 { Err(Error::internal("stuck")) } else { Ok(()) }
            });
        }
        let error = undo.roll_back(Error::new(7, "bad"));
        assert_eq!(*seen.borrow(), [3, 2, 1]);
        assert_eq!((error.code, error.details.as_str()), (7, "not everything could be undone: stuck"));
    }
}
