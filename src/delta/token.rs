//! The idempotency token that a session has set: the first batch write that is done carries it, in
//! whichever way it runs. One that failed leaves it to the next, which may be the same again.

use crate::types::UsedToken;
use datafusion::execution::TaskContext;

const TOKEN: &str = "onefold.idempotency_token";

/// The token that the next batch write carries.
pub(super) fn token_of(context: &TaskContext) -> Option<String> {
    let entries = context.session_config().options().entries().into_iter();
    let mut tokens = entries.filter(|entry| entry.key == TOKEN).filter_map(|entry| entry.value);
    tokens.next().filter(|token| !token.is_empty())
}

/// Notes that a batch write was done under `token`, or had been done before.
pub(super) fn spend_token(context: &TaskContext, token: Option<&str>) {
    if let (Some(token), Some(used)) =
        (token, context.session_config().get_extension::<UsedToken>())
    {
        used.spend(token);
    }
}
