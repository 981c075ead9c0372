//! How long a certificate is valid, read from its bytes (RFC 5280, section 4.1), and when it is time for another one.
//!
//! Must never trust a certificate by this: whoever verifies it does. The hard case is bytes that are no certificate; each
//! length is checked against what is there, and anything unexpected means no answer.

use chrono::NaiveDateTime;

/// Tags of DER (X.690) that lead to the validity.
const INTEGER: u8 = 0x02;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;

/// When a certificate begins and ceases to be valid, Unix seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// Its first second.
    pub from_s: i64,
    /// Its last second.
    pub until_s: i64,
}

impl Validity {
    /// Reads the validity of a certificate in DER.
    #[must_use]
    pub fn of(certificate: &[u8]) -> Option<Self> {
        let (certificate, _) = take(certificate, SEQUENCE)?;
        let (content, _) = take(certificate, SEQUENCE)?;
        // A certificate of version 1 does not name its version.
        let content = take(content, VERSION).map_or(content, |(_, rest)| rest);
        let (_serial, content) = take(content, INTEGER)?;
        let (_algorithm, content) = take(content, SEQUENCE)?;
        let (_issuer, content) = take(content, SEQUENCE)?;
        let (validity, _) = take(content, SEQUENCE)?;
        let (from_s, rest) = time(validity)?;
        let (until_s, _) = time(rest)?;
        (from_s <= until_s).then_some(Self { from_s, until_s })
    }

    /// When another certificate should be asked for: after half of its life, and up to an eighth later by `spread` (of 255), so that
    /// a fleet that enrolled on one day does not ask in one second.
    #[must_use]
    pub const fn renewal_s(self, spread: u8) -> i64 {
        let life = self.until_s.saturating_sub(self.from_s);
        self.from_s.saturating_add(life / 2).saturating_add(life / 8 / 255 * spread as i64)
    }
}

/// The content of the element at the beginning if it has this tag, and what follows it.
fn take(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&[found, first], rest) = bytes.split_first_chunk()?;
    if found != tag {
        return None;
    }
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81 => rest.split_first().map(|(length, rest)| (usize::from(*length), rest))?,
        0x82 => {
            rest.split_first_chunk().map(|(length, rest)| (usize::from(u16::from_be_bytes(*length)), rest))?
        }
        // What is longer is no certificate of this world.
        _ => return None,
    };
    rest.split_at_checked(length)
}

/// The time at the beginning, and what follows it.
fn time(bytes: &[u8]) -> Option<(i64, &[u8])> {
    let (text, rest, century) = match *bytes.first()? {
        // Two digits of the year: 1950 to 2049.
        UTC_TIME => take(bytes, UTC_TIME).map(|(text, rest)| (text, rest, true))?,
        GENERALIZED_TIME => take(bytes, GENERALIZED_TIME).map(|(text, rest)| (text, rest, false))?,
        _ => return None,
    };
    let text = str::from_utf8(text).ok()?;
    let text = match century {
        true if text.as_bytes().first()? >= &b'5' => format!("19{text}"),
        true => format!("20{text}"),
        false => text.to_owned(),
    };
    let time = NaiveDateTime::parse_from_str(&text, "%Y%m%d%H%M%SZ").ok()?;
    Some((time.and_utc().timestamp(), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(from: (i32, u8, u8), until: (i32, u8, u8)) -> Vec<u8> {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec!["a".into()]).unwrap();
        params.not_before = rcgen::date_time_ymd(from.0, from.1, from.2);
        params.not_after = rcgen::date_time_ymd(until.0, until.1, until.2);
        params.self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn both_forms_of_time_are_read() {
        let der = certificate((2026, 1, 1), (2049, 12, 31));
        assert_eq!(Validity::of(&der), Some(Validity { from_s: 1_767_225_600, until_s: 2_524_521_600 }));
        let der = certificate((2026, 1, 1), (2999, 12, 31));
        assert_eq!(Validity::of(&der), Some(Validity { from_s: 1_767_225_600, until_s: 32_503_593_600 }));
    }

    #[test]
    fn nothing_else_has_a_validity_and_nothing_panics() {
        let der = certificate((2026, 1, 1), (2027, 1, 1));
        for length in 0..der.len().min(150) {
            assert_eq!(Validity::of(&der[..length]), None, "cut to {length}");
        }
        for at in 0..der.len() {
            for byte in [0, 1, 0x30, 0x7f, 0x80, 0x82, 0xff] {
                let mut altered = der.clone();
                altered[at] = byte;
                if let Some(validity) = Validity::of(&altered) {
                    assert!(validity.from_s <= validity.until_s);
                }
            }
        }
    }

    #[test]
    fn renewal_comes_between_half_and_five_eighths_of_a_life() {
        let validity = Validity { from_s: 1_000, until_s: 1_000 + 255 * 800 };
        assert_eq!(validity.renewal_s(0), 1_000 + 255 * 400);
        assert_eq!(validity.renewal_s(255), 1_000 + 255 * 500);
    }
}
