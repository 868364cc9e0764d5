//! The allocator. A plugin call lives for a millisecond and allocates some hundred small things; musl's allocator takes
//! longer for that than the kernel for the whole veth pair. So memory is first cut from an arena in .bss and, apart from
//! the newest block, never given back; when the arena is used up (a daemon, a range with many thousand reservations),
//! libc's allocator takes over for what comes then.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::UnsafeCell;
use std::mem::MaybeUninit;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::{AcqRel, Relaxed};

/// Bytes in the arena. Pages that are never touched cost nothing.
const SIZE: usize = 256 * 1024;

#[global_allocator]
static HEAP: Heap = Heap { arena: UnsafeCell::new([MaybeUninit::zeroed(); SIZE]), used: AtomicUsize::new(0) };

struct Heap {
    arena: UnsafeCell<[MaybeUninit<u8>; SIZE]>,
    /// Bytes of the arena that are handed out, from its start.
    used: AtomicUsize,
}

// SAFETY: the arena is only handed out in pieces, each to one owner; `used`, which says where the pieces end, is atomic.
// A piece that one thread gives back and another one is given passes from the former to the latter by `used`: moving it
// back releases, moving it on acquires.
unsafe impl Sync for Heap {}

impl Heap {
    fn start(&self) -> *mut u8 {
        self.arena.get().cast()
    }

    /// The offset of a block of the arena; `None` for libc's blocks.
    fn offset(&self, block: *mut u8) -> Option<usize> {
        (block as usize).checked_sub(self.start() as usize).filter(|offset| *offset < SIZE)
    }

    /// Cuts off a block; `None` when the rest is too small.
    fn cut(&self, layout: Layout) -> Option<*mut u8> {
        let mut used = self.used.load(Relaxed);
        loop {
            let address = (self.start() as usize).checked_add(used)?.checked_next_multiple_of(layout.align())?;
            let offset = address - self.start() as usize;
            let end = offset.checked_add(layout.size()).filter(|end| *end <= SIZE)?;
            match self.used.compare_exchange_weak(used, end, AcqRel, Relaxed) {
                // SAFETY: offset <= end <= SIZE, so the pointer stays inside the arena (or one past it, for no bytes).
                Ok(_) => return Some(unsafe { self.start().add(offset) }),
                Err(now) => used = now,
            }
        }
    }

    /// Moves the end of the newest block from `old` to `new`; false when the block is not the newest or does not fit.
    fn move_end(&self, old: usize, new: usize) -> bool {
        new <= SIZE && self.used.compare_exchange(old, new, AcqRel, Relaxed).is_ok()
    }
}

// None of these is worth being copied to every caller.
//
// SAFETY: blocks of the arena don't overlap: `used` only moves past a block when it is cut, and only back or further by
// the newest block's owner. Everything else is the system allocator's, told apart by the address.
unsafe impl GlobalAlloc for Heap {
    #[inline(never)]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match self.cut(layout) {
            Some(block) => block,
            // SAFETY: the caller's promise about `layout` is passed on.
            None => unsafe { System.alloc(layout) },
        }
    }

    #[inline(never)]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        match self.offset(block) {
            Some(offset) => {
                self.move_end(offset + layout.size(), offset);
            }
            // SAFETY: not of the arena, so the system allocator gave it, with this layout.
            None => unsafe { System.dealloc(block, layout) },
        }
    }

    #[inline(never)]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let Some(offset) = self.offset(block) else {
            // SAFETY: not of the arena, so the system allocator gave it, with this layout.
            return unsafe { System.realloc(block, layout, size) };
        };
        if self.move_end(offset + layout.size(), offset.saturating_add(size)) {
            return block;
        }
        // SAFETY: the caller promises that `size` fits this alignment; the two blocks are different and both at least as
        // long as what is copied.
        unsafe {
            let new = self.alloc(Layout::from_size_align_unchecked(size, layout.align()));
            if !new.is_null() {
                block.copy_to_nonoverlapping(new, size.min(layout.size()));
            }
            new
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn blocks_keep_their_content_while_others_come_and_go() {
        let threads = (0..4u8).map(|fill| {
            std::thread::spawn(move || {
                let mut kept: Vec<Vec<u8>> = Vec::new();
                for size in 0..600 {
                    let mut block = vec![fill; size];
                    block.extend_from_slice(&[fill; 9]);
                    drop(vec![!fill; size]);
                    kept.push(block);
                }
                kept.iter().all(|block| block.iter().all(|byte| *byte == fill))
            })
        });
        let threads: Vec<_> = threads.collect();
        assert!(threads.into_iter().all(|thread| thread.join().unwrap()));
    }

    #[test]
    fn zeroed_memory_is_zero_and_alignment_holds() {
        for _ in 0..100 {
            drop(vec![0xffu8; 1000]);
            assert!(vec![0u8; 1000].iter().all(|byte| *byte == 0));
            let aligned = Box::new(Aligned([1; 64]));
            assert_eq!((&raw const *aligned as usize % 64, aligned.0[63]), (0, 1));
        }
    }

    #[repr(align(64))]
    struct Aligned([u8; 64]);
}
