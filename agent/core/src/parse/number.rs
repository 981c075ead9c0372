//! Numbers as text, eight digits at a time.
//!
//! It must never be off by a bit: what is read here is the number that correct rounding gives, and what would need more
//! than one rounding is left to an exact algorithm. The hard case is that most numbers are short, so that finding their
//! end costs as much as reading them: eight bytes are looked at as one word, and the point in the middle is taken out.
use super::ParseError;

/// The lowest bit of each byte of a word, and the highest.
pub(super) const LOWEST: u64 = 0x0101_0101_0101_0101;
pub(super) const HIGHEST: u64 = LOWEST << 7;
const ZEROS: u64 = LOWEST * b'0' as u64;
/// Digits that a `u64` holds whatever they are, and those that an `i64` holds.
const WORD_DIGITS: usize = 19;
const SIGNED_DIGITS: usize = 18;
/// Digits that an `f64` holds whatever they are, and the powers of ten that divide them with one rounding.
const EXACT_DIGITS: usize = 15;
const POWERS: [f64; EXACT_DIGITS + 1] =
    [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15];

/// A decimal number of the wire: finite, or a typed error. Accepts what C's `strtod` accepts in decimal.
pub(super) fn float(bytes: &[u8]) -> Result<f64, ParseError> {
    if let Some((value, end)) = leading_plain(bytes)
        && end == bytes.len()
    {
        return Ok(value);
    }
    let value: f64 = fast_float2::parse(bytes).map_err(|_| ParseError::ValueMalformed)?;
    if value.is_finite() { Ok(value) } else { Err(ParseError::ValueNotFinite) }
}

/// A number as most are written, `-12.5`: up to fifteen digits and perhaps a point among them, before a comma or the
/// end; and where it ends. `None` for any other number, and for what is none.
#[inline]
pub(super) fn leading_plain(bytes: &[u8]) -> Option<(f64, usize)> {
    let start = usize::from(bytes.first() == Some(&b'-'));
    let digits = digits(&bytes[start..]);
    let end = start + digits.length;
    if !matches!(bytes.get(end), None | Some(b',')) {
        return None;
    }
    Some((signed(digits.exact()?, start == 1), end))
}

/// The number that `bytes` begin with, and where it ends: digits with perhaps a sign, a point, or the `i` or `u` of a whole
/// number. `None` for other numbers, and for what is none; what follows is for the caller to look at.
#[inline]
pub(super) fn read(bytes: &[u8]) -> Option<(f64, usize)> {
    let negative = bytes.first() == Some(&b'-');
    let start = usize::from(negative);
    let digits = digits(&bytes[start..]);
    let end = start + digits.length;
    let is_whole = !digits.has_point && (1..=SIGNED_DIGITS).contains(&digits.count);
    match bytes.get(end) {
        Some(b'i') if is_whole => Some((signed(digits.sum as f64, negative), end + 1)),
        Some(b'u') if is_whole && !negative => Some((digits.sum as f64, end + 1)),
        _ => match digits.exact() {
            Some(value) => Some((signed(value, negative), end)),
            None => read_long(bytes, digits.count),
        },
    }
}

/// A number of so many digits that it takes more than one rounding.
#[cold]
fn read_long(bytes: &[u8], count: usize) -> Option<(f64, usize)> {
    if count <= EXACT_DIGITS {
        return None;
    }
    let (value, length): (f64, usize) = fast_float2::parse_partial(bytes).ok()?;
    value.is_finite().then_some((value, length))
}

#[inline]
fn signed(value: f64, negative: bool) -> f64 {
    if negative { -value } else { value }
}

/// Digits with perhaps a point among them.
#[derive(Clone, Copy, Debug)]
struct Digits {
    /// What they are without the point; of no meaning beyond [`WORD_DIGITS`].
    sum: u64,
    count: usize,
    /// How many of them stand after the point.
    decimals: usize,
    has_point: bool,
    /// Bytes that they take.
    length: usize,
}

