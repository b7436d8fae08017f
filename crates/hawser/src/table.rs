//! Tables on a terminal: columns as wide as their widest cell.

/// Rows of `N` columns under a header; cells are text of one line.
pub(crate) struct Table<const N: usize>(Rows);

/// As [`Table`], of as many columns as the data has.
pub(crate) struct Rows {
    header: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl<const N: usize> Table<N> {
    pub(crate) fn new(header: [&str; N]) -> Self {
        Self(Rows::new(header.iter().map(ToString::to_string).collect()))
    }

    pub(crate) fn row(&mut self, cells: [String; N]) {
        self.0.push(cells.into());
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.rows.is_empty()
    }
}

impl Rows {
    pub(crate) fn new(header: Vec<String>) -> Self {
        Self {
            header,
            rows: Vec::new(),
        }
    }

    pub(crate) fn push(&mut self, cells: Vec<String>) {
        self.rows.push(cells.into_iter().map(printable).collect());
    }
}

impl<const N: usize> std::fmt::Display for Table<N> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::fmt::Display for Rows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let lines: Vec<&Vec<String>> = std::iter::once(&self.header).chain(&self.rows).collect();
        let width = |column: usize| {
            lines
                .iter()
                .filter_map(|l| l.get(column))
                .map(|c| c.chars().count())
                .max()
                .unwrap_or(0)
        };
        for line in &lines {
            let mut text = String::new();
            for (column, cell) in line.iter().enumerate() {
                let pad = width(column) - cell.chars().count() + 2;
                text.push_str(cell);
                text.extend(std::iter::repeat_n(' ', pad));
            }
            writeln!(f, "{}", text.trim_end())?;
        }
        Ok(())
    }
}

/// Text from elsewhere without anything that a terminal would obey.
pub(crate) fn printable(text: impl AsRef<str>) -> String {
    text.as_ref()
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_terminals_obey_nothing() {
        let mut t = Table::new(["A", "LONG"]);
        t.row(["abc".into(), "x\u{1b}[31m".into()]);
        assert_eq!(t.to_string(), "A    LONG\nabc  x [31m\n");
    }
}
