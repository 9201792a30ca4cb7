//! Expiry of a certificate: the one field that rustls only checks for the peer's certificates.

use std::time::{SystemTime, UNIX_EPOCH};

/// The day on which the certificate expired, if it has.
pub(super) fn ended(certificate: &rustls::pki_types::CertificateDer<'static>) -> Option<String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs();
    let end = not_after(certificate)?;
    (end < digits_of(now)).then(|| format!("{}-{}-{}", &end[..4], &end[4..6], &end[6..8]))
}

/// The end of validity as `YYYYMMDDhhmmss`, in UTC. `None` for an invalid certificate: its users report that.
fn not_after(der: &[u8]) -> Option<String> {
    const SEQUENCE: u8 = 0x30;
    const VERSION: u8 = 0xa0;
    const UTC_TIME: u8 = 0x17;
    let (certificate, _) = element(der, SEQUENCE)?;
    let (mut signed, _) = element(certificate, SEQUENCE)?;
    if signed.first() == Some(&VERSION) {
        signed = skip(signed)?;
    }
    // Serial number, algorithm, issuer.
    for _ in 0..3 {
        signed = skip(signed)?;
    }
    let (validity, _) = element(signed, SEQUENCE)?;
    let end = skip(validity)?;
    let (text, _) = element(end, *end.first()?)?;
    let digits = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    // RFC 5280, 4.1.2.5.1: years of two digits are those from 1950 to 2049.
    let digits = match end[0] {
        UTC_TIME if digits < "50" => format!("20{digits}"),
        UTC_TIME => format!("19{digits}"),
        _ => digits.to_owned(),
    };
    (digits.len() == 14 && digits.bytes().all(|digit| digit.is_ascii_digit())).then_some(digits)
}

/// The content of the element at the start of `bytes`, if it has this tag, and the bytes after it.
fn element(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&found, rest) = bytes.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x84 => {
            let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (digits.iter().fold(0, |length, digit| (length << 8) | usize::from(*digit)), rest)
        }
        _ => return None,
    };
    (found == tag).then_some(())?;
    rest.split_at_checked(length)
}

fn skip(bytes: &[u8]) -> Option<&[u8]> {
    element(bytes, *bytes.first()?).map(|(_, rest)| rest)
}

/// Seconds since 1970 in the format of [`not_after`]. Days after Hinnant, "chrono-compatible low-level date
/// algorithms".
fn digits_of(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let of_year = day - (365 * year + year / 4 - year / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = era * 400 + year + u64::from(month <= 2);
    format!("{year:04}{month:02}{day:02}{:02}{:02}{:02}", second / 3_600, second / 60 % 60, second % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        assert_eq!(digits_of(0), "19700101000000");
        assert_eq!(digits_of(951_782_399), "20000228235959");
        assert_eq!(digits_of(951_782_400), "20000229000000");
        assert_eq!(digits_of(1_796_083_200), "20261201000000");
    }

    #[test]
    fn a_certificate_that_has_ended_says_when() {
        let made = |year| {
            let mut params = rcgen::CertificateParams::new(["host".to_owned()]).expect("a name");
            (params.not_before, params.not_after) =
                (rcgen::date_time_ymd(1999, 1, 1), rcgen::date_time_ymd(year, 3, 4));
            let key = rcgen::KeyPair::generate().expect("a key");
            params.self_signed(&key).expect("signed").der().clone()
        };
        assert_eq!(ended(&made(2001)).as_deref(), Some("2001-03-04"));
        for later in [2049, 2050, 4096] {
            assert_eq!(ended(&made(later)), None, "{later}");
        }
        let whole = made(2001);
        for length in 0..whole.len() {
            // Truncated anywhere it is invalid, and nothing panics.
            let _ = not_after(&whole[..length]);
        }
    }
}