impl Digits {
    /// Their value when there are few enough: neither they nor the power of ten exceed what an `f64` holds, and one
    /// division rounds but once (Clinger, "How to read floating point numbers accurately", PLDI 1990).
    #[inline]
    fn exact(&self) -> Option<f64> {
        if !(1..=EXACT_DIGITS).contains(&self.count) {
            return None;
        }
        Some(self.sum as f64 / POWERS[self.decimals.min(EXACT_DIGITS)])
    }
}

/// Reads as many digits as `bytes` begin with.
#[inline(always)]
fn digits(bytes: &[u8]) -> Digits {
    let word = bytes.first_chunk().map(|word| u64::from_le_bytes(*word));
    word.and_then(short_digits).unwrap_or_else(|| long_digits(bytes))
}

/// Digits that end within a word.
#[inline(always)]
fn short_digits(word: u64) -> Option<Digits> {
    let ends = no_digits(word);
    let end = ends.trailing_zeros() as usize / 8;
    if end == 8 {
        return None;
    }
    if (word >> (8 * end)) as u8 != b'.' {
        return Some(Digits { sum: sum(word, end), count: end, decimals: 0, has_point: false, length: end });
    }
    let length = (ends & (ends - 1)).trailing_zeros() as usize / 8;
    if length == 8 {
        return None;
    }
    let before = (1 << (8 * end)) - 1;
    let joined = word & before | word >> 8 & !before;
    let count = length - 1;
    Some(Digits { sum: sum(joined, count), count, decimals: count - end, has_point: true, length })
}

/// Digits one by one.
#[inline(never)]
fn long_digits(bytes: &[u8]) -> Digits {
    let (mut sum, mut length, mut point) = (0_u64, 0, None);
    while let Some(&byte) = bytes.get(length) {
        let digit = byte.wrapping_sub(b'0');
        if digit <= 9 {
            sum = sum.wrapping_mul(10).wrapping_add(u64::from(digit));
        } else if byte == b'.' && point.is_none() {
            point = Some(length);
        } else {
            break;
        }
        length += 1;
    }
    let has_point = point.is_some();
    let decimals = point.map_or(0, |point| length - point - 1);
    Digits { sum, count: length - usize::from(has_point), decimals, has_point, length }
}

/// The highest bit of each byte that is no digit.
#[inline]
fn no_digits(word: u64) -> u64 {
    let digits = word ^ ZEROS;
    (((digits & !HIGHEST) + LOWEST * 0x76) | digits) & HIGHEST
}

/// The first `count` digits of a word, fewer than eight, as a number.
#[inline]
fn sum(word: u64, count: usize) -> u64 {
    // Moved up, so that those of the word that do not count are gone and zeros stand before the others.
    sum_of_eight(((word ^ ZEROS) << (8 * (7 - count))) << 8)
}

/// Eight digits, their zero taken off: neighbours are joined to pairs, pairs to fours, and those to the whole.
#[inline]
fn sum_of_eight(ones: u64) -> u64 {
    let pairs = (ones * 10 + (ones >> 8)) & 0x00ff_00ff_00ff_00ff;
    let fours = (pairs * 100 + (pairs >> 16)) & 0x0000_ffff_0000_ffff;
    (fours * 10_000 + (fours >> 32)) & 0xffff_ffff
}

/// Eight digits at once.
#[inline]
pub(super) fn eight_digits(chunk: [u8; 8]) -> Option<u64> {
    let word = u64::from_le_bytes(chunk);
    (no_digits(word) == 0).then(|| sum_of_eight(word ^ ZEROS))
}

