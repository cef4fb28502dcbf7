//! Descriptions: lines of cells under indented heads. Cells of neighbouring lines stand under one
//! another, two spaces apart, as kubectl's do.

/// A description that grows line by line.
#[derive(Debug, Default)]
pub struct Sheet {
    lines: Vec<Vec<String>>,
    indent: usize,
}

const PADDING: usize = 2;

impl Sheet {
    /// `Head:  value`; `<none>` where the value is empty and something is expected.
    pub fn field(&mut self, head: &str, value: impl Into<String>) {
        self.row(&[&format!("{head}:"), &value.into()]);
    }

    /// `Head:  value` only where there is a value.
    pub fn optional(&mut self, head: &str, value: impl Into<String>) {
        let value = value.into();
        if !value.is_empty() {
            self.field(head, value);
        }
    }

    /// Many values, the first beside the head, the others under it.
    pub fn list(&mut self, head: &str, values: &[String]) {
        match values.split_first() {
            None => self.field(head, "<none>"),
            Some((first, rest)) => {
                self.field(head, first);
                rest.iter().for_each(|value| self.row(&["", value]));
            }
        }
    }

    /// A head alone, with what `body` writes below it.
    pub fn section(&mut self, head: &str, body: impl FnOnce(&mut Sheet)) {
        self.row(&[&format!("{head}:")]);
        self.indented(body);
    }

    pub fn indented(&mut self, body: impl FnOnce(&mut Sheet)) {
        self.indent += 1;
        body(self);
        self.indent -= 1;
    }

    pub fn row(&mut self, cells: &[&str]) {
        let mut cells: Vec<String> = cells.iter().map(|cell| cell.to_string()).collect();
        if let Some(first) = cells.first_mut() {
            first.insert_str(0, &"  ".repeat(self.indent));
        }
        self.lines.push(cells);
    }

    pub fn text(&self) -> String {
        let mut text = String::new();
        for (at, line) in self.lines.iter().enumerate() {
            for (column, cell) in line.iter().enumerate() {
                text.push_str(cell);
                if column + 1 < line.len() {
                    let width = self.width(at, column) + PADDING;
                    text.extend(std::iter::repeat_n(' ', width - cell.chars().count()));
                }
            }
            text.push('\n');
        }
        text
    }

    /// Of a column in the run of lines around `at` that have something after it.
    fn width(&self, at: usize, column: usize) -> usize {
        let in_run = |line: &&Vec<String>| line.len() > column + 1;
        let before = self.lines[..at].iter().rev().take_while(in_run);
        let after = self.lines[at..].iter().take_while(in_run);
        before.chain(after).map(|line| line[column].chars().count()).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_align() {
        let mut sheet = Sheet::default();
        sheet.field("Name", "web");
        sheet.list("Labels", &["a=b".into(), "c=d".into()]);
        sheet.section("Containers", |sheet| {
            sheet.section("web", |sheet| sheet.field("Image Pull", "x"));
        });
        sheet.list("Annotations", &[]);
        assert_eq!(
            sheet.text(),
            "Name:    web\nLabels:  a=b\n         c=d\nContainers:\n  web:\n    Image Pull:  x\n\
             Annotations:     <none>\n"
        );
    }
}
