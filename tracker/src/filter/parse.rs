//! The parser: from tokens to comparisons.

use super::lex::{Kind, Token, error, tokens};
use super::{Clause, Entity, Field, Filter, FilterError, Literal, Operator, Order};

/// The prefixes, as MLflow's clients write them.
const PREFIXES: &[(&str, Entity)] = &[
    ("metrics", Entity::Metric),
    ("metric", Entity::Metric),
    ("params", Entity::Param),
    ("param", Entity::Param),
    ("parameters", Entity::Param),
    ("parameter", Entity::Param),
    ("tags", Entity::Tag),
    ("tag", Entity::Tag),
    ("attributes", Entity::Attribute),
    ("attribute", Entity::Attribute),
    ("attr", Entity::Attribute),
    ("run", Entity::Attribute),
    ("datasets", Entity::Dataset),
    ("dataset", Entity::Dataset),
];

struct Reader<'a> {
    text: &'a str,
    tokens: Vec<Token>,
    next: usize,
}

pub(super) fn filter(text: &str) -> Result<Filter, FilterError> {
    let mut reader = Reader { text, tokens: tokens(text)?, next: 0 };
    let mut clauses = Vec::new();
    if reader.peek().is_none() {
        return Ok(Filter { clauses });
    }
    loop {
        clauses.push(reader.clause()?);
        if reader.peek().is_none() {
            return Ok(Filter { clauses });
        }
        let at = reader.at();
        if !reader.take_word("and") {
            let is_or = reader.peek_word().is_some_and(|word| word.eq_ignore_ascii_case("or"));
            let what = if is_or { "OR is not supported" } else { "AND is expected between comparisons" };
            return Err(error(text, at, what));
        }
    }
}

pub(super) fn order(text: &str) -> Result<Order, FilterError> {
    let mut reader = Reader { text, tokens: tokens(text)?, next: 0 };
    let field = reader.field()?;
    let at = reader.at();
    let descending = reader.take_word("desc");
    if !descending {
        reader.take_word("asc");
    }
    if reader.peek().is_some() {
        return Err(error(text, at, "after the key of an order comes ASC, DESC or nothing"));
    }
    Ok(Order { field, descending })
}

