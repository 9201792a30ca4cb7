//! Selects and orders runs: filters and orders as SQL. User input is always bound, never part of a statement.

use rusqlite::types::Value as Bound;

use super::{IndexError, Reader, RunRow};
use crate::filter::{Clause, Entity, Field, Filter, FilterError, Literal, Operator, Order};

/// Lifecycle stages to include.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Stage {
    /// Not deleted.
    #[default]
    Active,
    /// Deleted.
    Deleted,
    /// Both.
    All,
}

/// A query for runs.
#[derive(Clone, Debug, Default)]
pub struct Select {
    /// Ids of experiments; `None` means all.
    pub experiments: Option<Vec<String>>,
    /// The filter to match.
    pub filter: Filter,
    /// Sort keys, the most significant first; ties are ordered newest first.
    pub order: Vec<Order>,
    /// Lifecycle stages to include.
    pub stage: Stage,
    /// The maximum number of runs.
    pub limit: usize,
    /// The number of runs to skip.
    pub offset: usize,
}

/// A page of results.
#[derive(Clone, PartialEq, Debug)]
pub struct Page<T> {
    /// The results.
    pub items: Vec<T>,
    /// The offset of the next page, if there is one.
    pub next: Option<usize>,
}

/// Maximum number of experiments and sort keys.
const PARTS_MAX: usize = 10_000;

struct Statement {
    text: String,
    bound: Vec<Bound>,
}

impl Reader {
    /// The rows of the matching runs.
    pub(crate) fn select(&self, select: &Select) -> Result<Page<RunRow>, IndexError> {
        let mut s = Statement::for_runs(select)?;
        let limit = select.limit.min(i64::MAX as usize - 1);
        s.text.push_str(" LIMIT ? OFFSET ?");
        s.bound.push(Bound::Integer(limit as i64 + 1));
        s.bound.push(Bound::Integer(i64::try_from(select.offset).unwrap_or(i64::MAX)));
        let read = || -> rusqlite::Result<Vec<RunRow>> {
            let mut statement = self.connection.prepare(&s.text)?;
            let rows = statement.query_map(rusqlite::params_from_iter(&s.bound), RunRow::read)?;
            rows.collect()
        };
        let mut items = self.sql(read())?;
        let next = (items.len() > limit).then_some(select.offset + limit);
        items.truncate(limit);
        Ok(Page { items, next })
    }
}

impl Statement {
    fn for_runs(select: &Select) -> Result<Self, FilterError> {
        let text = format!("SELECT {} FROM runs r WHERE 1", RunRow::COLUMNS);
        let mut s = Self { text, bound: Vec::new() };
        match select.stage {
            Stage::Active => s.text.push_str(" AND r.stage = 'active'"),
            Stage::Deleted => s.text.push_str(" AND r.stage = 'deleted'"),
            Stage::All => {}
        }
        if let Some(experiments) = &select.experiments {
            s.text.push_str(" AND r.experiment IN (");
            s.list(experiments);
            s.text.push(')');
        }
        for clause in &select.filter.clauses {
            s.text.push_str(" AND ");
            s.clause(clause)?;
        }
        s.text.push_str(" ORDER BY ");
        for order in select.order.iter().take(PARTS_MAX) {
            s.order(order)?;
        }
        s.text.push_str("r.start_ms DESC, r.uuid");
        Ok(s)
    }

    fn bind(&mut self, value: Bound) {
        self.text.push('?');
        self.bound.push(value);
    }

    fn list(&mut self, texts: &[String]) {
        for (index, text) in texts.iter().enumerate() {
            if index > 0 {
                self.text.push(',');
            }
            self.bind(Bound::Text(text.clone()));
        }
    }

    fn clause(&mut self, clause: &Clause) -> Result<(), FilterError> {
        if clause.field.entity == Entity::Attribute {
            let (column, is_number) = attribute(&clause.field)?;
            if is_number && !matches!(clause.value, Literal::Number(_) | Literal::Nothing) {
                return Err(wrong(&clause.field, clause.value_at, "is compared with a number"));
            }
            if !is_number && matches!(clause.value, Literal::Number(_)) {
                return Err(wrong(&clause.field, clause.value_at, "is compared with a text in quotes"));
            }
            self.text.push_str(column);
            self.comparison(column, clause);
            return Ok(());
        }
        let is_absent = clause.operator == Operator::Absent;
        self.text.push_str(if is_absent { "NOT EXISTS (" } else { "EXISTS (" });
        let column = self.rows_of(&clause.field)?;
        if !matches!(clause.operator, Operator::Absent | Operator::Present) {
            self.text.push_str(" AND ");
            self.text.push_str(column);
            self.comparison(column, clause);
        }
        self.text.push(')');
        Ok(())
    }

