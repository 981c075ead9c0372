//! Rows of words to columns: how several series become lanes, and lanes series again.
//!
//! It must never change a bit of a word. The hard case is that a compiler makes it a move for each word, hundreds of
//! stores of four bytes that vectors are then loaded from, which has to wait for the last of them; the instructions of
//! x86-64 that shuffle words have no safe name in stable Rust, so this is a file with `unsafe` in it. Why that is sound:
//! whoever has an [`Avx2`] says that the processor has it, and addresses are those of references to as many words as are
//! loaded or stored.
#![allow(unsafe_code, reason = "shuffles of vectors have no safe name, whatever the processor has")]

/// Four words of one series.
pub(crate) type Quad = [u32; 4];

/// How the words of `N` series become lanes on some processor.
pub(crate) trait Turn<const N: usize>: Copy {
    /// Four words each of `N` rows to four columns.
    fn columns(self, rows: [&Quad; N]) -> [[u32; N]; 4];
    /// Four columns to four words each of `N` rows.
    fn rows(self, columns: [&[u32; N]; 4]) -> [Quad; N];
}

/// Any processor.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Anywhere;

impl<const N: usize> Turn<N> for Anywhere {
    #[inline(always)]
    fn columns(self, rows: [&Quad; N]) -> [[u32; N]; 4] {
        core::array::from_fn(|word| core::array::from_fn(|lane| rows[lane][word]))
    }

    #[inline(always)]
    fn rows(self, columns: [&[u32; N]; 4]) -> [Quad; N] {
        core::array::from_fn(|lane| core::array::from_fn(|word| columns[word][lane]))
    }
}

#[cfg(target_arch = "x86_64")]
pub(crate) use vectors::Avx2;

#[cfg(target_arch = "x86_64")]
mod vectors {
    use core::arch::x86_64::*;
    use core::mem::transmute;

    use super::{Quad, Turn};

    /// A processor with AVX2.
    #[derive(Clone, Copy, Debug)]
    pub(crate) struct Avx2(());

    impl Avx2 {
        /// # Safety
        /// The processor must have AVX2.
        #[inline(always)]
        pub(crate) unsafe fn new() -> Self {
            Self(())
        }
    }

    impl Turn<8> for Avx2 {
        #[inline(always)]
        fn columns(self, rows: [&Quad; 8]) -> [[u32; 8]; 4] {
            // SAFETY: whoever made `self` said that the processor has AVX2.
            unsafe { columns_of_8(rows) }
        }

        #[inline(always)]
        fn rows(self, columns: [&[u32; 8]; 4]) -> [Quad; 8] {
            // SAFETY: as above.
            unsafe { rows_of_8(columns) }
        }
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    fn columns_of_8(rows: [&Quad; 8]) -> [[u32; 8]; 4] {
        // SAFETY: each address is that of a reference to sixteen bytes, and none has to be aligned.
        let quad = |row: usize| unsafe { _mm_loadu_si128(core::ptr::from_ref(rows[row]).cast()) };
        let two = |row: usize| _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(quad(row)), quad(row + 4));
        let turned = turn_8([two(0), two(1), two(2), two(3)]);
        // SAFETY: vectors of eight words are eight words.
        unsafe { transmute(turned) }
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    fn rows_of_8(columns: [&[u32; 8]; 4]) -> [Quad; 8] {
        // SAFETY: each address is that of a reference to as many bytes, and none has to be aligned.
        let column = |at: usize| unsafe { _mm256_loadu_si256(core::ptr::from_ref(columns[at]).cast()) };
        let turned = turn_8([column(0), column(1), column(2), column(3)]);
        let lower = turned.map(|two| _mm256_castsi256_si128(two));
        let upper = turned.map(|two| _mm256_extracti128_si256::<1>(two));
        // SAFETY: vectors of four words are four words.
        unsafe { transmute([lower, upper]) }
    }

    /// Four by four words in each half.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn turn_8([a, b, c, d]: [__m256i; 4]) -> [__m256i; 4] {
        let (ab, cd) = (_mm256_unpacklo_epi32(a, b), _mm256_unpacklo_epi32(c, d));
        let (upper_ab, upper_cd) = (_mm256_unpackhi_epi32(a, b), _mm256_unpackhi_epi32(c, d));
        [
            _mm256_unpacklo_epi64(ab, cd),
            _mm256_unpackhi_epi64(ab, cd),
            _mm256_unpacklo_epi64(upper_ab, upper_cd),
            _mm256_unpackhi_epi64(upper_ab, upper_cd),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every_word_finds_its_place<const N: usize>(turn: impl Turn<N>) {
        let rows: [Quad; N] =
            core::array::from_fn(|lane| core::array::from_fn(|word| (10 * lane + word) as u32));
        let columns = turn.columns(rows.each_ref());
        for (word, column) in columns.iter().enumerate() {
            assert_eq!(*column, core::array::from_fn(|lane| (10 * lane + word) as u32));
        }
        assert_eq!(turn.rows(columns.each_ref()), rows);
    }

    #[test]
    fn words_find_their_places() {
        every_word_finds_its_place::<1>(Anywhere);
        every_word_finds_its_place::<8>(Anywhere);
        #[cfg(target_arch = "x86_64")]
        if std::is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has it.
            every_word_finds_its_place(unsafe { Avx2::new() });
        }
    }
}
