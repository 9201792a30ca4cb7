//! Times in the format of W&B's folder names.

/// Seconds since 1970 as `YYYYMMDD_HHMMSS` in UTC. The days are counted in eras of 400 years that begin with March:
/// Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms".
pub(super) fn date(seconds: f64) -> String {
    let seconds = seconds.max(0.0) as u64;
    let days = seconds / 86_400 + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}{month:02}{day:02}_{hour:02}{minute:02}{second:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_dates() {
        assert_eq!(date(0.0), "19700101_000000");
        assert_eq!(date(951_782_400.9), "20000229_000000");
        assert_eq!(date(1_709_251_199.0), "20240229_235959");
        assert_eq!(date(4_107_542_400.0), "21000301_000000");
        assert_eq!(date(f64::NAN), "19700101_000000");
    }
}
