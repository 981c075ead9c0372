//! Words: the numbers of a series that every observation changes, each of 32 bits, side by side in memory.
//!
//! Several series are scored at once, one in each lane of the processor's vectors: their words are turned into one
//! array for each number, every step is a loop over the lanes, and then they are turned back. It must never matter
//! how many lanes there are: each lane is computed by the same operations in the same order as if it were alone. The
//! hard case is to have one text for both: a struct of numbers reads itself out of one lane and writes itself back,
//! and the compiler takes such loops apart.

use super::transpose::Turn;

/// Where words come from, one after the other.
pub(crate) trait Source {
    /// The next of them.
    fn next(&mut self) -> u32;
}

/// Where words go to, one after the other.
pub(crate) trait Sink {
    /// Takes the next of them.
    fn put(&mut self, word: u32);
}

/// The numbers of one lane, as one word each.
pub(crate) trait Word: Copy {
    /// Takes as many words as it has.
    fn read(from: &mut impl Source) -> Self;
    /// Gives them back in the same order.
    fn write(self, to: &mut impl Sink);
}

impl Word for u32 {
    #[inline(always)]
    fn read(from: &mut impl Source) -> Self {
        from.next()
    }

    #[inline(always)]
    fn write(self, to: &mut impl Sink) {
        to.put(self);
    }
}

impl Word for f32 {
    #[inline(always)]
    fn read(from: &mut impl Source) -> Self {
        f32::from_bits(from.next())
    }

    #[inline(always)]
    fn write(self, to: &mut impl Sink) {
        to.put(self.to_bits());
    }
}

/// Two numbers of at most sixteen bits in one word.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pair {
    pub(crate) low: u32,
    pub(crate) high: u32,
}

/// The greatest number of a [`Pair`].
pub(crate) const HALF_WORD_MAX: u32 = 0xffff;

impl Word for Pair {
    #[inline(always)]
    fn read(from: &mut impl Source) -> Self {
        let word = from.next();
        Pair { low: word & HALF_WORD_MAX, high: word >> 16 }
    }

    #[inline(always)]
    fn write(self, to: &mut impl Sink) {
        to.put(self.low | self.high << 16);
    }
}

impl<W: Word> Word for [W; 2] {
    #[inline(always)]
    fn read(from: &mut impl Source) -> Self {
        [W::read(from), W::read(from)]
    }

    #[inline(always)]
    fn write(self, to: &mut impl Sink) {
        let [a, b] = self;
        a.write(to);
        b.write(to);
    }
}

impl<W: Word> Word for [W; 3] {
    #[inline(always)]
    fn read(from: &mut impl Source) -> Self {
        [W::read(from), W::read(from), W::read(from)]
    }

    #[inline(always)]
    fn write(self, to: &mut impl Sink) {
        let [a, b, c] = self;
        a.write(to);
        b.write(to);
        c.write(to);
    }
}

/// Makes a struct of numbers a [`Word`], its fields in this order.
macro_rules! words {
    ($name:ident { $($field:ident),* $(,)? }) => {
        impl $crate::score::words::Word for $name {
            #[inline(always)]
            fn read(from: &mut impl $crate::score::words::Source) -> Self {
                Self { $($field: $crate::score::words::Word::read(from)),* }
            }

            #[inline(always)]
            fn write(self, to: &mut impl $crate::score::words::Sink) {
                $($crate::score::words::Word::write(self.$field, to);)*
            }
        }
    };
}
pub(crate) use words;

/// Words of one series, or of one lane, and how many were read or written.
struct Row<R>(R, usize);
struct Column<B>(B, usize, usize);

impl<const WORDS: usize> Source for Row<&[u32; WORDS]> {
    #[inline(always)]
    fn next(&mut self) -> u32 {
        self.1 += 1;
        self.0[self.1 - 1]
    }
}

impl<const WORDS: usize> Sink for Row<&mut [u32; WORDS]> {
    #[inline(always)]
    fn put(&mut self, word: u32) {
        self.0[self.1] = word;
        self.1 += 1;
    }
}

impl<const WORDS: usize, const N: usize> Source for Column<&Block<WORDS, N>> {
    #[inline(always)]
    fn next(&mut self) -> u32 {
        self.2 += 1;
        self.0.0[self.2 - 1][self.1]
    }
}

impl<const WORDS: usize, const N: usize> Sink for Column<&mut Block<WORDS, N>> {
    #[inline(always)]
    fn put(&mut self, word: u32) {
        self.0.0[self.2][self.1] = word;
        self.2 += 1;
    }
}

/// Reads one series' numbers from its words.
#[inline(always)]
pub(crate) fn read_row<W: Word, const WORDS: usize>(row: &[u32; WORDS]) -> W {
    W::read(&mut Row(row, 0))
}

/// Writes them back.
#[inline(always)]
pub(crate) fn write_row<W: Word, const WORDS: usize>(row: &mut [u32; WORDS], numbers: W) {
    numbers.write(&mut Row(row, 0));
}

/// The words of several series, one array for each number.
#[derive(Clone, Debug)]
#[repr(align(64))]
pub(crate) struct Block<const WORDS: usize, const N: usize>(pub(crate) [[u32; N]; WORDS]);

impl<const WORDS: usize, const N: usize> Block<WORDS, N> {
    #[inline(always)]
    pub(crate) fn new() -> Self {
        Block([[0; N]; WORDS])
    }

    /// The numbers of one lane.
    #[inline(always)]
    pub(crate) fn read<W: Word>(&self, lane: usize) -> W {
        W::read(&mut Column(self, lane, 0))
    }

    /// Puts the numbers of one lane back.
    #[inline(always)]
    pub(crate) fn write<W: Word>(&mut self, lane: usize, numbers: W) {
        numbers.write(&mut Column(self, lane, 0));
    }

    /// Takes the words of as many series as there are lanes.
    #[inline(always)]
    pub(crate) fn gather(&mut self, turn: impl Turn<N>, rows: [&[u32; WORDS]; N]) {
        const { assert!(WORDS.is_multiple_of(4)) };
        for (chunk, columns) in self.0.as_chunks_mut::<4>().0.iter_mut().enumerate() {
            *columns = turn.columns(rows.map(|row| &row.as_chunks::<4>().0[chunk]));
        }
    }

    /// Gives as many series as there are their words back.
    #[inline(always)]
    pub(crate) fn scatter<'a>(
        &self,
        turn: impl Turn<N>,
        mut rows: impl Iterator<Item = &'a mut [u32; WORDS]>,
    ) {
        let rows: [Option<&mut [u32; WORDS]>; N] = core::array::from_fn(|_| rows.next());
        if rows.iter().any(Option::is_none) {
            return rows.into_iter().flatten().enumerate().for_each(|(lane, row)| self.give(lane, row));
        }
        let mut rows = rows.map(|row| row.expect("none is missing"));
        for (chunk, columns) in self.0.as_chunks::<4>().0.iter().enumerate() {
            for (row, quad) in rows.iter_mut().zip(turn.rows(columns.each_ref())) {
                row.as_chunks_mut::<4>().0[chunk] = quad;
            }
        }
    }

    fn give(&self, lane: usize, row: &mut [u32; WORDS]) {
        for (word, numbers) in row.iter_mut().zip(&self.0) {
            *word = numbers[lane];
        }
    }
}