/// How many digits `bytes` begin with, if they are a whole number that an `i64` surely holds.
#[inline]
pub(super) fn whole_length(bytes: &[u8]) -> Option<usize> {
    let (words, _) = bytes.as_chunks();
    let ends = |place: usize| words.get(place).map(|word| no_digits(u64::from_le_bytes(*word)));
    let length = match ends(0)? {
        0 => match ends(1)? {
            0 => 16 + bytes[16..].iter().take(4).take_while(|byte| byte.is_ascii_digit()).count(),
            mask => 8 + mask.trailing_zeros() as usize / 8,
        },
        mask => mask.trailing_zeros() as usize / 8,
    };
    let fits = length <= SIGNED_DIGITS || length == WORD_DIGITS && bytes[0] < b'9';
    (length > 0 && fits).then_some(length)
}

/// A whole number with an optional sign; `None` when it is none or does not fit.
pub(crate) fn integer(bytes: &[u8]) -> Option<i64> {
    let (digits, negative) = match bytes.split_first()? {
        (b'-', digits) => (digits, true),
        _ => (bytes, false),
    };
    let size = unsigned(digits).ok()?;
    if negative { 0i64.checked_sub_unsigned(size) } else { i64::try_from(size).ok() }
}

/// A whole number without sign: nineteen digits cannot overflow, so that the check is left for longer ones.
pub(super) fn unsigned(digits: &[u8]) -> Result<u64, ParseError> {
    let (sum, rest) = match digits.as_chunks() {
        _ if digits.len() > WORD_DIGITS => (0, digits),
        (chunks, rest) => {
            let step = |sum, chunk: &[u8; 8]| Some(sum * 100_000_000 + eight_digits(*chunk)?);
            (chunks.iter().try_fold(0, step).ok_or(ParseError::ValueMalformed)?, rest)
        }
    };
    if digits.is_empty() || !rest.iter().all(u8::is_ascii_digit) {
        return Err(ParseError::ValueMalformed);
    }
    let step = |sum: u64, d: &u8| sum.checked_mul(10)?.checked_add(u64::from(d - b'0'));
    rest.iter().try_fold(sum, step).ok_or(ParseError::ValueNotFinite)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::format;

    fn plain(text: &str) -> Option<f64> {
        leading_plain(text.as_bytes()).filter(|(_, end)| *end == text.len()).map(|(value, _)| value)
    }

    proptest! {
        #[test]
        fn plain_numbers_are_exact(text in "-?[0-9]{0,9}[.]?[0-9]{0,9}") {
            if let Some(value) = plain(&text) {
                prop_assert_eq!(value.to_bits(), text.parse::<f64>().unwrap().to_bits());
            }
        }

        #[test]
        fn numbers_are_read_exactly_and_to_their_end(text in "-?[0-9]{0,21}[.]?[0-9]{0,21}", rest in "[ ,x\n]{9}") {
            if let Some((value, length)) = read(format!("{text}{rest}").as_bytes()) {
                prop_assert_eq!(length, text.len());
                prop_assert_eq!(value.to_bits(), text.parse::<f64>().unwrap().to_bits());
            } else {
                prop_assert!(text.bytes().all(|byte| !byte.is_ascii_digit()), "{} is a number", text);
            }
        }

        #[test]
        fn whole_numbers_are_measured(number in any::<i64>(), rest in "[ ,x\n]{24}") {
            let digits = format!("{}", number.unsigned_abs() >> 1);
            let expected = (digits.len() < 19 || !digits.starts_with('9')).then_some(digits.len());
            prop_assert_eq!(whole_length(format!("{digits}{rest}").as_bytes()), expected);
            prop_assert_eq!(integer(digits.as_bytes()), digits.parse().ok());
        }
    }

    #[test]
    fn what_is_not_plain_is_left() {
        for text in ["", "-", ".", "-.", "1e3", "+1", "1.2.3", "1234567890123456", "nan", " 1"] {
            assert_eq!(plain(text), None, "{text}");
        }
        assert_eq!((plain("-12.5"), plain(".5"), plain("5.")), (Some(-12.5), Some(0.5), Some(5.0)));
    }
}
