//! JSON as Go writes it: a chosen or sorted key order, four-space indentation or none, and `<`, `>`, `&` escaped. Reading
//! is serde_json's; the texts for empty input are Go's.

use std::fmt::Write;

use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// JSON to be written. Unlike [`Value`], whose objects are sorted, an object here keeps the order it was given.
#[derive(Debug, Clone, PartialEq)]
pub enum Node {
    /// Anything parsed or simple; objects inside are written sorted.
    Value(Value),
    /// An object in this order.
    Object(Vec<(&'static str, Node)>),
    /// A list.
    List(Vec<Node>),
}

impl<T: Into<Value>> From<T> for Node {
    fn from(value: T) -> Self {
        Node::Value(value.into())
    }
}

impl Node {
    /// The same JSON with the keys of every object sorted.
    pub fn into_value(self) -> Value {
        match self {
            Node::Value(value) => value,
            Node::Object(members) => {
                Value::Object(members.into_iter().map(|(key, member)| (key.to_string(), member.into_value())).collect())
            }
            Node::List(items) => Value::Array(items.into_iter().map(Node::into_value).collect()),
        }
    }
}

/// Parses a whole document. Bytes that are no UTF-8 are replaced, as Go does.
pub fn parse(bytes: &[u8]) -> Result<Value> {
    let text = String::from_utf8_lossy(bytes);
    serde_json::from_str(&text).map_err(|error| match error.is_eof() {
        true => Error::internal("unexpected end of JSON input"),
        false => Error::internal(error.to_string()),
    })
}

/// Parses a document that must be an object; `null` counts as an empty one, as it does in Go.
pub fn parse_object(bytes: &[u8]) -> Result<Map<String, Value>> {
    match parse(bytes)? {
        Value::Object(map) => Ok(map),
        Value::Null => Ok(Map::new()),
        other => Err(Error::internal(format!("json: cannot unmarshal {} into an object", type_name(&other)))),
    }
}

/// Every key of a document that is known to be JSON, in its order and as often as it is there, which decoding loses: each
/// with the path of its object (`plugins[0].ipam`).
pub fn keys_in_order(text: &str) -> Vec<(String, String)> {
    let (mut rest, mut keys) = (text, Vec::new());
    // The path of each open object or list, with the path of its present member or the number of its present element.
    let mut open: Vec<(String, Member)> = Vec::new();
    while let Some(at) = rest.find(['{', '[', '}', ']', '"', ',']) {
        let (sign, behind) = rest.get(at..).unwrap_or_default().split_at(1);
        rest = behind;
        match (sign, open.last_mut()) {
            ("{" | "[", outer) => {
                let path = outer.map_or(String::new(), |(path, member)| member.path(path));
                open.push((path, if sign == "{" { Member::Key(String::new()) } else { Member::Element(0) }));
            }
            ("\"", outer) => {
                let (text, behind) = rest.split_at(end_of_string(rest));
                rest = behind.get(1..).unwrap_or_default();
                if let (Some((path, Member::Key(key))), true) = (outer, rest.trim_start().starts_with(':')) {
                    *key = unescaped(text);
                    keys.push((path.clone(), key.clone()));
                }
            }
            (",", Some((_, Member::Element(number)))) => *number += 1,
            (",", _) => {}
            _ => drop(open.pop()),
        }
    }
    keys
}

/// Where in an object or list.
enum Member {
    Key(String),
    Element(usize),
}

impl Member {
    fn path(&self, outer: &str) -> String {
        match self {
            Member::Key(key) => join(outer, &shown(key)),
            Member::Element(number) => format!("{outer}[{number}]"),
        }
    }
}

/// Where the quote is that ends a string.
fn end_of_string(text: &str) -> usize {
    let mut escaped = false;
    let is_end = |byte: u8| {
        let is_end = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        is_end
    };
    text.bytes().position(is_end).unwrap_or(text.len())
}

fn unescaped(text: &str) -> String {
    serde_json::from_str(&format!("\"{text}\""))
        .ok()
        .and_then(|value: Value| Some(value.as_str()?.to_string()))
        .unwrap_or_default()
}

/// The path `place.key`.
pub fn join(place: &str, key: &str) -> String {
    if place.is_empty() { key.to_string() } else { format!("{place}.{key}") }
}

/// A key as a path has it: quoted if it is no plain word.
pub fn shown(key: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-/".contains(&byte);
    if !key.is_empty() && key.bytes().all(plain) { key.to_string() } else { format!("{key:?}") }
}

/// A number as it was written, but a whole one without fraction and exponent, as it is after Go's generic decoding: `1e3` and
/// `1000.0` are `1000`.
pub fn shortest(number: &serde_json::Number) -> String {
    let text = number.to_string();
    whole(&text).unwrap_or(text)
}

fn whole(text: &str) -> Option<String> {
    // From here on Go writes an exponent, too.
    const MOST: usize = 20;
    let (digits, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let (before, behind) = digits.split_once('.').unwrap_or((digits, ""));
    let (exponent, behind) = (exponent.parse().ok()?, behind.trim_end_matches('0'));
    if behind.len() > exponent || exponent > MOST {
        return None;
    }
    let (sign, before) = before.split_at(usize::from(before.starts_with('-')));
    let digits = format!("{before}{behind:0<exponent$}");
    let digits = digits.trim_start_matches('0');
    Some(format!("{sign}{}", if digits.is_empty() { "0" } else { digits }))
}

/// What Go calls the type of a JSON value in decoding errors.
pub fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// One line without spaces.
pub fn compact(node: &Node) -> String {
    let mut writer = Writer { text: String::new(), indent: None };
    writer.node(node);
    writer.text
}

/// Four-space indentation, no newline at the end.
pub fn pretty(node: &Node) -> String {
    let mut writer = Writer { text: String::new(), indent: Some(0) };
    writer.node(node);
    writer.text
}

struct Writer {
    text: String,
    /// Current depth; `None` for compact output.
    indent: Option<usize>,
}

impl Writer {
    fn node(&mut self, node: &Node) {
        match node {
            Node::Value(value) => self.value(value),
            Node::Object(members) => self.container('{', '}', members, |writer, (key, member)| {
                writer.key(key);
                writer.node(member);
            }),
            Node::List(items) => self.container('[', ']', items, |writer, item| writer.node(item)),
        }
    }

    fn value(&mut self, value: &Value) {
        match value {
            Value::Null => self.text.push_str("null"),
            Value::Bool(flag) => self.text.push_str(if *flag { "true" } else { "false" }),
            Value::Number(number) => self.text.push_str(&shortest(number)),
            Value::String(text) => self.string(text),
            Value::Array(items) => self.container('[', ']', items, |writer, item| writer.value(item)),
            Value::Object(map) => self.container('{', '}', map, |writer, (key, member)| {
                writer.key(key);
                writer.value(member);
            }),
        }
    }

    fn container<I: IntoIterator>(
        &mut self,
        open: char,
        close: char,
        items: I,
        mut item: impl FnMut(&mut Self, I::Item),
    ) {
        self.text.push(open);
        self.indent = self.indent.map(|depth| depth + 1);
        let mut empty = true;
        for each in items {
            if !empty {
                self.text.push(',');
            }
            empty = false;
            self.line();
            item(self, each);
        }
        self.indent = self.indent.map(|depth| depth - 1);
        if !empty {
            self.line();
        }
        self.text.push(close);
    }

    fn line(&mut self) {
        if let Some(depth) = self.indent {
            self.text.push('\n');
            self.text.extend(std::iter::repeat_n("    ", depth));
        }
    }

    fn key(&mut self, key: &str) {
        self.string(key);
        self.text.push_str(if self.indent.is_some() { ": " } else { ":" });
    }

    fn string(&mut self, text: &str) {
        self.text.push('"');
        for letter in text.chars() {
            match letter {
                '"' => self.text.push_str("\\\""),
                '\\' => self.text.push_str("\\\\"),
                '\n' => self.text.push_str("\\n"),
                '\r' => self.text.push_str("\\r"),
                '\t' => self.text.push_str("\\t"),
                '\u{8}' => self.text.push_str("\\b"),
                '\u{c}' => self.text.push_str("\\f"),
                '<' | '>' | '&' | '\u{2028}' | '\u{2029}' | '\0'..='\u{1f}' => {
                    let _ = write!(self.text, "\\u{:04x}", letter as u32);
                }
                other => self.text.push(other),
            }
        }
        self.text.push('"');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn writes_as_go_does() {
        let node = Node::Object(vec![
            ("b", json!({"z": 1.0, "a": "<&>\u{2028}\u{1}"}).into()),
            ("a", Node::List(vec![])),
            ("c", Node::List(vec![1.into(), Node::Object(vec![])])),
        ]);
        assert_eq!(compact(&node), r#"{"b":{"a":"\u003c\u0026\u003e\u2028\u0001","z":1},"a":[],"c":[1,{}]}"#);
        assert_eq!(
            pretty(&node),
            "{\n    \"b\": {\n        \"a\": \"\\u003c\\u0026\\u003e\\u2028\\u0001\",\n        \"z\": 1\n    },\n    \"a\": [],\n    \"c\": [\n        1,\n        {}\n    ]\n}"
        );
    }

    #[test]
    fn numbers_keep_their_digits() {
        let written =
            "[9007199254740993, -1, 0.50, 300.0, 3e2, -1.25E+3, 0.05e3, 0e5, -0.0, 1.5e0, 5e-1, 1e21, 1e9999]";
        let text = "[9007199254740993,-1,0.50,300,300,-1250,50,0,-0,1.5e+0,5e-1,1e+21,1e+9999]";
        assert_eq!(compact(&parse(written.as_bytes()).unwrap().into()), text);
    }

    #[test]
    fn keys_are_told_in_order_with_their_places_and_as_often_as_they_are_there() {
        let text = r#"{"a.b":{"x":1},"c" : [{"d":"}\"{,"}, [{"e":"\\"}],{"d":["q"]}],"n\u0065t":null,"c":2}"#;
        let keys = keys_in_order(text);
        let keys: Vec<_> = keys.iter().map(|(path, key)| (path.as_str(), key.as_str())).collect();
        let expected = [
            ("", "a.b"),
            ("\"a.b\"", "x"),
            ("", "c"),
            ("c[0]", "d"),
            ("c[1][0]", "e"),
            ("c[2]", "d"),
            ("", "net"),
            ("", "c"),
        ];
        assert_eq!(keys, expected);
        assert!(keys_in_order("null").is_empty());
    }

    #[test]
    fn empty_input_is_an_unexpected_end() {
        assert_eq!(parse(b" ").unwrap_err().msg, "unexpected end of JSON input");
        assert!(parse(b"{} x").is_err());
        assert!(parse_object(b"null").unwrap().is_empty());
        assert!(parse_object(b"[]").is_err());
    }
}
