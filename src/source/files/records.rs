//! Cuts a stream of bytes into records: the lines of NDJSON, the records of CSV.

use super::CsvOptions;

/// Whole records in one piece.
#[derive(Debug, Default)]
pub(super) struct Block {
    pub(super) bytes: Vec<u8>,
    /// End of each record in `bytes`, line end included.
    pub(super) ends: Vec<usize>,
    /// Line of each record's beginning, from 1.
    pub(super) lines: Vec<u64>,
}

/// Cuts bytes as they come.
#[derive(Debug)]
pub(super) struct Cutter {
    csv: Option<CsvOptions>,
    block: Block,
    /// Bytes of the block that belong to no whole record yet.
    started: usize,
    line: u64,
    record_line: u64,
    in_quotes: bool,
    is_escaped: bool,
    /// Records still to be dropped: a header, and what was read before.
    skipped: u64,
    is_first: bool,
}

impl Cutter {
    pub(super) fn new(csv: Option<CsvOptions>, skipped: u64) -> Self {
        Self {
            csv,
            block: Block::default(),
            started: 0,
            line: 1,
            record_line: 1,
            in_quotes: false,
            is_escaped: false,
            skipped,
            is_first: true,
        }
    }

    /// Takes more bytes.
    pub(super) fn push(&mut self, mut bytes: &[u8]) {
        if self.is_first && !bytes.is_empty() {
            self.is_first = false;
            bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
        }
        while let Some(end) = self.line_end(bytes) {
            let (line, rest) = bytes.split_at(end + 1);
            self.block.bytes.extend_from_slice(line);
            self.line += 1;
            bytes = rest;
            if !self.in_quotes {
                self.finish();
            }
        }
        self.block.bytes.extend_from_slice(bytes);
    }

    /// Ends the last record, which may have no line end.
    pub(super) fn end(&mut self) {
        if self.block.bytes.len() > self.started {
            self.finish();
        }
    }

    /// Whole records that wait.
    pub(super) fn records(&self) -> usize {
        self.block.ends.len()
    }

    /// The first `count` of them.
    pub(super) fn take(&mut self, count: usize) -> Block {
        let count = count.min(self.block.ends.len());
        let Some(end) = count.checked_sub(1).map(|last| self.block.ends[last]) else {
            return Block::default();
        };
        let rest = self.block.bytes.split_off(end);
        let bytes = std::mem::replace(&mut self.block.bytes, rest);
        let later = self.block.ends.split_off(count);
        let ends = std::mem::replace(&mut self.block.ends, later);
        self.block.ends.iter_mut().for_each(|other| *other -= end);
        let later = self.block.lines.split_off(count);
        let lines = std::mem::replace(&mut self.block.lines, later);
        self.started -= end;
        Block { bytes, ends, lines }
    }

    fn finish(&mut self) {
        let record = &self.block.bytes[self.started..];
        let is_blank = record.iter().all(u8::is_ascii_whitespace);
        if is_blank || self.skipped > 0 {
            if !is_blank {
                self.skipped -= 1;
            }
            self.block.bytes.truncate(self.started);
        } else {
            self.block.ends.push(self.block.bytes.len());
            self.block.lines.push(self.record_line);
            self.started = self.block.bytes.len();
        }
        self.record_line = self.line;
    }

    /// The next line end in `bytes`, keeping track of quotes up to it.
    fn line_end(&mut self, bytes: &[u8]) -> Option<usize> {
        let Some(csv) = &self.csv else { return bytes.iter().position(|byte| *byte == b'\n') };
        for (at, byte) in bytes.iter().enumerate() {
            if self.is_escaped {
                self.is_escaped = false;
            } else if Some(*byte) == csv.escape && self.in_quotes {
                self.is_escaped = true;
            } else if *byte == csv.quote {
                self.in_quotes = !self.in_quotes;
            }
            if *byte == b'\n' {
                return Some(at);
            }
        }
        None
    }
}

impl Block {
    /// Record `index` alone.
    pub(super) fn record(&self, index: usize) -> &[u8] {
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        &self.bytes[start..self.ends[index]]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cut_alike_however_the_bytes_come() {
        let text = b"\xEF\xBB\xBF{\"a\":1}\n\n  \r\n{\"a\":2}\r\n{\"a\":3}";
        for step in 1..text.len() {
            let mut cutter = Cutter::new(None, 1);
            text.chunks(step).for_each(|chunk| cutter.push(chunk));
            cutter.end();
            assert_eq!(cutter.records(), 2);
            let first = cutter.take(1);
            assert_eq!((first.record(0), first.lines[0]), (&b"{\"a\":2}\r\n"[..], 4));
            let second = cutter.take(9);
            assert_eq!((second.record(0), second.lines[0]), (&b"{\"a\":3}"[..], 5));
        }
    }

    #[test]
    fn a_quoted_line_end_does_not_end_a_record() {
        let text = b"a,b\n1,\"x\n\"\"y\"\n2,z\n";
        for step in 1..text.len() {
            let mut cutter = Cutter::new(Some(CsvOptions::default()), 1);
            text.chunks(step).for_each(|chunk| cutter.push(chunk));
            cutter.end();
            let block = cutter.take(9);
            assert_eq!(block.record(0), b"1,\"x\n\"\"y\"\n");
            assert_eq!((block.record(1), block.lines[1]), (&b"2,z\n"[..], 4));
        }
    }
}
