//! Panics of every task in this process: tokio catches them, and a test would not notice. Those of a test's own thread
//! are that test's end, and none of its neighbours'.

use std::panic::PanicHookInfo;
use std::sync::{Mutex, Once};

static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Takes note from now on.
pub(crate) fn watch() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info: &PanicHookInfo<'_>| {
            if std::thread::current().name().is_none_or(|name| name.starts_with("tokio")) {
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
