//! Tables for people.

/// How a cell is meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tone {
    #[default]
    Plain,
    Good,
    Bad,
    Faint,
}

/// One field of a table.
#[derive(Clone, Debug)]
pub struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    pub fn toned(text: impl Into<String>, tone: Tone) -> Self {
        // A line break or an escape in a name must not draw on the terminal.
        let text: String = text.into();
        let text = text.replace(|c: char| c.is_control(), " ");
        Cell { text, tone }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Cell::toned(text, Tone::Plain)
    }
}

/// A column's heading.
#[derive(Clone, Copy, Debug)]
pub enum Column {
    Left(&'static str),
    /// For numbers.
    Right(&'static str),
}

/// Rows under headings.
#[derive(Debug)]
pub struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<Cell>>,
}

const GAP: &str = "  ";

impl Table {
    pub fn new(columns: &[Column]) -> Self {
        Table {
            columns: columns.to_vec(),
            rows: Vec::new(),
        }
    }

    /// As many cells as there are columns.
    pub fn row(&mut self, cells: Vec<Cell>) {
        self.rows.push(cells);
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The whole table, each line ended.
    pub fn show(&self, colour: bool) -> String {
        let head = self.columns.iter().map(|column| match column {
            Column::Left(text) | Column::Right(text) => Cell::toned(*text, Tone::Faint),
        });
        let head: Vec<Cell> = head.collect();
        let lines = || std::iter::once(&head).chain(&self.rows);
        let mut widths = vec![0; self.columns.len()];
        for line in lines() {
            for (widest, cell) in widths.iter_mut().zip(line) {
                *widest = (*widest).max(width(&cell.text));
            }
        }
        let mut text = String::new();
        for line in lines() {
            let cells = line.iter().zip(&widths).zip(&self.columns);
            let cells = cells.map(|((cell, widest), column)| {
                let space = " ".repeat(widest.saturating_sub(width(&cell.text)));
                let shown = painted(cell, colour);
                match column {
                    Column::Left(_) => shown + &space,
                    Column::Right(_) => space + &shown,
                }
            });
            let cells: Vec<String> = cells.collect();
            text.push_str(cells.join(GAP).trim_end());
            text.push('\n');
        }
        text
    }
}

fn painted(cell: &Cell, colour: bool) -> String {
    let code = match cell.tone {
        Tone::Plain => None,
        Tone::Good => Some(32),
        Tone::Bad => Some(31),
        Tone::Faint => Some(2),
    };
    match code.filter(|_| colour) {
        Some(code) => format!("\x1b[{code}m{}\x1b[0m", cell.text),
        None => cell.text.clone(),
    }
}

/// Columns that a text takes on a terminal: East Asian letters and emoji take two.
fn width(text: &str) -> usize {
    let wide = |c: char| {
        matches!(u32::from(c),
            0x1100..=0x115F | 0x2E80..=0xA4CF | 0xAC00..=0xD7A3 | 0xF900..=0xFAFF
            | 0xFE30..=0xFE6F | 0xFF00..=0xFF60 | 0xFFE0..=0xFFE6 | 0x1F300..=0x1FAFF
            | 0x20000..=0x3FFFD)
    };
    text.chars().map(|c| if wide(c) { 2 } else { 1 }).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_under_each_other() {
        let columns = [
            Column::Left("NAME"),
            Column::Right("USED"),
            Column::Left("X"),
        ];
        let mut table = Table::new(&columns);
        table.row(vec!["搜索组".into(), "7".into(), "".into()]);
        let drawing = "a\x1b[31m\nb".into();
        table.row(vec![drawing, "1234".into(), Cell::toned("y", Tone::Bad)]);
        let expected = "\
NAME      USED  X
搜索组       7
a [31m b  1234  y
";
        assert_eq!(table.show(false), expected);
        assert!(table.show(true).contains("\x1b[31my\x1b[0m"));
    }
}
