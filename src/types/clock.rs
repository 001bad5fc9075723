//! The only ways to time and to chance, so that tests can replace both.

use async_trait::async_trait;
use std::fmt::Debug;
use std::time::Duration;

/// Time as the process sees it.
#[async_trait]
pub trait Clock: Debug + Send + Sync {
    /// Wall-clock time: microseconds since the Unix epoch, UTC.
    fn now_us(&self) -> i64;

    /// Time since some fixed point; never goes back.
    fn monotonic(&self) -> Duration;

    /// Returns after `duration`.
    async fn sleep(&self, duration: Duration);
}

/// The clock of the operating system.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

#[async_trait]
impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods, reason = "this is the one place that reads the clock")]
    fn now_us(&self) -> i64 {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        since.map_or(0, |since| i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
    }

    #[allow(clippy::disallowed_methods, reason = "this is the one place that reads the clock")]
    fn monotonic(&self) -> Duration {
        static START: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
        START.get_or_init(std::time::Instant::now).elapsed()
    }

    #[allow(clippy::disallowed_methods, reason = "this is the one place that waits")]
    async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }
}

/// Random bits for names, transaction ids and hash keys.
pub trait Entropy: Debug + Send + Sync {
    /// Sixteen fresh random bytes.
    fn bits(&self) -> [u8; 16];

    /// A fresh name: 32 lower-case hexadecimal digits.
    fn name(&self) -> String {
        self.bits().iter().fold(String::with_capacity(32), |mut text, byte| {
            text.push(char::from(b"0123456789abcdef"[usize::from(byte >> 4)]));
            text.push(char::from(b"0123456789abcdef"[usize::from(byte & 15)]));
            text
        })
    }
}

/// The random source of the operating system.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn bits(&self) -> [u8; 16] {
        let mut bits = *uuid::Uuid::new_v4().as_bytes();
        let more = *uuid::Uuid::new_v4().as_bytes();
        bits[6] ^= more[0]; // the two bytes of a version 4 UUID that hold fixed bits
        bits[8] ^= more[1];
        bits
    }
}
