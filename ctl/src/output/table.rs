//! Columns of text, three spaces apart, as wide as their widest cell.

use serde_json::Value;

use crate::resources::{items, text};

/// A table that grows row by row and is printed whole, or row by row in a watch.
#[derive(Debug, Default)]
pub struct Table {
    heads: Vec<String>,
    rows: Vec<Vec<String>>,
    /// Of what has been printed, so that a watch keeps its columns.
    widths: Vec<usize>,
    /// Which of a server's columns are shown: a watch tells them only once.
    shown: Vec<usize>,
}

/// Which parts of a server's table are shown.
#[derive(Clone, Debug, Default)]
pub struct Shape {
    pub wide: bool,
    pub namespaces: bool,
    pub labels: bool,
    /// Keys shown as columns of their own.
    pub label_columns: Vec<String>,
    /// `deployment.apps/` before each name.
    pub prefix: String,
}

impl Table {
    pub fn new(heads: &[&str]) -> Table {
        let heads = heads.iter().map(|head| head.to_string()).collect();
        Table { heads, ..Table::default() }
    }

    pub fn push(&mut self, row: Vec<String>) {
        self.rows.push(row);
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The rows pushed since the last call, with the heads before them if so asked.
    pub fn lines(&mut self, heads: bool) -> String {
        let mut rows = std::mem::take(&mut self.rows);
        if heads {
            rows.insert(0, self.heads.clone());
        }
        for row in &rows {
            self.widths.resize(self.widths.len().max(row.len()), 0);
            for (width, cell) in self.widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        rows.iter().map(|row| line(row, &self.widths)).collect()
    }
}

fn line(row: &[String], widths: &[usize]) -> String {
    let mut line = String::new();
    for (at, (cell, width)) in row.iter().zip(widths).enumerate() {
        let last = at + 1 == row.len();
        line.push_str(cell);
        if !last {
            line.extend(std::iter::repeat_n(' ', width + 3 - cell.chars().count()));
        }
    }
    line.push('\n');
    line
}

/// A metav1.Table as text columns; `table` is `None` at the first call of a watch.
pub fn of_server(answer: &Value, shape: &Shape, table: Option<Table>) -> Table {
    let mut table = table.unwrap_or_else(|| {
        let columns: Vec<&Value> = items(&answer["columnDefinitions"]).collect();
        let shown: Vec<usize> = (0..columns.len())
            .filter(|at| shape.wide || columns[*at]["priority"].as_i64().unwrap_or(0) == 0)
            .collect();
        let mut heads: Vec<String> = Vec::new();
        if shape.namespaces {
            heads.push("NAMESPACE".into());
        }
        heads.extend(shown.iter().map(|at| text(&columns[*at]["name"]).to_uppercase()));
        let tail = |key: &String| key.rsplit('/').next().unwrap_or_default().to_uppercase();
        heads.extend(shape.label_columns.iter().map(tail));
        if shape.labels {
            heads.push("LABELS".into());
        }
        Table { heads, shown, ..Table::default() }
    });
    for row in items(&answer["rows"]) {
        let cells = cells(row, &table.shown, shape);
        table.push(cells);
    }
    table
}

fn cells(row: &Value, shown: &[usize], shape: &Shape) -> Vec<String> {
    let metadata = &row["object"]["metadata"];
    let mut cells = Vec::new();
    if shape.namespaces {
        cells.push(text(&metadata["namespace"]).to_string());
    }
    for (position, at) in shown.iter().enumerate() {
        let cell = match &row["cells"][*at] {
            Value::Null => "<none>".to_string(),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let prefix = if position == 0 { shape.prefix.as_str() } else { "" };
        cells.push(format!("{prefix}{}", one_line(&cell)));
    }
    let labels = &metadata["labels"];
    for key in &shape.label_columns {
        cells.push(text(&labels[key.as_str()]).to_string());
    }
    if shape.labels {
        let pairs = labels.as_object().into_iter().flatten();
        let pairs: Vec<String> =
            pairs.map(|(key, value)| format!("{key}={}", text(value))).collect();
        cells.push(if pairs.is_empty() { "<none>".into() } else { pairs.join(",") });
    }
    cells
}

/// A cell must not break the table.
fn one_line(cell: &str) -> String {
    cell.replace(['\n', '\r'], " ")
}
