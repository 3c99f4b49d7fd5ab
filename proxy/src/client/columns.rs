//! Text in aligned, coloured columns.

/// The colours there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colour {
    /// Well.
    Green,
    /// On its way.
    Yellow,
    /// Not well.
    Red,
}

/// A cell: text aligned left, or right for numbers.
#[derive(Clone, Debug)]
pub struct Cell {
    text: String,
    is_number: bool,
    colour: Option<Colour>,
}

/// A word.
pub fn word(text: impl Into<String>) -> Cell {
    Cell { text: text.into(), is_number: false, colour: None }
}

/// A number, perhaps with a unit.
pub fn number(text: impl ToString) -> Cell {
    Cell { text: text.to_string(), is_number: true, colour: None }
}

impl Cell {
    /// In colour.
    pub fn coloured(mut self, colour: Colour) -> Self {
        self.colour = Some(colour);
        self
    }

    fn padded(&self, width: usize, colours: bool) -> String {
        let gap = " ".repeat(width.saturating_sub(self.width()));
        let text =
            self.colour.filter(|_| colours).map_or(self.text.clone(), |colour| paint(&self.text, colour));
        if self.is_number { gap + &text } else { text + &gap }
    }

    fn width(&self) -> usize {
        self.text.chars().count()
    }
}

/// Text in colour, for a terminal.
pub fn paint(text: &str, colour: Colour) -> String {
    let code = match colour {
        Colour::Green => 32,
        Colour::Yellow => 33,
        Colour::Red => 31,
    };
    format!("\x1b[{code}m{text}\x1b[0m")
}

/// Lines of rows, each as wide as its widest cell, two spaces between them.
pub fn lay_out(rows: &[Vec<Cell>], colours: bool) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widest =
        |column: usize| rows.iter().filter_map(|row| Some(row.get(column)?.width())).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(widest).collect();
    let line = |row: &Vec<Cell>| {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| cell.padded(*width, colours)).collect();
        cells.join("  ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_go_left_and_numbers_right() {
        let rows = [
            vec![word("SEAT"), number("FLOWS"), word("X")],
            vec![word("standby").coloured(Colour::Red), number(7), word("y")],
        ];
        assert_eq!(lay_out(&rows, false), "SEAT     FLOWS  X\nstandby      7  y\n");
        assert_eq!(lay_out(&rows, true), "SEAT     FLOWS  X\n\x1b[31mstandby\x1b[0m      7  y\n");
    }
}
