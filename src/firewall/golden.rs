//! Reads the byte files of `tests/golden/`: sections start with `= TITLE`, `*N` is N zero bytes, `#` starts a comment.

/// The bytes of a section.
pub(super) fn section(text: &str, title: &str) -> Vec<u8> {
    let (_, section) = text.split_once(&format!("= {title}\n")).unwrap();
    let lines = section.lines().take_while(|line| !line.starts_with('='));
    lines.flat_map(str::split_whitespace).flat_map(word).collect()
}

fn word(word: &str) -> Vec<u8> {
    match word.strip_prefix('*') {
        Some(count) => vec![0; count.parse().unwrap()],
        None => vec![u8::from_str_radix(word, 16).unwrap()],
    }
}
