//! `SimulatedClock`: time passes only when somebody sleeps.

use crate::types::Clock;
use async_trait::async_trait;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A clock whose sleeps return at once and move it on; a clone is the same clock.
#[derive(Clone, Debug, Default)]
pub struct SimulatedClock {
    now_us: Arc<AtomicU64>,
}

impl SimulatedClock {
    /// Moves the clock on.
    pub fn advance(&self, duration: Duration) {
        self.now_us.fetch_add(duration.as_micros() as u64, Ordering::SeqCst);
    }
}

#[async_trait]
impl Clock for SimulatedClock {
    fn now_us(&self) -> i64 {
        const START_US: i64 = 1_767_225_600_000_000; // 2026-01-01
        START_US + self.now_us.load(Ordering::SeqCst) as i64
    }

    fn monotonic(&self) -> Duration {
        Duration::from_micros(self.now_us.load(Ordering::SeqCst))
    }

    async fn sleep(&self, duration: Duration) {
        self.advance(duration);
        tokio::task::yield_now().await;
    }
}
