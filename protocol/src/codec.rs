//! A thin layer over cbor4ii's core: definite lengths and tuples only, nothing left over, sizes bounded before they
//! are believed.

use cbor4ii::core::dec::{self, Decode};
use cbor4ii::core::enc::{Encode, Write};
use cbor4ii::core::types;
use cbor4ii::core::utils::BufWriter;

/// Why bytes are not what they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// Not CBOR, cut short, or another type than expected.
    #[error("malformed CBOR in {0}")]
    Malformed(&'static str),
    /// A tuple or list with another number of items than the format has.
    #[error("{what} has {found} items where {expected} are expected")]
    Length {
        /// The tuple or list.
        what: &'static str,
        /// Items found.
        found: usize,
        /// Items expected, or allowed at most.
        expected: usize,
    },
    /// Bytes after the end.
    #[error("{0} bytes are left over after the value")]
    LeftOver(usize),
    /// A value beyond its limit, or one with no meaning.
    #[error("{0} is out of bounds")]
    OutOfBounds(&'static str),
}

type Result<T> = std::result::Result<T, CodecError>;

/// Writes CBOR into memory. Writing to memory cannot fail, so the methods return nothing.
pub struct Writer(BufWriter);

impl Default for Writer {
    fn default() -> Self {
        Self::new()
    }
}

impl Writer {
    /// An empty writer.
    #[must_use]
    pub fn new() -> Self {
        Self(BufWriter::new(Vec::new()))
    }

    /// A writer that appends to `bytes`.
    #[must_use]
    pub fn on(bytes: Vec<u8>) -> Self {
        Self(BufWriter::new(bytes))
    }

    /// What was written.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        self.0.into_inner()
    }

    fn put(&mut self, value: impl Encode) {
        // BufWriter only fails when memory does.
        let _ = value.encode(&mut self.0);
    }

    /// Opens a tuple or list of `len` items.
    pub fn array(&mut self, len: usize) -> &mut Self {
        let _ = types::Array::bounded(len, &mut self.0);
        self
    }

    /// An unsigned number.
    pub fn uint(&mut self, value: u64) -> &mut Self {
        self.put(value);
        self
    }

    /// A byte string.
    pub fn bytes(&mut self, value: &[u8]) -> &mut Self {
        self.put(types::Bytes(value));
        self
    }

    /// A text string.
    pub fn text(&mut self, value: &str) -> &mut Self {
        self.put(value);
        self
    }

    /// A text string, or null.
    pub fn maybe_text(&mut self, value: Option<&str>) -> &mut Self {
        match value {
            Some(text) => self.put(text),
            None => self.put(types::Null),
        }
        self
    }

    /// A truth value.
    pub fn bool(&mut self, value: bool) -> &mut Self {
        self.put(value);
        self
    }

    /// Null.
    pub fn null(&mut self) -> &mut Self {
        self.put(types::Null);
        self
    }

    /// A signed number.
    pub fn int(&mut self, value: i64) -> &mut Self {
        self.put(value);
        self
    }

    /// A floating-point number.
    pub fn float(&mut self, value: f64) -> &mut Self {
        self.put(value);
        self
    }

    /// Bytes that are CBOR already.
    pub fn raw(&mut self, value: &[u8]) -> &mut Self {
        let _ = self.0.push(value);
        self
    }
}

struct Slice<'a>(&'a [u8]);

impl<'a> dec::Read<'a> for Slice<'a> {
    type Error = std::convert::Infallible;

    fn fill<'short>(&'short mut self, want: usize) -> std::result::Result<dec::Reference<'a, 'short>, Self::Error> {
        Ok(dec::Reference::Long(&self.0[..want.min(self.0.len())]))
    }

    fn advance(&mut self, n: usize) {
        self.0 = &self.0[n.min(self.0.len())..];
    }
}

/// Reads CBOR from a slice without copying.
pub struct Reader<'a>(Slice<'a>);

