//! TokenReviews.

use std::collections::HashMap;

use serde_json::{Value, json};

/// The tokens that the stand-in knows: whose, and for whom.
#[derive(Default)]
pub(super) struct Tokens(HashMap<String, (String, String)>);

impl Tokens {
    pub(super) fn add(&mut self, token: &str, username: &str, audience: &str) {
        self.0.insert(token.into(), (username.into(), audience.into()));
    }

    pub(super) fn review(&self, mut review: Value) -> (u16, Value) {
        let token = review["spec"]["token"].as_str().unwrap_or_default();
        let wanted = review["spec"]["audiences"].as_array().cloned().unwrap_or_default();
        review["status"] = match self.0.get(token) {
            Some((username, audience)) if wanted.contains(&json!(audience)) => {
                json!({ "authenticated": true, "user": { "username": username }, "audiences": [audience] })
            }
            Some(_) => json!({ "user": {}, "error": "token audiences are invalid for the target audiences" }),
            None => json!({ "user": {}, "error": "invalid bearer token" }),
        };
        (201, review)
    }
}
