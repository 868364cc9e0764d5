//! Go's gob encoding (the package documentation of encoding/gob, "Encoding Details"), as far as net/rpc needs it.
//!
//! A stream is a sequence of messages, each with its length in front. A message defines a type (negative id) or is a value
//! (id of its type, then the value). Numbers are bytes below 128, or a negated count of bytes and these, the highest first;
//! signed ones are shifted left with the sign in the lowest bit. A struct is pairs of field number (as the distance from
//! the last one) and value, ended by 0; fields that are zero are left out.
//!
//! What is read comes from another program: types are those that it defines, everything is bounded by the message, and
//! whatever makes no sense is `None`.

/// Type id of signed numbers.
pub const INT: i64 = 2;
/// Type id of unsigned numbers.
pub const UINT: i64 = 3;
/// Type id of byte slices.
pub const BYTES: i64 = 5;
/// Type id of strings.
pub const STRING: i64 = 6;

/// The ids of the other types that need no definition: truth values, floating-point and complex numbers.
const BOOL: i64 = 1;
const FLOAT: i64 = 4;
const COMPLEX: i64 = 7;

/// How deep values may be nested.
const DEEPEST: u32 = 16;
/// How many types one stream may define.
const MOST_TYPES: usize = 64;

/// Bytes that are no gob, or too many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

/// A type as we define it. Ids are ours to choose, from 64.
#[derive(Debug)]
pub struct Definition {
    /// The type's id.
    pub id: i64,
    /// Its name, for people.
    pub name: &'static str,
    /// What it is made of.
    pub shape: Shape,
}

/// What a type is made of.
#[derive(Debug)]
pub enum Shape {
    /// Names and types of fields.
    Struct(&'static [(&'static str, i64)]),
    /// Elements of one type.
    Slice(i64),
}

// Writing

/// Appends an unsigned number.
pub fn push_uint(out: &mut Vec<u8>, number: u64) {
    const LARGEST_BYTE: u64 = 127;
    match u8::try_from(number) {
        Ok(byte) if number <= LARGEST_BYTE => out.push(byte),
        _ => {
            let skipped = number.leading_zeros() as usize / 8;
            let count = 8 - skipped;
            out.push((count as u8).wrapping_neg());
            out.extend(number.to_be_bytes().into_iter().skip(skipped));
        }
    }
}

/// Appends a signed number.
pub fn push_int(out: &mut Vec<u8>, number: i64) {
    push_uint(out, ((number << 1) ^ (number >> 63)).cast_unsigned());
}

/// Appends bytes, or the bytes of a string.
pub fn push_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    push_uint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Appends a message: its length, and the value `payload` of type `id`.
pub fn push_message(out: &mut Vec<u8>, id: i64, payload: &[u8]) {
    let mut content = Vec::new();
    push_int(&mut content, id);
    content.extend_from_slice(payload);
    push_bytes(out, &content);
}

/// Appends the message that defines a type.
pub fn push_definition(out: &mut Vec<u8>, definition: &Definition) {
    let mut payload = Vec::new();
    // Field numbers are those of wireType and its parts in Go's encoding/gob/type.go.
    let number = if matches!(definition.shape, Shape::Slice(_)) { 2 } else { 3 };
    let mut wire = Fields::of(&mut payload);
    wire.nested(number, |kind| {
        kind.nested(1, |common| {
            common.bytes(1, definition.name.as_bytes());
            common.int(2, definition.id);
        });
        match definition.shape {
            Shape::Slice(element) => kind.int(2, element),
            Shape::Struct(fields) => kind.list(2, fields.len(), |index, field| {
                let (name, id) = fields.get(index).copied().unwrap_or_default();
                field.bytes(1, name.as_bytes());
                field.int(2, id);
            }),
        }
    });
    wire.end();
    push_message(out, -definition.id, &payload);
}

/// A struct being written. Fields have numbers from 1 and come in their order; those that are zero or empty are left out.
#[derive(Debug)]
pub struct Fields<'a> {
    out: &'a mut Vec<u8>,
    last: u64,
}

impl<'a> Fields<'a> {
    /// A struct to be appended to `out`.
    pub fn of(out: &'a mut Vec<u8>) -> Self {
        Fields { out, last: 0 }
    }

