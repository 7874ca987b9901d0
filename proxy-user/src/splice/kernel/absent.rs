//! Stand-ins for a build without eBPF: nothing can be loaded, so no value of either type exists.

use std::convert::Infallible;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use super::{Counts, KernelError, Limits, MapRefused, Mode, SlotId};

/// Cannot be had in this build; [`Sockmap::load`] says why.
#[derive(Debug, Clone)]
pub struct Sockmap(Infallible);

/// Cannot be had in this build.
#[derive(Debug)]
pub struct Mapped(Infallible);

impl Sockmap {
    pub fn load(_: u32) -> Result<Sockmap, KernelError> {
        Err(KernelError::NoFeature)
    }

    pub fn with_events_fd<T>(&self, _: impl FnOnce(BorrowedFd<'_>) -> T) -> T {
        match self.0 {}
    }

    pub fn next_event(&self) -> Option<SlotId> {
        match self.0 {}
    }

    pub fn leave(&self) -> Result<Vec<SlotId>, KernelError> {
        match self.0 {}
    }

    pub fn leave_until(&self, _: Option<&mut dyn FnMut() -> bool>) -> Result<Vec<SlotId>, KernelError> {
        match self.0 {}
    }

    pub fn mapped(&self) -> u32 {
        match self.0 {}
    }

    pub fn entries(&self) -> [usize; 3] {
        match self.0 {}
    }

    pub fn forgotten(&self) -> u64 {
        match self.0 {}
    }

    pub fn waits_to_leave(&self, _: SlotId) -> bool {
        match self.0 {}
    }

    pub fn map_tcp(&self, _: impl AsFd, _: impl AsFd, _: impl Into<Limits>) -> Result<Mapped, MapRefused> {
        match self.0 {}
    }

    pub fn map_unix(&self, _: impl AsFd, _: impl AsFd) -> Result<Mapped, MapRefused> {
        match self.0 {}
    }
}

impl Mapped {
    pub fn slot(&self) -> SlotId {
        match self.0 {}
    }

    pub fn mode(&self) -> Mode {
        match self.0 {}
    }

    pub fn counts(&self) -> Counts {
        match self.0 {}
    }

    pub fn waiting(&self) -> u64 {
        match self.0 {}
    }

    pub fn add_forwarded(&self, _: u64) {
        match self.0 {}
    }

    pub fn try_redirect(&self) -> bool {
        match self.0 {}
    }

    pub fn pass(&self) {
        match self.0 {}
    }

    pub fn is_drained(&self, _: impl AsFd) -> io::Result<bool> {
        match self.0 {}
    }

    pub fn unsent(&self, _: impl AsFd) -> io::Result<u64> {
        match self.0 {}
    }

    pub fn ask_to_leave(&self) {
        match self.0 {}
    }

    pub fn is_to_leave(&self) -> bool {
        match self.0 {}
    }

    pub fn unbrake(&self) {
        match self.0 {}
    }

    pub fn has_left(&self) -> bool {
        match self.0 {}
    }

    pub fn set_limit(&self, _: u32, _: u32) {
        match self.0 {}
    }
}
