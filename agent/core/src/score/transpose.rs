//! Rows of words to columns: how several series become lanes, and lanes series again.
//!
//! It must never change a bit of a word. The hard case is that a compiler makes it a move for each word, sixty-four
//! stores of four bytes that vectors are then loaded from; the instructions of x86-64 that shuffle four words at once have no
//! safe name in stable Rust, so this is a file with `unsafe` in it. Why that is sound: all that they ask for is SSE2,
//! which every x86-64 has, and addresses of sixteen bytes, which references to four words are.
#![allow(unsafe_code, reason = "shuffles of SSE2 have no safe name although every x86-64 has them")]

/// Four rows to four columns.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(super) fn transposed(rows: [&[u32; 4]; 4], columns: [&mut [u32; 4]; 4]) {
    use core::arch::x86_64::{
        __m128i, _mm_loadu_si128, _mm_storeu_si128, _mm_unpackhi_epi32, _mm_unpackhi_epi64,
        _mm_unpacklo_epi32, _mm_unpacklo_epi64,
    };
    // SAFETY: SSE2 is part of x86-64; each address is that of a reference to sixteen bytes, and none has to be aligned.
    unsafe {
        let [a, b, c, d] = rows.map(|row| _mm_loadu_si128(core::ptr::from_ref(row).cast::<__m128i>()));
        let (ab, cd) = (_mm_unpacklo_epi32(a, b), _mm_unpacklo_epi32(c, d));
        let (upper_ab, upper_cd) = (_mm_unpackhi_epi32(a, b), _mm_unpackhi_epi32(c, d));
        let turned = [
            _mm_unpacklo_epi64(ab, cd),
            _mm_unpackhi_epi64(ab, cd),
            _mm_unpacklo_epi64(upper_ab, upper_cd),
            _mm_unpackhi_epi64(upper_ab, upper_cd),
        ];
        for (column, words) in columns.into_iter().zip(turned) {
            _mm_storeu_si128(core::ptr::from_mut(column).cast::<__m128i>(), words);
        }
    }
}

/// Four rows to four columns.
#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
pub(super) fn transposed(rows: [&[u32; 4]; 4], columns: [&mut [u32; 4]; 4]) {
    for (j, column) in columns.into_iter().enumerate() {
        *column = core::array::from_fn(|i| rows[i][j]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_finds_its_place() {
        let rows: [[u32; 4]; 4] = core::array::from_fn(|i| core::array::from_fn(|j| (10 * i + j) as u32));
        let mut columns = [[0; 4]; 4];
        transposed(rows.each_ref(), columns.each_mut());
        for i in 0..4 {
            for j in 0..4 {
                assert_eq!(columns[j][i], rows[i][j]);
            }
        }
    }
}
