//! The filter and order strings of MLflow's searches, parsed into values.
//!
//! A filter is a list of comparisons joined by `and`:
//!
//! ```text
//! metrics.`validation/loss` < 0.1 and params.model.kind = 'cnn' and tags."team" LIKE 'vision%'
//! and attributes.status IN ('FINISHED', 'RUNNING') and start_time > 1700000000000
//! ```
//!
//! Keys may be bare, or quoted with backticks or double quotes. A field without a prefix is an attribute. Strings stand
//! in single or double quotes, a quote in them doubled. Errors name the position, counted in characters from 1. This
//! module never touches a database: the index turns a [`Filter`] into SQL with bound parameters, and [`Clause::holds`]
//! tests one against a document.

mod lex;
mod parse;

/// The kind of field that a comparison reads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Entity {
    /// The latest value of a metric.
    Metric,
    /// A parameter.
    Param,
    /// A tag.
    Tag,
    /// A field of the item itself, such as `status`.
    Attribute,
    /// An input dataset of a run: `name`, `digest` or `context`.
    Dataset,
}

/// A field by name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Field {
    /// The field's kind.
    pub entity: Entity,
    /// The field's name, without quotes.
    pub key: String,
    /// Its position in the text, in characters from 1.
    pub at: usize,
}

/// A comparison operator.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operator {
    /// `=`
    Equal,
    /// `!=`
    Unequal,
    /// `<`
    Less,
    /// `<=`
    LessOrEqual,
    /// `>`
    Greater,
    /// `>=`
    GreaterOrEqual,
    /// `LIKE`: `%` matches any text, `_` one character; case-sensitive.
    Like,
    /// `ILIKE`: the same, ignoring the case of ASCII letters.
    LikeAnyCase,
    /// `IN ('a', 'b')`
    In,
    /// `NOT IN ('a', 'b')`
    NotIn,
    /// `IS NULL`
    Absent,
    /// `IS NOT NULL`
    Present,
}

/// The right-hand side of a comparison.
#[derive(Clone, PartialEq, Debug)]
pub enum Literal {
    /// No value: `IS NULL`.
    Nothing,
    /// A number.
    Number(f64),
    /// A string.
    Text(String),
    /// The strings of an `IN` list.
    Texts(Vec<String>),
}

/// One comparison.
#[derive(Clone, PartialEq, Debug)]
pub struct Clause {
    /// The field.
    pub field: Field,
    /// The operator.
    pub operator: Operator,
    /// The value to compare with.
    pub value: Literal,
    /// The value's position, in characters from 1.
    pub value_at: usize,
}

/// A conjunction of comparisons.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Filter {
    /// The comparisons.
    pub clauses: Vec<Clause>,
}

/// One sort key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Order {
    /// The field.
    pub field: Field,
    /// Whether the greatest value comes first.
    pub descending: bool,
}

/// A syntax error in a filter or an order.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{what}, at character {at} of {text:?}")]
pub struct FilterError {
    /// What is wrong.
    pub what: String,
    /// Position, in characters from 1.
    pub at: usize,
    /// The text, or the beginning of a long one.
    pub text: String,
}

/// Maximum bytes of a filter or order: a page of ids in an `IN` list fits.
pub const TEXT_MAX: usize = 100_000;

impl Filter {
    /// Parses a filter; an empty one matches everything.
    ///
    /// # Errors
    /// When the text is not a valid filter; the error gives the position.
    pub fn parse(text: &str) -> Result<Self, FilterError> {
        parse::filter(text)
    }
}

impl Order {
    /// Parses one sort key, such as ``metrics.`validation/loss` DESC``.
    ///
    /// # Errors
    /// When the text is not a valid sort key; the error gives the position.
    pub fn parse(text: &str) -> Result<Self, FilterError> {
        parse::order(text)
    }
}

/// A field's value, for [`Clause::holds`].
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum FieldValue<'a> {
    /// The field is absent.
    Nothing,
    /// A number.
    Number(f64),
    /// A string.
    Text(&'a str),
}

impl Clause {
    /// Whether the comparison holds for a field of this value. An absent field is neither equal nor unequal to
    /// anything.
    #[must_use]
    pub fn holds(&self, found: FieldValue<'_>) -> bool {
        match (self.operator, found) {
            (Operator::Absent, _) => found == FieldValue::Nothing,
            (Operator::Present, _) => found != FieldValue::Nothing,
            (_, FieldValue::Nothing) => false,
            (_, FieldValue::Number(number)) => self.number_holds(number),
            (_, FieldValue::Text(text)) => self.text_holds(text),
        }
    }

