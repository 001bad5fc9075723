//! Which idempotency token of a session is used up.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// The token that the last batch write of a session carried, until one is set again. All statements
/// of the session share it, while each has the options of the moment it was planned.
#[derive(Debug, Default)]
pub struct UsedToken(Mutex<Option<String>>);

impl UsedToken {
    /// Whether `token` is used up.
    #[must_use]
    pub fn is(&self, token: &str) -> bool {
        self.used().as_deref() == Some(token)
    }

    /// A batch write carried `token`: the next one does not.
    pub fn spend(&self, token: &str) {
        *self.used() = Some(token.to_owned());
    }

    /// `token` is set: the next batch write carries it, also if it was used up.
    pub fn renew(&self, token: &str) {
        self.used().take_if(|used| used == token);
    }

    fn used(&self) -> MutexGuard<'_, Option<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
