//! Buffers borrowed from the worker while something is under way; an idle session holds none.

use std::cell::RefCell;

/// Enough for nearly every statement and reply; big enough that a streamed result costs few calls.
const SIZE: usize = 16 << 10;
/// What a streamed result grows to.
const STREAM_SIZE: usize = 128 << 10;
/// Buffers of each size a worker keeps for later.
const KEEP: usize = 64;

thread_local! {
    static POOL: RefCell<[Vec<Box<[u8]>>; 2]> = const { RefCell::new([Vec::new(), Vec::new()]) };
}

fn take(size: usize) -> Box<[u8]> {
    let slot = usize::from(size == STREAM_SIZE);
    if (size == SIZE || size == STREAM_SIZE)
        && let Some(data) = POOL.with_borrow_mut(|pool| pool[slot].pop())
    {
        return data;
    }
    vec![0; size].into_boxed_slice()
}

fn give_back(data: Box<[u8]>) {
    let slot = match data.len() {
        SIZE => 0,
        STREAM_SIZE => 1,
        _ => return,
    };
    POOL.with_borrow_mut(|pool| {
        if pool[slot].len() < KEEP {
            pool[slot].push(data);
        }
    });
}

/// Bytes read and not yet used, with room behind them.
pub struct Buffer {
    data: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Buffer {
    #[must_use]
    pub fn borrow() -> Self {
        Self { data: take(SIZE), start: 0, end: 0 }
    }

    #[must_use]
    pub fn filled(&self) -> &[u8] {
        &self.data[self.start..self.end]
    }

    pub fn filled_mut(&mut self) -> &mut [u8] {
        &mut self.data[self.start..self.end]
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Room to read into; never empty.
    pub fn space(&mut self) -> &mut [u8] {
        if self.end == self.data.len() {
            if self.start > 0 {
                self.data.copy_within(self.start..self.end, 0);
                self.end -= self.start;
                self.start = 0;
            } else {
                self.grow(self.data.len() * 2);
            }
        }
        &mut self.data[self.end..]
    }

    pub fn advance(&mut self, n: usize) {
        debug_assert!(self.end + n <= self.data.len());
        self.end += n;
    }

    /// Bytes of our own, as if they had been read.
    pub fn append(&mut self, bytes: &[u8]) {
        self.reserve(self.filled().len() + bytes.len());
        self.space()[..bytes.len()].copy_from_slice(bytes);
        self.advance(bytes.len());
    }

    pub fn consume(&mut self, n: usize) {
        debug_assert!(self.start + n <= self.end);
        self.start += n;
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Drops `gone` bytes ending at `at` (both counted from the first filled byte).
    pub fn close_gap(&mut self, at: usize, gone: usize) {
        let at = self.start + at;
        self.data.copy_within(at..self.end, at - gone);
        self.end -= gone;
    }

    /// Makes room for `total` filled bytes.
    pub fn reserve(&mut self, total: usize) {
        if self.data.len() - self.start < total {
            if self.data.len() >= total {
                self.data.copy_within(self.start..self.end, 0);
                self.end -= self.start;
                self.start = 0;
            } else {
                self.grow(total);
            }
        }
    }

    /// More came than fits: read the rest in bigger pieces. Only while empty.
    pub fn widen(&mut self) {
        if self.is_empty() && self.data.len() < STREAM_SIZE {
            give_back(std::mem::replace(&mut self.data, take(STREAM_SIZE)));
        }
    }

    /// The last read filled all the room there was.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.end == self.data.len()
    }

    fn grow(&mut self, size: usize) {
        let mut data = take(size.max(STREAM_SIZE));
        let len = self.end - self.start;
        data[..len].copy_from_slice(&self.data[self.start..self.end]);
        give_back(std::mem::replace(&mut self.data, data));
        (self.start, self.end) = (0, len);
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        give_back(std::mem::take(&mut self.data));
    }
}