    fn start(&mut self, number: u64) {
        push_uint(self.out, number - self.last);
        self.last = number;
    }

    /// A signed number.
    pub fn int(&mut self, number: u64, value: i64) {
        if value != 0 {
            self.start(number);
            push_int(self.out, value);
        }
    }

    /// An unsigned number.
    pub fn uint(&mut self, number: u64, value: u64) {
        if value != 0 {
            self.start(number);
            push_uint(self.out, value);
        }
    }

    /// Bytes or a string.
    pub fn bytes(&mut self, number: u64, value: &[u8]) {
        if !value.is_empty() {
            self.start(number);
            push_bytes(self.out, value);
        }
    }

    /// A struct.
    pub fn nested(&mut self, number: u64, write: impl FnOnce(&mut Fields<'_>)) {
        self.start(number);
        let mut fields = Fields::of(self.out);
        write(&mut fields);
        fields.end();
    }

    /// A list of `count` structs, each written by `write` with its index.
    pub fn list(&mut self, number: u64, count: usize, mut write: impl FnMut(usize, &mut Fields<'_>)) {
        if count == 0 {
            return;
        }
        self.start(number);
        push_uint(self.out, count as u64);
        for index in 0..count {
            let mut fields = Fields::of(self.out);
            write(index, &mut fields);
            fields.end();
        }
    }

    /// A list of strings.
    pub fn texts(&mut self, number: u64, texts: &[String]) {
        if !texts.is_empty() {
            self.start(number);
            push_uint(self.out, texts.len() as u64);
            texts.iter().for_each(|text| push_bytes(self.out, text.as_bytes()));
        }
    }

    /// The end of the struct.
    pub fn end(self) {
        self.out.push(0);
    }
}

// Reading

/// What is left to read of a message.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    /// An unsigned number.
    pub fn uint(&mut self) -> Option<u64> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        if *first < 128 {
            return Some(u64::from(*first));
        }
        let count = usize::from(first.wrapping_neg());
        let bytes = (count <= 8).then(|| self.take(count))??;
        Some(bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    /// A signed number.
    pub fn int(&mut self) -> Option<i64> {
        let number = self.uint()?;
        Some((number >> 1).cast_signed() ^ -((number & 1).cast_signed()))
    }

    /// Bytes, or the bytes of a string.
    pub fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = self.uint()?;
        self.take(usize::try_from(length).ok()?)
    }

    /// A string. Bytes that are no UTF-8 are replaced.
    pub fn text(&mut self) -> Option<String> {
        Some(String::from_utf8_lossy(self.bytes()?).into_owned())
    }

    /// The fields of a struct, by number.
    fn numbered(&mut self, visit: &mut dyn FnMut(u64, &mut Self) -> Option<()>) -> Option<()> {
        let mut number = 0u64;
        loop {
            match self.uint()? {
                0 => return Some(()),
                distance => number = number.checked_add(distance)?,
            }
            visit(number, self)?;
        }
    }

    /// As many elements as the number in front says.
    pub fn elements(&mut self, visit: &mut dyn FnMut(&mut Self) -> Option<()>) -> Option<()> {
        let count = self.uint()?;
        // Every element takes a byte, so the message bounds the loop.
        (0..count).try_for_each(|_| visit(self))
    }
}

/// A type that the other side has defined.
#[derive(Debug)]
enum Type {
    Struct(Vec<(String, i64)>),
    /// Slice or array, which look alike.
    List(i64),
    Map(i64, i64),
    /// A type with an encoding of its own.
    Opaque,
}

/// The types that the other side has defined.
#[derive(Debug, Default)]
pub struct Types(Vec<(i64, Type)>);

/// The length of the message that `bytes` begin with, and where its content starts. `Ok(None)`: more bytes are needed to
/// tell. `Err`: this is no length, or one over `limit`.
pub fn message_length(bytes: &[u8], limit: usize) -> Result<Option<(usize, usize)>, Malformed> {
    const LONGEST_NUMBER: usize = 9;
    let mut reader = Reader(bytes);
    match reader.uint() {
        Some(length) => match usize::try_from(length) {
            Ok(length) if length <= limit => Ok(Some((bytes.len() - reader.0.len(), length))),
            _ => Err(Malformed),
        },
        None if bytes.len() < LONGEST_NUMBER => Ok(None),
        None => Err(Malformed),
    }
}

impl Types {
    /// Reads a message (without its length). A definition is remembered; of a value, its type and the rest are given.
    pub fn message<'a>(&mut self, content: &'a [u8]) -> Option<Option<(i64, Reader<'a>)>> {
        let mut reader = Reader(content);
        let id = reader.int()?;
        if id >= 0 {
            return Some(Some((id, reader)));
        }
        let defined = definition(&mut reader)?;
        let fits = self.0.len() < MOST_TYPES && self.find(id.checked_neg()?).is_none();
        fits.then(|| self.0.push((-id, defined)))?;
        Some(None)
    }

