//! Reads fields as numbers.

use crate::quote::{beginning, quoted};

/// What a field is as a number.
pub(crate) enum Parsed {
    Number(f64),
    Unusable,
    Text,
}

pub(crate) fn parse(text: &str) -> Parsed {
    match text.parse::<f64>() {
        Ok(value) if value.abs() <= f64::from(f32::MAX) => Parsed::Number(value),
        Ok(_) => Parsed::Unusable,
        Err(_) => Parsed::Text,
    }
}

/// A usable number: finite and within the range of f32.
pub(crate) fn number(text: &str) -> Option<f64> {
    match parse(text) {
        Parsed::Number(value) => Some(value),
        Parsed::Unusable | Parsed::Text => None,
    }
}

/// Error message for a field that should be numeric.
pub(crate) fn no_number(name: &str, text: &str) -> String {
    match parse(text) {
        Parsed::Unusable => {
            let (name, text) = (quoted(name), beginning(text));
            format!("column {name} is numeric, but {text} is not a finite number within +-3.4e38")
        }
        _ => format!("column {} is numeric, but this field is {}", quoted(name), quoted(text)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_texts_and_what_is_neither() {
        let check = |text: &str, expected: Option<f64>| assert_eq!(number(text), expected, "{text:?}");
        check("1", Some(1.0));
        check("-1.5e3", Some(-1500.0));
        check("+.5", Some(0.5));
        for text in ["", "x", "1,5", "0x10", "1_000", "inf", "NaN", "1e39", "-Infinity"] {
            check(text, None);
        }
    }
}
