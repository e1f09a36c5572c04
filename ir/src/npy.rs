//! One array in NumPy's `.npy` format, versions 1 to 3.
//!
//! Our own, because `npyz` and `ndarray-npy` parse the header with a crate whose tree compiles C.
//!
//! A file is the magic number, a version, the header's length, the header, and the elements. The
//! header is a Python dict of `descr`, `fortran_order` and `shape`; nothing else is a literal here.

use crate::{DType, ElemType, Tensor, TensorError};
use std::io::{self, Read, Write};
use thiserror::Error;

const MAGIC: &[u8; 6] = b"\x93NUMPY";
/// The longest header that NumPy itself reads from a file it does not trust.
const MAX_HEADER: usize = 10_000;
/// NumPy's own alignment of the first element.
const DATA_ALIGN: usize = 64;

/// Why bytes are not an array that a tensor can hold.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum NpyError {
    /// The operating system's answer.
    #[error("{0}")]
    Io(#[source] io::Error),
    /// The bytes end within the header.
    #[error("the header is cut off")]
    CutOff,
    /// The first bytes are not those of an `.npy`.
    #[error("not an npy file: the magic number is missing")]
    Magic,
    /// A version that is not 1.0, 2.0 or 3.0.
    #[error("version {major}.{minor} of the format is not supported")]
    Version {
        /// First byte of the version.
        major: u8,
        /// Second byte.
        minor: u8,
    },
    /// A header of absurd length.
    #[error("a header of {len} bytes is above the limit of {MAX_HEADER}")]
    HeaderLength {
        /// What the file says.
        len: u32,
    },
    /// The header is not the dict it should be.
    #[error("byte {at} of the header: {expected} is expected")]
    Syntax {
        /// Offset from the start of the dict.
        at: usize,
        /// What should stand there.
        expected: &'static str,
    },
    /// A key of the header that is missing.
    #[error("the header has no `{0}`")]
    Missing(&'static str),
    /// A key of the header that occurs twice.
    #[error("`{0}` occurs twice in the header")]
    Twice(&'static str),
    /// Records, or another type that is not one number.
    #[error("structured arrays are not supported")]
    Structured,
    /// A type that tensors do not have.
    #[error("element type `{0}` is not supported")]
    Elements(String),
    /// An extent that is not a `usize`.
    #[error("an extent does not fit this machine")]
    Extent,
    /// More bytes than [`crate::Limits`] allow.
    #[error("{needed} bytes are above the limit of {limit}")]
    Limit {
        /// Bytes that type and shape need.
        needed: usize,
        /// Bytes allowed.
        limit: u64,
    },
    /// A byte of a boolean array that is neither 0 nor 1.
    #[error("a bool is neither 0 nor 1")]
    Bool,
    /// The elements do not make a tensor.
    #[error("{0}")]
    Tensor(#[source] TensorError),
}

/// What a header says.
struct Header {
    dtype: DType,
    big_endian: bool,
    fortran_order: bool,
    dims: Vec<usize>,
}

/// Reads an array of at most `limit` bytes. What follows it is left unread.
pub(crate) fn read<R: Read>(mut reader: R, limit: u64) -> Result<Tensor, NpyError> {
    let Header { dtype, big_endian, fortran_order, dims } = read_header(&mut reader)?;
    let needed = Tensor::byte_len(dtype, &dims).map_err(NpyError::Tensor)?;
    if needed as u64 > limit {
        return Err(NpyError::Limit { needed, limit });
    }
    let mut data = Vec::new();
    // Grows with what is really there: a header may promise anything.
    reader.take(needed as u64).read_to_end(&mut data).map_err(NpyError::Io)?;
    let size = dtype.bits() as usize / 8;
    if data.len() == needed {
        if big_endian {
            data.chunks_exact_mut(size).for_each(<[u8]>::reverse);
        }
        if fortran_order && dims.len() > 1 {
            data = to_c_order(&data, &dims, size);
        }
    }
    if dtype == DType::Bool && data.iter().any(|&b| b > 1) {
        return Err(NpyError::Bool);
    }
    Tensor::copy_from(ElemType::plain(dtype), dims, &data).map_err(NpyError::Tensor)
}

/// Writes an array as NumPy does: version 1, little-endian, C order.
pub(crate) fn write<W: Write>(mut writer: W, tensor: &Tensor) -> io::Result<()> {
    let descr = match tensor.dtype() {
        DType::F32 => "<f4",
        DType::F16 => "<f2",
        DType::F64 => "<f8",
        DType::I8 => "|i1",
        DType::U8 => "|u1",
        DType::I16 => "<i2",
        DType::U16 => "<u2",
        DType::I32 => "<i4",
        DType::I64 => "<i8",
        DType::Bool => "|b1",
        DType::I4 | DType::U4 => {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "npy has no 4-bit elements"));
        }
    };
    // `(3,)`: a tuple of one needs its comma
    let shape: String = tensor.dims().iter().map(|d| format!("{d}, ")).collect();
    let shape =
        if tensor.dims().len() == 1 { shape.trim_end() } else { shape.trim_end_matches(", ") };
    let dict = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({shape}), }}");
    let before = MAGIC.len() + 2 + 2;
    let len = (before + dict.len() + 1).next_multiple_of(DATA_ALIGN) - before;
    writer.write_all(MAGIC)?;
    writer.write_all(&[1, 0])?;
    // at most 8 extents: never near 65536
    writer.write_all(&(len as u16).to_le_bytes())?;
    writeln!(writer, "{dict:<width$}", width = len - 1)?;
    writer.write_all(tensor.bytes())
}

