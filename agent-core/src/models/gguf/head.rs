//! The primitives of a GGUF head: numbers, texts and arrays, none of them believed.

use std::io::{self, Read};

use super::GgufError;

/// Longest head that is read. The largest known (vocabulary of 256 k tokens with merges) is 15 MB.
const MAX_HEAD_BYTES: u64 = 256 << 20;
/// Longest string: chat templates reach tens of kilobytes.
const MAX_STRING_BYTES: u64 = 4 << 20;
/// Longest key and tensor name; the format allows keys of 65,535 bytes.
const MAX_NAME_BYTES: u64 = 65_535;
/// Longest array whose numbers are kept: values per layer. No known model has more layers.
pub(super) const MAX_LAYERS: usize = 1024;
/// Tokens longer than this are not looked at: the control tokens we look for are shorter.
const MAX_CONTROL_TOKEN: u64 = 32;

pub(super) struct Head<R> {
    input: io::Take<R>,
    pub(super) position: u64,
    file_bytes: u64,
    /// Only the beginning of the file is here: running out of it is no fault of the file.
    prefix: bool,
}

/// One value of the metadata.
#[derive(Debug)]
pub(super) enum Value {
    Number(u64),
    /// A negative number.
    Negative(i64),
    Float(f64),
    Bool(bool),
    Text(String),
    Array(Array),
}

#[derive(Debug, Default)]
pub(super) struct Array {
    pub(super) length: u64,
    /// Its numbers, if it has at most [`MAX_LAYERS`].
    pub(super) numbers: Vec<u64>,
    /// A text in it is a control token for filling in the middle.
    pub(super) fill_in_token: bool,
}

impl<R: Read> Head<R> {
    pub(super) fn new(input: R, file_bytes: u64, prefix: bool) -> Self {
        Self { input: input.take(MAX_HEAD_BYTES), position: 0, file_bytes, prefix }
    }

    pub(super) fn fill(&mut self, bytes: &mut [u8]) -> Result<(), GgufError> {
        match self.input.read_exact(bytes) {
            Ok(()) => {
                self.position += bytes.len() as u64;
                Ok(())
            }
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
                Err(self.short(bytes.len() as u64))
            }
            Err(e) => Err(GgufError::Io(e)),
        }
    }

    /// Why `wanted` more bytes cannot be had.
    fn short(&self, wanted: u64) -> GgufError {
        let needs = self.position.saturating_add(wanted);
        if self.input.limit() == 0 || needs > MAX_HEAD_BYTES {
            return GgufError::Damaged("its head is larger than 256 MiB");
        }
        if self.prefix && needs <= self.file_bytes {
            return GgufError::NeedsMore { needs };
        }
        GgufError::Truncated { has: self.file_bytes, needs }
    }

    pub(super) fn u32(&mut self) -> Result<u32, GgufError> {
        let mut bytes = [0; 4];
        self.fill(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    pub(super) fn u64(&mut self) -> Result<u64, GgufError> {
        let mut bytes = [0; 8];
        self.fill(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// A key or the name of a tensor.
    pub(super) fn name(&mut self) -> Result<String, GgufError> {
        let length = self.u64()?;
        if length > MAX_NAME_BYTES {
            return Err(GgufError::Damaged("it has a name longer than 64 KiB in its head"));
        }
        self.text(length)
    }

    fn string(&mut self) -> Result<String, GgufError> {
        let length = self.u64()?;
        if length > MAX_STRING_BYTES {
            return Err(GgufError::Damaged("it has a text longer than 4 MiB in its head"));
        }
        self.text(length)
    }

    fn text(&mut self, length: u64) -> Result<String, GgufError> {
        if self.position.saturating_add(length) > self.file_bytes {
            return Err(self.short(length));
        }
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
        self.fill(&mut bytes)?;
        Ok(String::from_utf8(bytes)
            .unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned()))
    }

    fn skip(&mut self, count: u64) -> Result<(), GgufError> {
        if self.position.saturating_add(count) > self.file_bytes {
            return Err(self.short(count));
        }
        let skipped = io::copy(&mut self.input.by_ref().take(count), &mut io::sink());
        let skipped = skipped.map_err(GgufError::Io)?;
        self.position += skipped;
        if skipped < count { Err(self.short(count - skipped)) } else { Ok(()) }
    }

    pub(super) fn value(&mut self) -> Result<Value, GgufError> {
        match self.u32()? {
            8 => Ok(Value::Text(self.string()?)),
            9 => Ok(Value::Array(self.array()?)),
            kind => self.number(kind),
        }
    }

    fn number(&mut self, kind: u32) -> Result<Value, GgufError> {
        let width = scalar_width(kind).ok_or(GgufError::Damaged("unknown kind of value"))?;
        let mut bytes = [0; 8];
        self.fill(&mut bytes[..width])?;
        let [a, b, c, d, ..] = bytes;
        let raw = u64::from_le_bytes(bytes);
        Ok(match kind {
            1 => signed(i64::from(a.cast_signed())),
            3 => signed(i64::from(i16::from_le_bytes([a, b]))),
            5 => signed(i64::from(i32::from_le_bytes([a, b, c, d]))),
            6 => Value::Float(f64::from(f32::from_le_bytes([a, b, c, d]))),
            7 => Value::Bool(a != 0),
            11 => signed(raw.cast_signed()),
            12 => Value::Float(f64::from_bits(raw)),
            _ => Value::Number(raw),
        })
    }

    fn array(&mut self) -> Result<Array, GgufError> {
        let kind = self.u32()?;
        let length = self.u64()?;
        let mut array = Array { length, ..Array::default() };
        if kind == 8 {
            // Each string takes at least its length field, so the file bounds the loop.
            for _ in 0..length {
                array.fill_in_token |= self.is_fill_in_token()?;
            }
            return Ok(array);
        }
        let width = scalar_width(kind).ok_or(GgufError::Damaged("nested or unknown array"))? as u64;
        let total = length.checked_mul(width).ok_or(GgufError::Damaged("absurd array"))?;
        if length > MAX_LAYERS as u64 {
            self.skip(total)?;
            return Ok(array);
        }
        for _ in 0..length {
            array.numbers.push(match self.number(kind)? {
                Value::Number(n) => n,
                Value::Bool(b) => u64::from(b),
                _ => 0,
            });
        }
        Ok(array)
    }

    /// Reads over a text of an array.
    fn is_fill_in_token(&mut self) -> Result<bool, GgufError> {
        let length = self.u64()?;
        if length > MAX_CONTROL_TOKEN {
            self.skip(length)?;
            return Ok(false);
        }
        let mut buffer = [0; MAX_CONTROL_TOKEN as usize];
        let token = &mut buffer[..usize::try_from(length).unwrap_or(0)];
        self.fill(token)?;
        // As llama.cpp finds them (`llama-vocab.cpp`, FIM_PRE).
        Ok(matches!(
            std::str::from_utf8(token),
            Ok("<|fim_prefix|>"
                | "<fim-prefix>"
                | "<fim_prefix>"
                | "<｜fim▁begin｜>"
                | "<PRE>"
                | "▁<PRE>"
                | "<|code_prefix|>"
                | "<|prefix|>")
        ))
    }
}

fn signed(number: i64) -> Value {
    u64::try_from(number).map_or(Value::Negative(number), Value::Number)
}

fn scalar_width(kind: u32) -> Option<usize> {
    match kind {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        10..=12 => Some(8),
        _ => None,
    }
}
