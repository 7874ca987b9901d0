//! Panics of the product, in whatever task of this process: tokio catches them, and a test would not notice. Those of the
//! tests' own code are that test's end, and none of its neighbours'.

use std::panic::PanicHookInfo;
use std::sync::{Mutex, Once};

static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Takes note from now on.
pub(crate) fn watch() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info: &PanicHookInfo<'_>| {
            if info.location().is_none_or(|place| !place.file().starts_with("tests/")) {
                PANICS.lock().unwrap().push(info.to_string());
            }
            before(info);
        }));
    });
}

/// What panicked since, of all tests of this process: each with its place and words.
pub(crate) fn seen() -> Vec<String> {
    PANICS.lock().unwrap().clone()
}
