//! Whether the kernel's map still counts right.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Lost for good once a flow's counts contradicted the kernel's: then no new direction enters the map. Clones tell the
/// same.
#[derive(Debug, Clone, Default)]
pub struct Trust(Arc<AtomicBool>);

impl Trust {
    pub fn is_lost(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn lose(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