impl Reader<'_> {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.next)
    }

    /// The position of the next token, or of the end of the text.
    fn at(&self) -> usize {
        self.peek().map_or_else(|| self.text.chars().count() + 1, |token| token.at)
    }

    fn peek_word(&self) -> Option<&str> {
        match self.peek() {
            Some(Token { kind: Kind::Word(word), .. }) => Some(word),
            _ => None,
        }
    }

    fn take_word(&mut self, wanted: &str) -> bool {
        let is_it = self.peek_word().is_some_and(|word| word.eq_ignore_ascii_case(wanted));
        self.next += usize::from(is_it);
        is_it
    }

    fn fail<T>(&self, what: impl Into<String>) -> Result<T, FilterError> {
        Err(error(self.text, self.at(), what))
    }

    fn clause(&mut self) -> Result<Clause, FilterError> {
        let field = self.field()?;
        let operator = self.operator()?;
        let value_at = self.at();
        let value = match operator {
            Operator::Absent | Operator::Present => Literal::Nothing,
            Operator::In | Operator::NotIn => Literal::Texts(self.list()?),
            _ => self.literal()?,
        };
        let is_number = matches!(value, Literal::Number(_));
        if field.entity == Entity::Metric && !is_number {
            let what =
                format!("a metric is compared with a number (by = != < <= > >=), {:?} is not", field.key);
            return Err(error(self.text, value_at, what));
        }
        if is_number && matches!(operator, Operator::Like | Operator::LikeAnyCase) {
            return Err(error(self.text, value_at, "LIKE takes a text in quotes"));
        }
        Ok(Clause { field, operator, value, value_at })
    }

    /// `prefix.key`, ``prefix.`key` ``, or a bare attribute.
    fn field(&mut self) -> Result<Field, FilterError> {
        let at = self.at();
        let Some(Token { kind, .. }) = self.peek().cloned() else {
            return self.fail("a field is expected, such as metrics.loss");
        };
        let bare = |key: String| Field { entity: Entity::Attribute, key, at };
        let word = match kind {
            Kind::Word(word) => word,
            Kind::Quoted(key, '`' | '"') => {
                self.next += 1;
                return Ok(bare(key));
            }
            _ => return self.fail("a field is expected, such as metrics.loss"),
        };
        self.next += 1;
        let Some((prefix, key)) = word.split_once('.') else { return Ok(bare(word)) };
        let entity = PREFIXES.iter().find(|(name, _)| name.eq_ignore_ascii_case(prefix)).map(|(_, e)| *e);
        let Some(entity) = entity else {
            let what = format!("{prefix:?} is none of metrics, params, tags, attributes, datasets");
            return Err(error(self.text, at, what));
        };
        let quoted = match self.peek() {
            Some(Token { kind: Kind::Quoted(text, '`' | '"'), is_joined: true, .. }) if key.is_empty() => {
                Some(text.clone())
            }
            _ => None,
        };
        if let Some(key) = quoted {
            self.next += 1;
            return Ok(Field { entity, key, at });
        }
        if key.is_empty() {
            return self.fail(format!("a key is expected after {word:?}"));
        }
        Ok(Field { entity, key: key.to_owned(), at })
    }

    fn operator(&mut self) -> Result<Operator, FilterError> {
        if let Some(Token { kind: Kind::Sign(sign), .. }) = self.peek() {
            let operator = match *sign {
                "=" | "==" => Operator::Equal,
                "!=" | "<>" => Operator::Unequal,
                "<" => Operator::Less,
                "<=" => Operator::LessOrEqual,
                ">" => Operator::Greater,
                _ => Operator::GreaterOrEqual,
            };
            self.next += 1;
            return Ok(operator);
        }
        if self.take_word("like") {
            return Ok(Operator::Like);
        }
        if self.take_word("ilike") {
            return Ok(Operator::LikeAnyCase);
        }
        if self.take_word("in") {
            return Ok(Operator::In);
        }
        if self.take_word("not") {
            return if self.take_word("in") {
                Ok(Operator::NotIn)
            } else {
                self.fail("IN is expected after NOT")
            };
        }
        if self.take_word("is") {
            let operator = if self.take_word("not") { Operator::Present } else { Operator::Absent };
            return if self.take_word("null") {
                Ok(operator)
            } else {
                self.fail("NULL is expected after IS")
            };
        }
        self.fail("a comparison is expected: = != < <= > >= LIKE ILIKE IN, NOT IN, IS NULL")
    }

    fn literal(&mut self) -> Result<Literal, FilterError> {
        let value = match self.peek().map(|token| &token.kind) {
            Some(Kind::Quoted(text, '\'' | '"')) => Literal::Text(text.clone()),
            Some(Kind::Word(word)) => match word.parse::<f64>() {
                Ok(number) if !number.is_nan() => Literal::Number(number),
                _ => return self.fail(format!("{word:?} is no number, and a text stands in quotes")),
            },
            _ => return self.fail("a value is expected: a number, or a text in quotes"),
        };
        self.next += 1;
        Ok(value)
    }

    fn list(&mut self) -> Result<Vec<String>, FilterError> {
        let mut list = Vec::new();
        self.expect(&Kind::Open, "\"(\" is expected after IN")?;
        loop {
            match self.literal()? {
                Literal::Text(text) => list.push(text),
                Literal::Number(number) => list.push(number.to_string()),
                Literal::Nothing | Literal::Texts(_) => {}
            }
            if self.peek().map(|token| &token.kind) != Some(&Kind::Comma) {
                self.expect(&Kind::Close, "\",\" or \")\" is expected in a list")?;
                return Ok(list);
            }
            self.next += 1;
        }
    }

    fn expect(&mut self, kind: &Kind, what: &str) -> Result<(), FilterError> {
        if self.peek().map(|token| &token.kind) != Some(kind) {
            return self.fail(what);
        }
        self.next += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn one(text: &str) -> (Entity, String, Operator, Literal) {
        let mut filter = filter(text).expect("a filter");
        assert_eq!(filter.clauses.len(), 1, "{text}");
        let clause = filter.clauses.remove(0);
        (clause.field.entity, clause.field.key, clause.operator, clause.value)
    }

    #[test]
    fn comparisons_by_hand() {
        use Entity::{Attribute, Dataset, Metric, Param, Tag};
        let text = |text: &str| Literal::Text(text.into());
        for (written, entity, key, operator, value) in [
            ("metrics.x < 1", Metric, "x", Operator::Less, Literal::Number(1.0)),
            ("metrics.x<=-1.5e3", Metric, "x", Operator::LessOrEqual, Literal::Number(-1500.0)),
            ("metric.`a b` >= 2", Metric, "a b", Operator::GreaterOrEqual, Literal::Number(2.0)),
            ("metrics.\"train/loss\" != .5", Metric, "train/loss", Operator::Unequal, Literal::Number(0.5)),
            ("metrics.train/loss > 0", Metric, "train/loss", Operator::Greater, Literal::Number(0.0)),
            ("params.model.kind = 'cnn'", Param, "model.kind", Operator::Equal, text("cnn")),
            ("tags.mlflow.runName LIKE \"a%\"", Tag, "mlflow.runName", Operator::Like, text("a%")),
            ("tag.x ilike 'it''s'", Tag, "x", Operator::LikeAnyCase, text("it's")),
            ("status = ''", Attribute, "status", Operator::Equal, text("")),
            ("attributes.run_name = 'a and b'", Attribute, "run_name", Operator::Equal, text("a and b")),
            ("`run name` = 'a'", Attribute, "run name", Operator::Equal, text("a")),
            ("tags.x is not null", Tag, "x", Operator::Present, Literal::Nothing),
            ("dataset.digest = 'd'", Dataset, "digest", Operator::Equal, text("d")),
        ] {
            assert_eq!(one(written), (entity, key.to_owned(), operator, value), "{written}");
        }
        let (.., value) = one("run_id IN ('a','b' , \"c\")");
        assert_eq!(value, Literal::Texts(vec!["a".into(), "b".into(), "c".into()]));
        assert_eq!(
            filter("metrics.a > 1 AND params.b = 'x' and c != 'y'").expect("a filter").clauses.len(),
            3
        );
        assert!(filter("  ").expect("empty").clauses.is_empty());
    }

    #[test]
    fn errors_name_the_place() {
        for (text, at, says) in [
            ("metrics.x", 10, "comparison"),
            ("metrics.x <", 12, "value"),
            ("metrics.x < 'a'", 13, "number"),
            ("metrics.x IN ('1')", 14, "number"),
            ("metrics. < 1", 10, "key"),
            ("colour.x = 'a'", 1, "colour"),
            ("params.x = y", 12, "quotes"),
            ("params.x = 'y", 12, "never closed"),
            ("a = 'b' or c = 'd'", 9, "OR"),
            ("a = 'b' c = 'd'", 9, "AND"),
            ("a = 'b' and", 12, "field"),
            ("a ! 'b'", 3, "!="),
            ("a IN 'b'", 6, "("),
            ("a IN ('b' 'c')", 11, ")"),
            ("a LIKE 3", 8, "quotes"),
            ("grün = ", 8, "value"),
        ] {
            let error = filter(text).expect_err(text);
            assert_eq!(error.at, at, "{error}");
            assert!(error.to_string().contains(says), "{error}");
        }
        assert!(filter(&"x".repeat(200_000)).is_err());
    }

    #[test]
    fn orders() {
        let read =
            |text: &str| order(text).map(|order| (order.field.entity, order.field.key, order.descending));
        assert_eq!(read("metrics.`a b` DESC"), Ok((Entity::Metric, "a b".into(), true)));
        assert_eq!(read("start_time"), Ok((Entity::Attribute, "start_time".into(), false)));
        assert_eq!(read("params.x asc"), Ok((Entity::Param, "x".into(), false)));
        assert_eq!(order("params.x down").expect_err("no direction").at, 10);
        assert!(order("").is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,60}") {
            let _ = filter(&text);
            let _ = order(&text);
        }

        /// Fragments in any order reach further into the parser than arbitrary text does.
        #[test]
        fn any_pieces_are_read_or_refused(pieces in proptest::collection::vec(
            proptest::sample::select(vec![
                "metrics.", "params.x", "`a b`", "\"k\"", "'v'", "=", "!=", "<", "LIKE", "IN", "NOT", "IS", "NULL",
                "(", ")", ",", "and", "1.5", "status", " ", "'", "`",
            ]), 0..12)) {
            let _ = filter(&pieces.concat());
            let _ = filter(&pieces.join(" "));
            let _ = order(&pieces.join(" "));
        }

        /// Quoted keys and strings round-trip.
        #[test]
        fn keys_and_texts_come_back(key in "\\PC{1,20}", value in "\\PC{0,20}") {
            let text = format!("params.`{}` = '{}'", key.replace('`', "``"), value.replace('\'', "''"));
            prop_assert_eq!(one(&text), (Entity::Param, key, Operator::Equal, Literal::Text(value)));
        }
    }
}