    fn number_holds(&self, number: f64) -> bool {
        let wanted = match &self.value {
            Literal::Number(wanted) => *wanted,
            Literal::Text(text) => text.parse().unwrap_or(f64::NAN),
            Literal::Texts(list) => {
                let is_in = list.iter().any(|text| text.parse() == Ok(number));
                return is_in == (self.operator == Operator::In);
            }
            Literal::Nothing => return false,
        };
        number.partial_cmp(&wanted).is_some_and(|order| self.order_holds(order))
    }

    fn text_holds(&self, text: &str) -> bool {
        let wanted = match &self.value {
            Literal::Text(wanted) => wanted.clone(),
            Literal::Number(number) => number.to_string(),
            Literal::Texts(list) => {
                return list.iter().any(|one| one == text) == (self.operator == Operator::In);
            }
            Literal::Nothing => return false,
        };
        match self.operator {
            Operator::Like => is_like(text, &wanted),
            Operator::LikeAnyCase => is_like(&text.to_ascii_lowercase(), &wanted.to_ascii_lowercase()),
            _ => self.order_holds(text.cmp(&wanted)),
        }
    }

    fn order_holds(&self, order: std::cmp::Ordering) -> bool {
        match self.operator {
            Operator::Equal => order.is_eq(),
            Operator::Unequal => order.is_ne(),
            Operator::Less => order.is_lt(),
            Operator::LessOrEqual => order.is_le(),
            Operator::Greater => order.is_gt(),
            Operator::GreaterOrEqual => order.is_ge(),
            _ => false,
        }
    }
}

/// SQL's LIKE. Backtracks to the last `%` only: time is bounded by the product of the lengths.
fn is_like(text: &str, pattern: &str) -> bool {
    let (text, pattern): (Vec<char>, Vec<char>) = (text.chars().collect(), pattern.chars().collect());
    let (mut t, mut p, mut star) = (0, 0, None);
    while t < text.len() {
        match pattern.get(p) {
            Some('%') => {
                star = Some((p, t));
                p += 1;
            }
            Some(&wanted) if wanted == '_' || wanted == text[t] => {
                t += 1;
                p += 1;
            }
            _ => match star {
                Some((star_p, star_t)) => {
                    star = Some((star_p, star_t + 1));
                    t = star_t + 1;
                    p = star_p + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|rest| *rest == '%')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(filter: &str, found: FieldValue<'_>) -> bool {
        Filter::parse(filter).expect("a filter").clauses[0].holds(found)
    }

    #[test]
    fn like_by_hand() {
        for (text, pattern, expected) in [
            ("abc", "abc", true),
            ("abc", "a%", true),
            ("abc", "%c", true),
            ("abc", "%b%", true),
            ("abc", "a_c", true),
            ("abc", "a_", false),
            ("abc", "ABC", false),
            ("", "%", true),
            ("", "_", false),
            ("aab", "%ab", true),
            ("grün", "gr_n", true),
        ] {
            assert_eq!(is_like(text, pattern), expected, "{text} LIKE {pattern}");
        }
    }

    #[test]
    fn clauses_hold_or_not() {
        assert!(holds("name = 'a'", FieldValue::Text("a")));
        assert!(holds("name != 'a'", FieldValue::Text("b")));
        assert!(!holds("name != 'a'", FieldValue::Nothing), "what is absent is not unequal");
        assert!(holds("name ILIKE 'AB%'", FieldValue::Text("abc")));
        assert!(!holds("name LIKE 'AB%'", FieldValue::Text("abc")));
        assert!(holds("name IN ('a', 'b')", FieldValue::Text("b")));
        assert!(holds("name NOT IN ('a', 'b')", FieldValue::Text("c")));
        assert!(holds("version_number >= 2", FieldValue::Number(2.0)));
        assert!(!holds("version_number != 2", FieldValue::Number(f64::NAN)));
        assert!(holds("tags.x IS NULL", FieldValue::Nothing));
        assert!(holds("tags.x IS NOT NULL", FieldValue::Text("")));
    }
}
