//! The table that verdicts and userspace share: mapped memory, handed out by the slot.
//!
//! `unsafe`: the array map is memory that the kernel writes too; every word is touched atomically, in one size.
#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::io;
use std::mem::offset_of;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use proxy_ebpf::Slot;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// A verdict that started before its slot was freed may still write to it; that takes microseconds.
const QUARANTINE: Duration = Duration::from_secs(1);

pub(super) struct Slots {
    memory: NonNull<u8>,
    count: u32,
    free: Mutex<Free>,
}

struct Free {
    untouched: u32,
    waiting: VecDeque<(Instant, u32)>,
}

// SAFETY: the memory is only touched through atomics, the free list is behind a mutex.
unsafe impl Send for Slots {}
// SAFETY: as above.
unsafe impl Sync for Slots {}

impl Slots {
    pub(super) fn map(fd: BorrowedFd<'_>, count: u32) -> io::Result<Slots> {
        // SAFETY: a fresh mapping wherever the kernel likes.
        let memory = unsafe {
            mmap(
                std::ptr::null_mut(),
                size_of::<Slot>() * count as usize,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                fd,
                0,
            )
        }?;
        let memory = NonNull::new(memory.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Slots { memory, count, free: Mutex::new(Free { untouched: 0, waiting: VecDeque::new() }) })
    }

    pub(super) fn count(&self) -> u32 {
        self.count
    }

    /// A slot that nobody uses, with all words 0.
    pub(super) fn take(&self) -> Option<u32> {
        let mut free = self.free.lock().unwrap_or_else(|poison| poison.into_inner());
        let index = match free.waiting.front() {
            Some((since, index)) if since.elapsed() > QUARANTINE => {
                let index = *index;
                free.waiting.pop_front();
                index
            }
            _ if free.untouched < self.count => {
                free.untouched += 1;
                free.untouched - 1
            }
            _ => return None,
        };
        // Of the size in which they are read: a late event of who had the slot before may have it looked at meanwhile.
        let halves = offset_of!(Slot, next_seq);
        (0..halves).step_by(8).for_each(|at| self.at(index, at).store(0, Ordering::Relaxed));
        let end = size_of::<Slot>();
        (halves..end).step_by(4).for_each(|at| self.half(index, at).store(0, Ordering::Relaxed));
        Some(index)
    }

    /// Gives `index` back; it is not handed out again before the quarantine is over.
    pub(super) fn give_back(&self, index: u32) {
        let mut free = self.free.lock().unwrap_or_else(|poison| poison.into_inner());
        free.waiting.push_back((Instant::now(), index));
    }

    /// Slots in use now.
    pub(super) fn used(&self) -> u32 {
        let free = self.free.lock().unwrap_or_else(|poison| poison.into_inner());
        free.untouched - free.waiting.len() as u32
    }

    pub(super) fn state(&self, index: u32) -> &AtomicU64 {
        self.at(index, offset_of!(Slot, state))
    }

    pub(super) fn forwarded(&self, index: u32) -> &AtomicU64 {
        self.at(index, offset_of!(Slot, forwarded))
    }

    pub(super) fn destination(&self, index: u32) -> &AtomicU64 {
        self.at(index, offset_of!(Slot, destination))
    }

    pub(super) fn limit(&self, index: u32) -> &AtomicU64 {
        self.at(index, offset_of!(Slot, limit))
    }

    pub(super) fn leave(&self, index: u32) -> &AtomicU32 {
        self.half(index, offset_of!(Slot, leave))
    }

    pub(super) fn left(&self, index: u32) -> &AtomicU32 {
        self.half(index, offset_of!(Slot, left))
    }

    pub(super) fn closes(&self, index: u32) -> &AtomicU32 {
        self.half(index, offset_of!(Slot, closes))
    }

    pub(super) fn full(&self, index: u32) -> &AtomicU32 {
        self.half(index, offset_of!(Slot, full))
    }

    pub(super) fn eager(&self, index: u32) -> &AtomicU32 {
        self.half(index, offset_of!(Slot, eager))
    }

    /// The whole slot, each word read by itself.
    pub(super) fn read(&self, index: u32) -> Slot {
        let word = |offset| self.at(index, offset).load(Ordering::Acquire);
        Slot {
            state: word(offset_of!(Slot, state)),
            redirected: word(offset_of!(Slot, redirected)),
            forwarded: word(offset_of!(Slot, forwarded)),
            destination: word(offset_of!(Slot, destination)),
            limit: word(offset_of!(Slot, limit)),
            trimmed: word(offset_of!(Slot, trimmed)),
            overflows: word(offset_of!(Slot, overflows)),
            strays: word(offset_of!(Slot, strays)),
            gaps: word(offset_of!(Slot, gaps)),
            peak: word(offset_of!(Slot, peak)),
            ..Slot::default()
        }
    }

    fn at(&self, index: u32, offset: usize) -> &AtomicU64 {
        // SAFETY: in bounds (checked), 8-byte aligned since slots are 128 bytes and offsets those of u64 fields.
        unsafe { AtomicU64::from_ptr(self.place(index, offset).cast()) }
    }

    fn half(&self, index: u32, offset: usize) -> &AtomicU32 {
        // SAFETY: in bounds (checked), 4-byte aligned.
        unsafe { AtomicU32::from_ptr(self.place(index, offset).cast()) }
    }

    fn place(&self, index: u32, offset: usize) -> *mut u8 {
        assert!(index < self.count && offset < size_of::<Slot>(), "slot {index} out of {}", self.count);
        // SAFETY: inside the mapping, by the assertion.
        unsafe { self.memory.as_ptr().add(index as usize * size_of::<Slot>() + offset) }
    }
}

impl Drop for Slots {
    fn drop(&mut self) {
        // SAFETY: our own mapping, and no reference outlives `self`. A failure leaves it mapped, which is harmless.
        let _ = unsafe { munmap(self.memory.as_ptr().cast(), size_of::<Slot>() * self.count as usize) };
    }
}
