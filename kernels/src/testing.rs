//! Memory for tests: buffers flush against pages that may not be touched, where any access beyond them ends the process;
//! an allocator that ends it where too much is asked for; and what a processor is said to like.

use std::alloc::{GlobalAlloc, Layout, System};

use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect, munmap};

/// Which end of a [`Guarded`] buffer touches an unreadable page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flush {
    /// The byte before the first faults.
    Start,
    /// The byte after the last faults.
    End,
}

/// A byte buffer whose start or end lies at an unreadable page.
#[derive(Debug)]
pub struct Guarded {
    mapping: *mut u8,
    mapped: usize,
    data: *mut u8,
    len: usize,
}

impl Guarded {
    /// A copy of `bytes`, flush with an unreadable page at the given end.
    ///
    /// # Panics
    /// If the operating system refuses the memory.
    pub fn new(bytes: &[u8], flush: Flush) -> Self {
        let page = rustix::param::page_size();
        let inner = bytes.len().next_multiple_of(page).max(page);
        let mapped = inner + 2 * page;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice touches no other memory.
        let mapping = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                mapped,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE,
            )
        }
        .expect("the operating system gives memory to tests")
        .cast::<u8>();
        for guard in [mapping, mapping.wrapping_add(page + inner)] {
            // SAFETY: a page of the mapping made above, which nobody uses.
            unsafe { mprotect(guard.cast(), page, MprotectFlags::empty()) }
                .expect("pages of an own mapping can be protected");
        }
        let offset = match flush {
            Flush::Start => page,
            Flush::End => page + inner - bytes.len(),
        };
        let data = mapping.wrapping_add(offset);
        // SAFETY: `len` bytes from `data` lie in the readable and writable part of the mapping.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), data, bytes.len()) };
        Self { mapping, mapped, data, len: bytes.len() }
    }
}

impl std::ops::Deref for Guarded {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `len` initialized bytes of the mapping, which lives as long as `self`.
        unsafe { std::slice::from_raw_parts(self.data, self.len) }
    }
}

impl std::ops::DerefMut for Guarded {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.data, self.len) }
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `new`; no borrow of it outlives `self`. Failure would only leak it.
        let _ = unsafe { munmap(self.mapping.cast(), self.mapped) };
    }
}

/// From now on single rows read weights in L2 by one stream, or by several; `None`: as the processor likes. Results are
/// the same.
#[cfg(target_arch = "x86_64")]
pub fn read_l2_by_one_stream(answer: Option<bool>) {
    *crate::cpu::BY_ONE_STREAM.write().unwrap_or_else(|e| e.into_inner()) = answer;
}

/// The system's allocator, but for allocations of more than `most` bytes: there is no memory for these.
#[derive(Debug)]
pub struct LimitedMemory {
    /// Bytes of the largest allocation.
    pub most: usize,
}

// SAFETY: the system's allocator, or a refusal, which every caller must expect.
unsafe impl GlobalAlloc for LimitedMemory {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.size() > self.most {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if layout.size() > self.most {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's promise. Pages that nobody touches cost nothing.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise, and all memory is the system's.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_its_bytes_at_the_asked_end_of_a_page() {
        let page = rustix::param::page_size();
        for len in [0, 1, 63, page, page + 1] {
            let bytes: Vec<u8> = (0..len).map(|i| i as u8).collect();
            let (start, end) =
                (Guarded::new(&bytes, Flush::Start), Guarded::new(&bytes, Flush::End));
            assert_eq!((&*start, &*end), (&*bytes, &*bytes));
            assert_eq!(start.as_ptr() as usize % page, 0);
            assert_eq!((end.as_ptr() as usize + len) % page, 0);
        }
    }
}