impl<'a> Reader<'a> {
    /// A reader of `bytes`.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(Slice(bytes))
    }

    fn get<T: Decode<'a>>(&mut self, what: &'static str) -> Result<T> {
        T::decode(&mut self.0).map_err(|_| CodecError::Malformed(what))
    }

    /// The bytes that were not read yet.
    #[must_use]
    pub fn rest(&self) -> &'a [u8] {
        self.0.0
    }

    /// Takes the next `len` bytes as they are.
    ///
    /// # Errors
    /// When fewer are left.
    pub fn take(&mut self, what: &'static str, len: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.rest().split_at_checked(len).ok_or(CodecError::Malformed(what))?;
        self.0 = Slice(rest);
        Ok(taken)
    }

    /// The first byte of what comes next, whose upper three bits tell the CBOR major type.
    #[must_use]
    pub fn peek(&self) -> Option<u8> {
        self.rest().first().copied()
    }

    /// Opens a tuple of exactly `len` items.
    ///
    /// # Errors
    /// When something else comes next.
    pub fn tuple(&mut self, what: &'static str, len: usize) -> Result<()> {
        match self.list(what, len)? {
            found if found == len => Ok(()),
            found => Err(CodecError::Length { what, found, expected: len }),
        }
    }

    /// Opens a list of at most `max` items and says how many it has.
    ///
    /// # Errors
    /// When something else, or a longer list, comes next.
    pub fn list(&mut self, what: &'static str, max: usize) -> Result<usize> {
        let len = types::Array::len(&mut self.0).map_err(|_| CodecError::Malformed(what))?;
        match len {
            Some(found) if found <= max => Ok(found),
            Some(found) => Err(CodecError::Length { what, found, expected: max }),
            None => Err(CodecError::Malformed(what)),
        }
    }

    /// An unsigned number.
    ///
    /// # Errors
    /// When something else comes next. The same holds for the methods below.
    pub fn uint(&mut self, what: &'static str) -> Result<u64> {
        self.get(what)
    }

    /// A signed number.
    ///
    /// # Errors
    /// When something else comes next.
    pub fn int(&mut self, what: &'static str) -> Result<i64> {
        self.get(what)
    }

    /// A floating-point number.
    ///
    /// # Errors
    /// When something else comes next.
    pub fn float(&mut self, what: &'static str) -> Result<f64> {
        self.get(what)
    }

    /// A byte string of at most `max` bytes.
    ///
    /// # Errors
    /// When something else, or a longer one, comes next.
    pub fn bytes(&mut self, what: &'static str, max: usize) -> Result<&'a [u8]> {
        let types::Bytes(bytes) = self.get::<types::Bytes<&'a [u8]>>(what)?;
        if bytes.len() > max { Err(CodecError::OutOfBounds(what)) } else { Ok(bytes) }
    }

    /// A byte string of exactly `N` bytes.
    ///
    /// # Errors
    /// When something else comes next.
    pub fn fixed<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N]> {
        self.bytes(what, N)?.try_into().map_err(|_| CodecError::OutOfBounds(what))
    }

    /// A text of at most `max` bytes.
    ///
    /// # Errors
    /// When something else, or a longer one, comes next.
    pub fn text(&mut self, what: &'static str, max: usize) -> Result<&'a str> {
        let text = self.get::<&'a str>(what)?;
        if text.len() > max { Err(CodecError::OutOfBounds(what)) } else { Ok(text) }
    }

    /// A text of at most `max` bytes, or null.
    ///
    /// # Errors
    /// When something else, or a longer text, comes next.
    pub fn maybe_text(&mut self, what: &'static str, max: usize) -> Result<Option<&'a str>> {
        if self.null() { Ok(None) } else { self.text(what, max).map(Some) }
    }

    /// A truth value.
    ///
    /// # Errors
    /// When something else comes next.
    pub fn bool(&mut self, what: &'static str) -> Result<bool> {
        self.get(what)
    }

    /// Takes a null if one comes next.
    pub fn null(&mut self) -> bool {
        const NULL: u8 = 0xf6;
        let found = self.peek() == Some(NULL);
        if found {
            dec::Read::advance(&mut self.0, 1);
        }
        found
    }

    /// Insists that everything was read.
    ///
    /// # Errors
    /// When bytes are left over.
    pub fn end(&self) -> Result<()> {
        if self.rest().is_empty() { Ok(()) } else { Err(CodecError::LeftOver(self.rest().len())) }
    }
}