fn to_c_order(data: &[u8], dims: &[usize], size: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(data.len());
    let mut index = vec![0usize; dims.len()];
    for _ in 0..data.len() / size {
        let from = index.iter().zip(dims).rev().fold(0, |at, (&i, &d)| at * d + i) * size;
        out.extend_from_slice(&data[from..from + size]);
        for axis in (0..dims.len()).rev() {
            index[axis] += 1;
            if index[axis] < dims[axis] {
                break;
            }
            index[axis] = 0;
        }
    }
    out
}

fn read_header<R: Read>(reader: &mut R) -> Result<Header, NpyError> {
    let mut read = |bytes: &mut [u8]| {
        reader.read_exact(bytes).map_err(|e| match e.kind() {
            io::ErrorKind::UnexpectedEof => NpyError::CutOff,
            _ => NpyError::Io(e),
        })
    };
    let mut magic = [0; MAGIC.len()];
    read(&mut magic)
        .map_err(|e| if matches!(e, NpyError::CutOff) { NpyError::Magic } else { e })?;
    if &magic != MAGIC {
        return Err(NpyError::Magic);
    }
    let mut version = [0; 2];
    read(&mut version)?;
    let mut len = [0; 4];
    match version {
        [1, 0] => read(&mut len[..2])?,
        [2 | 3, 0] => read(&mut len)?,
        [major, minor] => return Err(NpyError::Version { major, minor }),
    }
    let len = u32::from_le_bytes(len);
    if len as usize > MAX_HEADER {
        return Err(NpyError::HeaderLength { len });
    }
    let mut text = vec![0; len as usize];
    read(&mut text)?;
    Cursor { text: &text, at: 0 }.header()
}

