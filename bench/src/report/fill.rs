//! Prose in columns.

/// The widest line of a report's prose.
const COLUMNS: usize = 110;

/// `text` with its lines broken between words, so that none is wider than a page.
pub fn fill(text: &str) -> String {
    let mut filled = String::new();
    for (n, line) in text.lines().enumerate() {
        if n > 0 {
            filled.push('\n');
        }
        let mut columns = 0;
        for word in line.split(' ') {
            let width = word.chars().count();
            if columns > 0 && columns + 1 + width > COLUMNS {
                filled.push('\n');
                columns = 0;
            } else if columns > 0 {
                filled.push(' ');
                columns += 1;
            }
            filled.push_str(word);
            columns += width;
        }
    }
    filled
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_line_is_wider_than_a_page_and_no_word_is_lost() {
        let text = "word ".repeat(60) + "\nend";
        let filled = fill(&text);
        assert!(filled.lines().all(|line| line.chars().count() <= COLUMNS), "{filled}");
        assert!(filled.split_whitespace().eq(text.split_whitespace()));
        assert_eq!(fill("a\nb"), "a\nb");
    }
}
