//! Tokens of the text form.

use super::TextError;
use std::fmt;

/// A token; names and strings are unescaped.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token<'a> {
    /// Letters, digits, `_`, `.`, `/`, not starting with a digit.
    Word(&'a str),
    /// `%name` or `%"name"`
    Value(String),
    /// `"…"`
    Str(String),
    /// Starts with a digit or a minus.
    Number(&'a str),
    /// `#…`: where a constant was left out.
    Elided,
    /// `->`
    Arrow,
    Punct(char),
    End,
}

impl fmt::Display for Token<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Token::Word(w) => write!(f, "`{w}`"),
            Token::Value(v) => write!(f, "`%{v}`"),
            Token::Str(s) => write!(f, "{s:?}"),
            Token::Number(n) => write!(f, "`{n}`"),
            Token::Elided => f.write_str("a constant left out by the printer"),
            Token::Arrow => f.write_str("`->`"),
            Token::Punct(c) => write!(f, "`{c}`"),
            Token::End => f.write_str("the end of the text"),
        }
    }
}

/// True for what a [`Token::Word`] may contain after its first character.
fn word_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '/')
}

/// True when `name` can stand without quotes after a `%`.
pub(super) fn is_bare_name(name: &str) -> bool {
    !name.is_empty() && name.chars().all(word_char) && !name.contains("//")
}

/// True when `name` can stand without quotes where a word is expected.
pub(super) fn is_word(name: &str) -> bool {
    is_bare_name(name) && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
}

/// Writes `text` in quotes, escaped so that [`Lexer`] reads it back.
pub(super) fn quote(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => out.extend(c.escape_unicode()),
            c => out.push(c),
        }
    }
    out.push('"');
}

pub(super) struct Lexer<'a> {
    source: &'a str,
    /// Byte offset of what is not read yet.
    at: usize,
}

impl<'a> Lexer<'a> {
    pub(super) fn new(source: &'a str) -> Self {
        Lexer { source, at: 0 }
    }

    fn rest(&self) -> &'a str {
        &self.source[self.at..]
    }

    /// An error at a byte offset.
    pub(super) fn error_at(&self, at: usize, message: impl Into<String>) -> TextError {
        let before = &self.source[..at];
        let line_start = before.rfind('\n').map_or(0, |n| n + 1);
        TextError::Syntax {
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            message: message.into(),
        }
    }

    /// The next token and the offset of its first byte.
    pub(super) fn next(&mut self) -> Result<(Token<'a>, usize), TextError> {
        loop {
            self.at = self.source.len() - self.rest().trim_start().len();
            if !self.rest().starts_with("//") {
                break;
            }
            self.at += self.rest().find('\n').unwrap_or(self.rest().len());
        }
        let start = self.at;
        let Some(first) = self.rest().chars().next() else {
            return Ok((Token::End, start));
        };
        let token = match first {
            '"' => Token::Str(self.string()?),
            '%' => {
                self.at += 1;
                if self.rest().starts_with('"') {
                    Token::Value(self.string()?)
                } else {
                    let name = self.word();
                    if name.is_empty() {
                        return Err(self.error_at(start, "a name must follow `%`"));
                    }
                    Token::Value(name.to_owned())
                }
            }
            '#' => {
                self.at += 1;
                self.word();
                Token::Elided
            }
            '-' if self.rest().starts_with("->") => {
                self.at += 2;
                Token::Arrow
            }
            '-' | '0'..='9' => Token::Number(self.number()),
            c if c.is_ascii_alphabetic() || c == '_' => Token::Word(self.word()),
            c => {
                self.at += c.len_utf8();
                Token::Punct(c)
            }
        };
        Ok((token, start))
    }

    fn word(&mut self) -> &'a str {
        let rest = self.rest();
        let mut end = rest.find(|c| !word_char(c)).unwrap_or(rest.len());
        if let Some(comment) = rest[..end].find("//") {
            end = comment;
        }
        self.at += end;
        &rest[..end]
    }

    /// Digits, letters (`e`, `inf`) and dots, with a sign in front and after an exponent's `e`.
    fn number(&mut self) -> &'a str {
        let rest = self.rest();
        let bytes = rest.as_bytes();
        let mut end = 1;
        while let Some(&b) = bytes.get(end) {
            let sign = matches!(b, b'-' | b'+') && matches!(bytes[end - 1], b'e' | b'E');
            if !(b.is_ascii_alphanumeric() || b == b'.' || sign) {
                break;
            }
            end += 1;
        }
        self.at += end;
        &rest[..end]
    }

    fn string(&mut self) -> Result<String, TextError> {
        let start = self.at;
        let mut out = String::new();
        let mut chars = self.rest().char_indices().skip(1);
        while let Some((i, c)) = chars.next() {
            match c {
                '"' => {
                    self.at = start + i + 1;
                    return Ok(out);
                }
                '\\' => {
                    let bad = || self.error_at(start + i, "unknown escape in a string");
                    match chars.next().ok_or_else(bad)?.1 {
                        c @ ('"' | '\\') => out.push(c),
                        'n' => out.push('\n'),
                        't' => out.push('\t'),
                        'u' => {
                            let mut code = String::new();
                            if chars.next().map(|c| c.1) != Some('{') {
                                return Err(bad());
                            }
                            loop {
                                match chars.next().ok_or_else(bad)?.1 {
                                    '}' => break,
                                    c if code.len() < 6 => code.push(c),
                                    _ => return Err(bad()),
                                }
                            }
                            let code = u32::from_str_radix(&code, 16).map_err(|_| bad())?;
                            out.push(char::from_u32(code).ok_or_else(bad)?);
                        }
                        _ => return Err(bad()),
                    }
                }
                '\n' => break,
                c => out.push(c),
            }
        }
        Err(self.error_at(start, "a string is not closed on its line"))
    }
}
