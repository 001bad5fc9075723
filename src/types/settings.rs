//! The numbers a user can set, each with its unit, default, limit and consequence.

/// Settings of pipelines and tables; `SET onefold.<name> = <value>` sets the same names.
///
/// A pipeline keeps the settings it was created with.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Settings {
    /// Most rows one epoch reads from all sources together. Default 1 000 000; at least 1.
    ///
    /// Larger epochs make larger files and fewer table versions, and lose more work in a crash.
    pub epoch_rows_max: u64,

    /// Most bytes of decoded rows one epoch reads from all sources together. Default 256 MiB; at
    /// least 1. One batch more than this may be read, never more than one.
    pub epoch_bytes_max: u64,

    /// Longest time in milliseconds an epoch collects rows before it is committed, when rows come
    /// slower than the two limits above. Default 10 000; at least 0, which commits what is there.
    pub epoch_time_max_ms: u64,

    /// How long in milliseconds a pipeline that found nothing new waits before it looks again.
    /// Default 500; at least 1. Shorter finds rows sooner, and asks the source more often.
    pub poll_interval_ms: u64,

    /// Most bytes of memory the operators of one pipeline may remember. Default 4 GiB; at least
    /// 1 MiB. When DEDUP BY reaches it the pipeline stops with an error; it never forgets silently.
    /// Groups of a GROUP BY that are more go to local disk, in the folder for temporary files.
    pub state_bytes_max: u64,

    /// How long in milliseconds of event time after its end a window of a GROUP BY still takes rows.
    /// Default 0. More keeps groups longer, and updates rows that were there already.
    pub window_lateness_ms: u64,

    /// Whether `sum` and `avg` of floats in a GROUP BY of a pipeline are exact until they are shown.
    /// Default false. True gives the same bits whatever the order of rows, and costs time and state.
    pub exact_float_sums: bool,

    /// Name of the next pipeline to be created. Default empty: the unnamed pipeline of its table.
    pub pipeline: String,

    /// Folder or URL under which a materialized view without LOCATION keeps its rows, in a folder of
    /// its name. Default empty: a view needs a LOCATION.
    pub warehouse: String,

    /// Idempotency token of the next batch write, at most 256 bytes: a write under a token that the
    /// table has seen does nothing, and says so. Default empty: none. The first INSERT, UPDATE,
    /// DELETE or the like that is done uses it up.
    pub idempotency_token: String,

    /// Rows below which a data file counts as small and is compacted with its like.
    /// Default 262 144; at least 0, which never compacts.
    pub compact_rows_min: u64,

    /// How many small or worn files make a table compaction worth its while.
    /// Default 32; at least 2.
    pub compact_files_min: u64,

    /// Commits between two Delta checkpoints. Default 100; at least 1. A checkpoint is written
    /// earlier when commits touch many files.
    pub checkpoint_interval: u64,

    /// Most bytes of memory the key index of one table may take. Default 4 GiB; at least 1 MiB. What
    /// is more is kept on local disk, in the folder for temporary files, and costs a read of that
    /// disk when it is changed; 1.5 bytes for each such key stay in memory.
    pub index_bytes_max: u64,

    /// Hours for which old versions of a table can be read and restored; what only older ones name
    /// is deleted once an hour, by whoever writes the table. Default 48; at least 24, or 0, which
    /// deletes nothing.
    pub retention_hours: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            epoch_rows_max: 1_000_000,
            epoch_bytes_max: 256 << 20,
            epoch_time_max_ms: 10_000,
            poll_interval_ms: 500,
            state_bytes_max: 4 << 30,
            window_lateness_ms: 0,
            exact_float_sums: false,
            pipeline: String::new(),
            warehouse: String::new(),
            idempotency_token: String::new(),
            compact_rows_min: 262_144,
            compact_files_min: 32,
            checkpoint_interval: 100,
            index_bytes_max: 4 << 30,
            retention_hours: 48,
        }
    }
}