    fn find(&self, id: i64) -> Option<&Type> {
        self.0.iter().find(|(known, _)| *known == id).map(|(_, kind)| kind)
    }

    /// The type of the elements of a list type.
    pub fn element(&self, id: i64) -> Option<i64> {
        match self.find(id)? {
            Type::List(element) => Some(*element),
            _ => None,
        }
    }

    /// Gives each field of a struct of type `id` to `visit`: its name, its type and the reader, from which it takes the
    /// value. `visit` says false when the field means nothing to it and nothing was taken.
    pub fn fields<'a>(
        &self,
        id: i64,
        reader: &mut Reader<'a>,
        visit: &mut dyn FnMut(&str, i64, &mut Reader<'a>) -> Option<bool>,
    ) -> Option<()> {
        let Type::Struct(fields) = self.find(id)? else { return None };
        reader.numbered(&mut |number, reader| {
            let (name, kind) = fields.get(usize::try_from(number).ok()?.checked_sub(1)?)?;
            if visit(name, *kind, reader)? { Some(()) } else { self.skip(*kind, reader, DEEPEST) }
        })
    }

    /// Passes over a value.
    pub fn skip(&self, id: i64, reader: &mut Reader<'_>, depth: u32) -> Option<()> {
        let depth = depth.checked_sub(1)?;
        match (id, self.find(id)) {
            (BOOL | INT | UINT | FLOAT, _) => reader.uint().map(drop),
            (COMPLEX, _) => reader.uint().and_then(|_| reader.uint()).map(drop),
            (BYTES | STRING, _) | (_, Some(Type::Opaque)) => reader.bytes().map(drop),
            (_, Some(Type::List(element))) => reader.elements(&mut |reader| self.skip(*element, reader, depth)),
            (_, Some(Type::Map(key, element))) => reader.elements(&mut |reader| {
                self.skip(*key, reader, depth)?;
                self.skip(*element, reader, depth)
            }),
            (_, Some(Type::Struct(fields))) => reader.numbered(&mut |number, reader| {
                let (_, kind) = fields.get(usize::try_from(number).ok()?.checked_sub(1)?)?;
                self.skip(*kind, reader, depth)
            }),
            (_, None) => None,
        }
    }
}

/// A wireType: one field, which says what kind of type it is.
fn definition(reader: &mut Reader<'_>) -> Option<Type> {
    let mut defined = None;
    reader.numbered(&mut |kind, reader| {
        let (mut ids, mut fields) = ([0; 2], Vec::new());
        reader.numbered(&mut |number, reader| match (kind, number) {
            // CommonType: name and id. The id is that of the message.
            (_, 1) => reader.numbered(&mut |number, reader| match number {
                1 => reader.bytes().map(drop),
                _ => reader.int().map(drop),
            }),
            (3, 2) => reader.elements(&mut |reader| field(reader).map(|field| fields.push(field))),
            (1 | 2 | 4, 2) => reader.int().map(|id| ids[0] = id),
            (1 | 4, 3) => reader.int().map(|id| ids[1] = id),
            _ => None,
        })?;
        defined = Some(match kind {
            1 | 2 => Type::List(ids[0]),
            3 => Type::Struct(std::mem::take(&mut fields)),
            4 => Type::Map(ids[0], ids[1]),
            _ => Type::Opaque,
        });
        Some(())
    })?;
    defined
}