/// Reads the few Python literals that a header is made of.
struct Cursor<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn header(&mut self) -> Result<Header, NpyError> {
        let (mut descr, mut fortran_order, mut shape) = (None, None, None);
        self.expect(b'{', "`{`")?;
        while !self.eat(b'}') {
            let at = self.at;
            let key = self.string("a key")?;
            self.expect(b':', "`:`")?;
            match key {
                b"descr" => set(&mut descr, "descr", self.descr()?)?,
                b"fortran_order" => set(&mut fortran_order, "fortran_order", self.boolean()?)?,
                b"shape" => set(&mut shape, "shape", self.shape()?)?,
                _ => {
                    let expected = "`descr`, `fortran_order` or `shape`";
                    return Err(NpyError::Syntax { at, expected });
                }
            }
            if !self.eat(b',') {
                self.expect(b'}', "`,` or `}`")?;
                break;
            }
        }
        self.space();
        if self.at < self.text.len() {
            return Err(self.expected("the end"));
        }
        let (dtype, big_endian) = descr.ok_or(NpyError::Missing("descr"))?;
        Ok(Header {
            dtype,
            big_endian,
            fortran_order: fortran_order.ok_or(NpyError::Missing("fortran_order"))?,
            dims: shape.ok_or(NpyError::Missing("shape"))?,
        })
    }

    /// `'<f4'`: byte order, kind, and bytes.
    fn descr(&mut self) -> Result<(DType, bool), NpyError> {
        if matches!(self.peek(), Some(b'[' | b'(')) {
            return Err(NpyError::Structured);
        }
        let descr = self.string("a type")?;
        let unknown = || NpyError::Elements(descr.escape_ascii().to_string());
        let (order, ty) = descr.split_first().ok_or_else(unknown)?;
        let dtype = match ty {
            b"f2" => DType::F16,
            b"f4" => DType::F32,
            b"f8" => DType::F64,
            b"i1" => DType::I8,
            b"u1" => DType::U8,
            b"i2" => DType::I16,
            b"u2" => DType::U16,
            b"i4" => DType::I32,
            b"i8" => DType::I64,
            b"b1" => DType::Bool,
            _ => return Err(unknown()),
        };
        let big_endian = match order {
            b'<' => false,
            b'>' => true,
            b'=' => cfg!(target_endian = "big"),
            b'|' if dtype.bits() == 8 => false,
            _ => return Err(unknown()),
        };
        Ok((dtype, big_endian))
    }

    fn boolean(&mut self) -> Result<bool, NpyError> {
        self.space();
        for (word, value) in [(&b"True"[..], true), (b"False", false)] {
            if self.text[self.at..].starts_with(word) {
                self.at += word.len();
                return Ok(value);
            }
        }
        Err(self.expected("`True` or `False`"))
    }

    /// `()`, `(3,)` or `(2, 3)`: without its comma, a parenthesis around one number is no tuple.
    fn shape(&mut self) -> Result<Vec<usize>, NpyError> {
        let mut dims = Vec::new();
        self.expect(b'(', "a tuple")?;
        while !self.eat(b')') {
            dims.push(self.extent()?);
            if !self.eat(b',') {
                if dims.len() == 1 {
                    return Err(self.expected("`,`"));
                }
                self.expect(b')', "`,` or `)`")?;
                break;
            }
        }
        Ok(dims)
    }

    fn extent(&mut self) -> Result<usize, NpyError> {
        self.space();
        let from = self.at;
        let mut extent = 0usize;
        while let Some(digit @ b'0'..=b'9') = self.text.get(self.at) {
            extent = extent
                .checked_mul(10)
                .and_then(|n| n.checked_add(usize::from(digit - b'0')))
                .ok_or(NpyError::Extent)?;
            self.at += 1;
        }
        if self.at == from { Err(self.expected("an extent")) } else { Ok(extent) }
    }

    /// A string without escapes; no key and no type has any.
    fn string(&mut self, what: &'static str) -> Result<&'a [u8], NpyError> {
        let Some(quote @ (b'\'' | b'"')) = self.peek() else { return Err(self.expected(what)) };
        let from = self.at + 1;
        let len = self.text[from..].iter().position(|&b| b == quote || b == b'\\');
        match len {
            Some(len) if self.text[from + len] == quote => {
                self.at = from + len + 1;
                Ok(&self.text[from..from + len])
            }
            _ => Err(self.expected(what)),
        }
    }

    fn eat(&mut self, byte: u8) -> bool {
        let there = self.peek() == Some(byte);
        self.at += usize::from(there);
        there
    }

    fn expect(&mut self, byte: u8, expected: &'static str) -> Result<(), NpyError> {
        if self.eat(byte) { Ok(()) } else { Err(self.expected(expected)) }
    }

    /// The next byte that is no space.
    fn peek(&mut self) -> Option<u8> {
        self.space();
        self.text.get(self.at).copied()
    }

    fn space(&mut self) {
        while self.text.get(self.at).is_some_and(u8::is_ascii_whitespace) {
            self.at += 1;
        }
    }

    fn expected(&self, expected: &'static str) -> NpyError {
        NpyError::Syntax { at: self.at, expected }
    }
}

fn set<T>(slot: &mut Option<T>, key: &'static str, value: T) -> Result<(), NpyError> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(NpyError::Twice(key)),
    }
}