    /// Writes `SELECT ... WHERE` for a field's rows in the run `r`; returns the value's column.
    fn rows_of(&mut self, field: &Field) -> Result<&'static str, FilterError> {
        let column = match field.entity {
            Entity::Metric => {
                self.text.push_str(
                    "SELECT f.value FROM latest f WHERE f.run = r.id AND f.key = (SELECT id FROM keys WHERE name = ",
                );
                self.bind(Bound::Text(field.key.clone()));
                self.text.push(')');
                return Ok("f.value");
            }
            Entity::Dataset => {
                let column = match field.key.as_str() {
                    "name" => "f.name",
                    "digest" => "f.digest",
                    "context" => "f.context",
                    _ => return Err(wrong(field, field.at, "is none of a dataset's name, digest, context")),
                };
                self.text.push_str("SELECT ");
                self.text.push_str(column);
                self.text.push_str(" FROM inputs f WHERE f.run = r.id");
                return Ok(column);
            }
            Entity::Param => "params",
            Entity::Tag | Entity::Attribute => "tags",
        };
        self.text.push_str("SELECT f.value FROM ");
        self.text.push_str(column);
        self.text.push_str(" f WHERE f.run = r.id AND f.key = ");
        self.bind(Bound::Text(field.key.clone()));
        Ok("f.value")
    }

    /// Writes the comparison that follows a column.
    fn comparison(&mut self, column: &str, clause: &Clause) {
        let sign = match clause.operator {
            Operator::Absent => return self.text.push_str(" IS NULL"),
            Operator::Present => return self.text.push_str(" IS NOT NULL"),
            Operator::Equal => " = ",
            Operator::Unequal => " != ",
            Operator::Less => " < ",
            Operator::LessOrEqual => " <= ",
            Operator::Greater => " > ",
            Operator::GreaterOrEqual => " >= ",
            Operator::Like => " LIKE ",
            Operator::LikeAnyCase => {
                // The column written so far gets a null check; its lower-cased form is what is compared.
                self.text.push_str(&format!(" IS NOT NULL AND lower({column}) LIKE lower("));
                self.literal(clause);
                return self.text.push(')');
            }
            Operator::In | Operator::NotIn => {
                self.text.push_str(if clause.operator == Operator::In { " IN (" } else { " NOT IN (" });
                if let Literal::Texts(texts) = &clause.value {
                    self.list(texts);
                }
                return self.text.push(')');
            }
        };
        self.text.push_str(sign);
        self.literal(clause);
    }

    fn literal(&mut self, clause: &Clause) {
        match &clause.value {
            Literal::Number(number)
                if clause.field.entity == Entity::Param || clause.field.entity == Entity::Tag =>
            {
                self.bind(Bound::Text(number.to_string()));
            }
            Literal::Number(number) => self.bind(Bound::Real(*number)),
            Literal::Text(text) => self.bind(Bound::Text(text.clone())),
            Literal::Nothing | Literal::Texts(_) => self.bind(Bound::Null),
        }
    }

    /// Missing and non-numeric values come last in either direction.
    fn order(&mut self, order: &Order) -> Result<(), FilterError> {
        for again in [" IS NULL, ", if order.descending { " DESC, " } else { " ASC, " }] {
            if order.field.entity == Entity::Attribute {
                let (column, _) = attribute(&order.field)?;
                self.text.push_str(column);
            } else {
                self.text.push('(');
                self.rows_of(&order.field)?;
                self.text.push_str(" LIMIT 1)");
            }
            self.text.push_str(again);
        }
        Ok(())
    }
}

/// An attribute's column, and whether it is numeric.
fn attribute(field: &Field) -> Result<(&'static str, bool), FilterError> {
    let name = field.key.to_ascii_lowercase().replace(' ', "_");
    Ok(match name.as_str() {
        "run_id" | "id" => ("r.uuid", false),
        "run_name" | "name" => ("r.name", false),
        "status" => ("r.status", false),
        "user_id" | "user" => ("r.user", false),
        "experiment_id" => ("r.experiment", false),
        "lifecycle_stage" => ("r.stage", false),
        "artifact_uri" => ("('mlflow-artifacts:/' || r.experiment || '/' || r.uuid || '/artifacts')", false),
        "start_time" | "created" => ("r.start_ms", true),
        "end_time" => ("r.end_ms", true),
        "duration" => ("(r.end_ms - r.start_ms)", true),
        _ => {
            let known = "is no attribute of a run: they are run_id, run_name, status, user_id, experiment_id, \
                         artifact_uri, start_time, end_time, duration";
            return Err(wrong(field, field.at, known));
        }
    })
}

fn wrong(field: &Field, at: usize, what: &str) -> FilterError {
    FilterError { what: format!("{:?} {what}", field.key), at, text: field.key.clone() }
}
