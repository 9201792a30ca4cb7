//! The filter and order strings of MLflow's searches, read into values.
//!
//! A filter is a list of comparisons joined by `and`:
//!
//! ```text
//! metrics.`validation/loss` < 0.1 and params.model.kind = 'cnn' and tags."team" LIKE 'vision%'
//! and attributes.status IN ('FINISHED', 'RUNNING') and start_time > 1700000000000
//! ```
//!
//! Keys may be bare, or quoted with backticks or double quotes. What has no prefix is an attribute. Texts stand in
//! single or double quotes, a quote in them doubled. Errors name the place, counted in characters from 1. This module
//! never touches a database: [`Filter`] is turned into SQL with bound parameters by the index, or tested against a
//! document with [`Clause::holds`].

mod lex;
mod parse;

/// What a comparison looks at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Entity {
    /// The latest value of a metric.
    Metric,
    /// A parameter.
    Param,
    /// A tag.
    Tag,
    /// A field of the thing itself, such as `status`.
    Attribute,
    /// A dataset that a run took in: `name`, `digest` or `context`.
    Dataset,
}

/// A field by name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Field {
    /// Of which kind.
    pub entity: Entity,
    /// Its name, without quotes.
    pub key: String,
    /// Where it stands in the text, in characters from 1.
    pub at: usize,
}

/// How a field is compared.
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
    /// `LIKE`: `%` stands for any text, `_` for one character; letters' case counts.
    Like,
    /// `ILIKE`: the same, whatever the case of ASCII letters.
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

/// What a field is compared with.
#[derive(Clone, PartialEq, Debug)]
pub enum Literal {
    /// Nothing: `IS NULL`.
    Nothing,
    /// A number.
    Number(f64),
    /// A text.
    Text(String),
    /// Texts, of `IN`.
    Texts(Vec<String>),
}

/// One comparison.
#[derive(Clone, PartialEq, Debug)]
pub struct Clause {
    /// The field.
    pub field: Field,
    /// How.
    pub operator: Operator,
    /// With what.
    pub value: Literal,
    /// Where the value stands, in characters from 1.
    pub value_at: usize,
}

/// All comparisons of a filter; each must hold.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Filter {
    /// The comparisons.
    pub clauses: Vec<Clause>,
}

/// One key of an order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Order {
    /// The field.
    pub field: Field,
    /// Greatest first.
    pub descending: bool,
}

/// What is wrong with a filter or an order, and where.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{what}, at character {at} of {text:?}")]
pub struct FilterError {
    /// What is wrong.
    pub what: String,
    /// Where, in characters from 1.
    pub at: usize,
    /// The whole text.
    pub text: String,
}

/// Longest filter or order that is read: a page of ids in an `IN` list fits.
pub const TEXT_MAX: usize = 100_000;

impl Filter {
    /// Reads a filter; an empty one holds for everything.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub fn parse(text: &str) -> Result<Self, FilterError> {
        parse::filter(text)
    }
}

impl Order {
    /// Reads one key of an order, such as ``metrics.`validation/loss` DESC``.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub fn parse(text: &str) -> Result<Self, FilterError> {
        parse::order(text)
    }
}

/// A field's value, for [`Clause::holds`].
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum FieldValue<'a> {
    /// It has none.
    Nothing,
    /// A number.
    Number(f64),
    /// A text.
    Text(&'a str),
}

impl Clause {
    /// Whether the comparison holds for a field of this value. What is absent is neither equal nor unequal to
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

/// SQL's LIKE. Goes back to the last `%` only: time is bounded by the product of the lengths.
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
