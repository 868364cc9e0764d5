//! What is said about configurations, a line for each finding.

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// A call would fail.
    Error,
    /// It would not, but hardly do what is meant.
    Warning,
    /// Good to know.
    Note,
}

/// The lines so far.
#[derive(Debug, Default)]
pub struct Report {
    /// `FILE: PATH: error|warning|note: TEXT`, each with a newline. Without `PATH: ` they are about all of the file.
    pub text: String,
    /// The file that is spoken of.
    pub file: String,
    /// How many errors there are.
    pub errors: usize,
    /// How many warnings there are.
    pub warnings: usize,
}

impl Report {
    /// Adds a line. The path is that of a place in the document, like `plugins[0].ipam.ranges[0][0].subnet`; the text is given
    /// in parts.
    pub fn say(&mut self, level: Level, path: &str, text: &[&str]) {
        let word = match level {
            Level::Error => "error",
            Level::Warning => "warning",
            Level::Note => "note",
        };
        self.errors += usize::from(level == Level::Error);
        self.warnings += usize::from(level == Level::Warning);
        for part in [&self.file, path, word] {
            if !part.is_empty() {
                self.text.push_str(part);
                self.text.push_str(": ");
            }
        }
        text.iter().for_each(|part| self.text.push_str(part));
        self.text.push('\n');
    }
}