/// A fieldType: name and type id.
fn field(reader: &mut Reader<'_>) -> Option<(String, i64)> {
    let mut field = (String::new(), 0);
    reader.numbered(&mut |number, reader| match number {
        1 => reader.text().map(|name| field.0 = name),
        2 => reader.int().map(|id| field.1 = id),
        _ => None,
    })?;
    Some(field)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_gos() {
        let uint = |number| {
            let mut out = Vec::new();
            push_uint(&mut out, number);
            assert_eq!(Reader(&out).uint(), Some(number));
            out
        };
        assert_eq!(uint(0), [0]);
        assert_eq!(uint(127), [127]);
        assert_eq!(uint(128), [0xff, 128]);
        assert_eq!(uint(256), [0xfe, 1, 0]);
        assert_eq!(uint(u64::MAX), [0xf8, 255, 255, 255, 255, 255, 255, 255, 255]);
        for number in [0, 1, -1, 64, -65, i64::MAX, i64::MIN] {
            let mut out = Vec::new();
            push_int(&mut out, number);
            assert_eq!(Reader(&out).int(), Some(number));
        }
        assert_eq!(Reader(&[0xf7, 1, 1, 1, 1, 1, 1, 1, 1, 1]).uint(), None, "nine bytes");
        assert_eq!(Reader(&[0xfe, 1]).uint(), None, "cut short");
        assert_eq!(Reader(&[5, 1]).bytes(), None);
        assert_eq!(Reader(&[0xf8, 255, 255, 255, 255, 255, 255, 255, 255]).bytes(), None);
    }

    /// The example of the package documentation: `type P struct { X, Y, Z int; Name string }`, `P{1, 2, 3, "Joe"}` has a
    /// definition that starts with 1f ff 81 and names int as 4; ours is for two fields, computed by hand.
    #[test]
    fn a_struct_and_its_definition() {
        let point = Definition { id: 65, name: "Point", shape: Shape::Struct(&[("X", INT), ("Y", INT)]) };
        let mut out = Vec::new();
        push_definition(&mut out, &point);
        let golden = b"\x1f\xff\x81\x03\x01\x01\x05Point\x01\xff\x82\x00\x01\x02\x01\x01X\x01\x04\x00\x01\x01Y\x01\x04\x00\x00\x00";
        assert_eq!(out, golden);
        let mut payload = Vec::new();
        let mut fields = Fields::of(&mut payload);
        fields.int(1, 0);
        fields.int(2, 33);
        fields.end();
        let mut message = Vec::new();
        push_message(&mut message, 65, &payload);
        assert_eq!(message, [5, 0xff, 0x82, 2, 66, 0]);
    }

    #[test]
    fn values_are_read_by_the_definitions_sent() {
        let mut types = Types::default();
        let defined =
            b"\xff\x81\x03\x01\x01\x05Point\x01\xff\x82\x00\x01\x02\x01\x01Y\x01\x04\x00\x01\x01X\x01\x0c\x00\x00\x00";
        assert!(types.message(defined).unwrap().is_none());
        assert!(types.message(defined).is_none(), "twice");
        let (id, mut reader) = types.message(b"\xff\x82\x01\x42\x01\x02hi\x00").unwrap().unwrap();
        let mut seen = Vec::new();
        let read = types.fields(id, &mut reader, &mut |name, kind, reader| {
            seen.push((name.to_string(), kind));
            Some(name == "X" && reader.text().is_some())
        });
        assert_eq!((read, reader.0.len()), (Some(()), 0));
        assert_eq!(seen, [("Y".to_string(), INT), ("X".to_string(), STRING)]);
    }

    #[test]
    fn a_type_that_contains_itself_ends() {
        let mut types = Types::default();
        // A slice of itself.
        assert!(types.message(b"\xff\x81\x02\x01\x02\xff\x82\x00\x01\xff\x82\x00\x00").unwrap().is_none());
        assert_eq!(types.element(65), Some(65));
        assert_eq!(types.skip(65, &mut Reader(&[1; 100]), DEEPEST), None);
        assert_eq!(types.skip(65, &mut Reader(&[2, 0, 0]), DEEPEST), Some(()));
    }

    #[test]
    fn lengths_are_bounded() {
        assert_eq!(message_length(&[], 10), Ok(None));
        assert_eq!(message_length(&[10], 10), Ok(Some((1, 10))));
        assert_eq!(message_length(&[11], 10), Err(Malformed));
        assert_eq!(message_length(&[0xfe, 0], 10), Ok(None));
        assert_eq!(message_length(&[0x80; 9], 10), Err(Malformed));
    }
}
