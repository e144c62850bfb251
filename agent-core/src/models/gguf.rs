//! Reading the head of a GGUF file that nobody vouches for.
//!
//! Only the metadata and the tensor list are read, every length is checked before it is believed,
//! and the end of the tensor data is compared with the file, so that a file that is cut off is
//! known before llama.cpp maps it. Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

use std::{
    fs::File,
    io::{self, BufReader, Read},
    path::Path,
};

use serde::{Deserialize, Serialize};

/// Longest head that is read. The largest known (vocabulary of 256 k tokens with merges) is 15 MB.
const MAX_HEAD_BYTES: u64 = 256 << 20;
/// Longest string: chat templates reach tens of kilobytes.
const MAX_STRING_BYTES: u64 = 4 << 20;
const MAX_METADATA: u64 = 65_536;
/// Models of today have a few thousand.
const MAX_TENSORS: u64 = 262_144;
const MAX_DIMENSIONS: u32 = 4;

#[derive(Debug, thiserror::Error)]
pub enum GgufError {
    #[error("it is not a GGUF file")]
    NotGguf,
    #[error("it is GGUF version {0}, and only versions 2 and 3 can be loaded")]
    Version(u32),
    #[error("it is cut off: it has {has} of at least {needs} bytes. Copy or download it again")]
    Truncated { has: u64, needs: u64 },
    #[error("it is damaged: {0}")]
    Damaged(&'static str),
    #[error("it cannot be read: {0}")]
    Io(io::Error),
    /// Found out elsewhere: by the store, or when the head was read before a restart.
    #[error("{0}")]
    Known(String),
}

/// What the head says about the model.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GgufInfo {
    pub name: Option<String>,
    pub architecture: String,
    pub license: Option<String>,
    pub quantization: String,
    /// Sum of all tensor elements.
    pub parameters: u64,
    pub context_train: u32,
    pub layers: u32,
    pub embedding: u32,
    pub heads: u32,
    pub heads_kv: u32,
    /// Width of one key and one value head, where the file says; else `embedding / heads`.
    pub key_length: Option<u32>,
    pub value_length: Option<u32>,
    /// Bytes of all tensors.
    pub weight_bytes: u64,
    pub file_bytes: u64,
}

impl GgufInfo {
    /// Bytes of the KV cache at 16 bits: for each token and layer one key and one value per
    /// KV head. An upper bound for models with sliding windows or recurrent layers.
    pub fn kv_bytes(&self, context: u32, slots: u32) -> u64 {
        let head = self.embedding.checked_div(self.heads).unwrap_or(0);
        let widths = u64::from(self.key_length.unwrap_or(head))
            + u64::from(self.value_length.unwrap_or(head));
        let per_token = widths * u64::from(self.heads_kv) * 2 * u64::from(self.layers);
        per_token.saturating_mul(u64::from(context) * u64::from(slots))
    }
}

/// Reads and checks the head of the file.
pub fn read_gguf(path: &Path) -> Result<GgufInfo, GgufError> {
    let file = File::open(path).map_err(GgufError::Io)?;
    let size = file.metadata().map_err(GgufError::Io)?.len();
    parse(BufReader::with_capacity(1 << 16, file), size)
}

/// Parses a head from any source; `file_bytes` is the length of the whole file.
pub fn parse(input: impl Read, file_bytes: u64) -> Result<GgufInfo, GgufError> {
    let mut head = Head { input: input.take(MAX_HEAD_BYTES), position: 0, file_bytes };
    let mut magic = [0; 4];
    if file_bytes < 24 || head.fill(&mut magic).is_err() || &magic != b"GGUF" {
        return Err(GgufError::NotGguf);
    }
    let version = head.u32()?;
    if !(2..=3).contains(&version) {
        return Err(GgufError::Version(version));
    }
    let n_tensors = head.u64()?;
    let n_metadata = head.u64()?;
    if n_tensors > MAX_TENSORS || n_metadata > MAX_METADATA {
        return Err(GgufError::Damaged("it claims an absurd number of tensors or keys"));
    }
    let mut metadata = Metadata { alignment: 32, ..Default::default() };
    for _ in 0..n_metadata {
        let key = head.string()?;
        let kind = head.u32()?;
        let value = head.value(kind)?;
        metadata.take(&key, value);
    }
    let mut tensors = Tensors::default();
    for _ in 0..n_tensors {
        tensors.read_one(&mut head)?;
    }
    let alignment = u64::from(metadata.alignment);
    let data_start = head.position.next_multiple_of(alignment);
    let needs = data_start.saturating_add(tensors.end);
    if n_tensors > 0 && needs > file_bytes {
        return Err(GgufError::Truncated { has: file_bytes, needs });
    }
    metadata.into_info(tensors, file_bytes)
}

struct Head<R> {
    input: io::Take<R>,
    position: u64,
    file_bytes: u64,
}

enum Value {
    Number(u64),
    Text(String),
    /// First elements of an integer array: per-layer head counts.
    Other(Option<u64>),
}

impl<R: Read> Head<R> {
    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), GgufError> {
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

    fn short(&self, wanted: u64) -> GgufError {
        if self.input.limit() == 0 {
            return GgufError::Damaged("its head is larger than 256 MiB");
        }
        GgufError::Truncated { has: self.file_bytes, needs: self.position.saturating_add(wanted) }
    }

    fn u32(&mut self) -> Result<u32, GgufError> {
        let mut bytes = [0; 4];
        self.fill(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn u64(&mut self) -> Result<u64, GgufError> {
        let mut bytes = [0; 8];
        self.fill(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn string(&mut self) -> Result<String, GgufError> {
        let length = self.u64()?;
        if length > MAX_STRING_BYTES {
            return Err(GgufError::Damaged("it has a text longer than 4 MiB in its head"));
        }
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

    fn value(&mut self, kind: u32) -> Result<Value, GgufError> {
        match kind {
            8 => Ok(Value::Text(self.string()?)),
            9 => self.array(),
            kind => self.number(kind),
        }
    }

    fn number(&mut self, kind: u32) -> Result<Value, GgufError> {
        let width = scalar_width(kind).ok_or(GgufError::Damaged("unknown kind of value"))?;
        let mut bytes = [0; 8];
        self.fill(&mut bytes[..width])?;
        let number = u64::from_le_bytes(bytes);
        // 6 and 12 are floats; nothing we ask for is one.
        Ok(if matches!(kind, 6 | 12) { Value::Other(None) } else { Value::Number(number) })
    }

    fn array(&mut self) -> Result<Value, GgufError> {
        let kind = self.u32()?;
        let length = self.u64()?;
        if kind == 8 {
            // Each string takes at least its length field, so the file bounds the loop.
            for _ in 0..length {
                let bytes = self.u64()?;
                self.skip(bytes)?;
            }
            return Ok(Value::Other(None));
        }
        let width = scalar_width(kind).ok_or(GgufError::Damaged("nested or unknown array"))? as u64;
        let total = length.checked_mul(width).ok_or(GgufError::Damaged("absurd array"))?;
        if length == 0 {
            return Ok(Value::Other(None));
        }
        let first = match self.number(kind)? {
            Value::Number(n) => Some(n),
            _ => None,
        };
        self.skip(total - width)?;
        Ok(Value::Other(first))
    }
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

#[derive(Default)]
struct Tensors {
    /// End of the furthest tensor, relative to the start of the data.
    end: u64,
    elements: u64,
    bytes: u64,
    /// Bytes per tensor type, to name the quantization when the metadata does not.
    by_type: std::collections::BTreeMap<u32, u64>,
}

impl Tensors {
    fn read_one<R: Read>(&mut self, head: &mut Head<R>) -> Result<(), GgufError> {
        head.string()?;
        let n_dimensions = head.u32()?;
        if n_dimensions > MAX_DIMENSIONS {
            return Err(GgufError::Damaged("a tensor has more than 4 dimensions"));
        }
        let mut elements = 1_u64;
        for _ in 0..n_dimensions {
            elements = elements
                .checked_mul(head.u64()?)
                .ok_or(GgufError::Damaged("a tensor has an absurd size"))?;
        }
        let kind = head.u32()?;
        let offset = head.u64()?;
        let (block, block_bytes) =
            block_size(kind).ok_or(GgufError::Damaged("a tensor has an unknown type"))?;
        let bytes = (elements / block)
            .checked_mul(block_bytes)
            .ok_or(GgufError::Damaged("a tensor has an absurd size"))?;
        let end =
            offset.checked_add(bytes).ok_or(GgufError::Damaged("a tensor has an absurd size"))?;
        self.end = self.end.max(end);
        self.elements = self.elements.saturating_add(elements);
        self.bytes = self.bytes.saturating_add(bytes);
        *self.by_type.entry(kind).or_default() += bytes;
        Ok(())
    }

    fn main_type(&self) -> Option<u32> {
        self.by_type.iter().max_by_key(|(_, bytes)| **bytes).map(|(kind, _)| *kind)
    }
}

/// Elements and bytes of one block of a ggml type (ggml.c, `type_traits`).
fn block_size(kind: u32) -> Option<(u64, u64)> {
    Some(match kind {
        0 | 26 => (1, 4),
        1 | 25 | 30 => (1, 2),
        24 => (1, 1),
        27 | 28 => (1, 8),
        2 => (32, 18),
        3 => (32, 20),
        6 => (32, 22),
        7 => (32, 24),
        8 => (32, 34),
        9 => (32, 36),
        10 => (256, 84),
        11 => (256, 110),
        12 => (256, 144),
        13 => (256, 176),
        14 => (256, 210),
        15 => (256, 292),
        16 => (256, 66),
        17 => (256, 74),
        18 => (256, 98),
        19 => (256, 50),
        20 => (32, 18),
        21 => (256, 110),
        22 => (256, 82),
        23 => (256, 136),
        29 => (256, 56),
        34 => (256, 54),
        35 => (256, 66),
        39 => (32, 17),
        40 => (64, 36),
        _ => return None,
    })
}

/// Names of llama.cpp's `general.file_type` (`llama_ftype`).
fn file_type_name(file_type: u64) -> Option<&'static str> {
    Some(match file_type {
        0 => "F32",
        1 => "F16",
        2 => "Q4_0",
        3 => "Q4_1",
        7 => "Q8_0",
        8 => "Q5_0",
        9 => "Q5_1",
        10 => "Q2_K",
        11 => "Q3_K_S",
        12 => "Q3_K_M",
        13 => "Q3_K_L",
        14 => "Q4_K_S",
        15 => "Q4_K_M",
        16 => "Q5_K_S",
        17 => "Q5_K_M",
        18 => "Q6_K",
        19 => "IQ2_XXS",
        20 => "IQ2_XS",
        21 => "Q2_K_S",
        22 => "IQ3_XS",
        23 => "IQ3_XXS",
        24 => "IQ1_S",
        25 => "IQ4_NL",
        26 => "IQ3_S",
        27 => "IQ3_M",
        28 => "IQ2_S",
        29 => "IQ2_M",
        30 => "IQ4_XS",
        31 => "IQ1_M",
        32 => "BF16",
        36 => "TQ1_0",
        37 => "TQ2_0",
        38 => "MXFP4",
        _ => return None,
    })
}

fn tensor_type_name(kind: u32) -> &'static str {
    match kind {
        0 => "F32",
        1 => "F16",
        2 => "Q4_0",
        3 => "Q4_1",
        6 => "Q5_0",
        7 => "Q5_1",
        8 => "Q8_0",
        10 => "Q2_K",
        11 => "Q3_K",
        12 => "Q4_K",
        13 => "Q5_K",
        14 => "Q6_K",
        30 => "BF16",
        39 => "MXFP4",
        _ => "other",
    }
}

#[derive(Default)]
struct Metadata {
    alignment: u32,
    name: Option<String>,
    architecture: Option<String>,
    license: Option<String>,
    file_type: Option<u64>,
    /// `<architecture>.<rest>` by rest; the architecture may come after them.
    numbers: Vec<(String, u64)>,
}

impl Metadata {
    fn take(&mut self, key: &str, value: Value) {
        match (key, value) {
            ("general.name", Value::Text(text)) => self.name = Some(text),
            ("general.architecture", Value::Text(text)) => self.architecture = Some(text),
            ("general.license", Value::Text(text)) => self.license = Some(text),
            ("general.file_type", Value::Number(n)) => self.file_type = Some(n),
            ("general.alignment", Value::Number(n)) => {
                self.alignment = u32::try_from(n).unwrap_or(0);
            }
            (key, Value::Number(n) | Value::Other(Some(n))) => {
                const WANTED: [&str; 7] = [
                    ".context_length",
                    ".block_count",
                    ".embedding_length",
                    ".attention.head_count",
                    ".attention.head_count_kv",
                    ".attention.key_length",
                    ".attention.value_length",
                ];
                if WANTED.iter().any(|wanted| key.ends_with(wanted)) {
                    self.numbers.push((key.to_owned(), n));
                }
            }
            _ => {}
        }
    }

    fn into_info(self, tensors: Tensors, file_bytes: u64) -> Result<GgufInfo, GgufError> {
        if !self.alignment.is_power_of_two() {
            return Err(GgufError::Damaged("its alignment is not a power of two"));
        }
        let architecture =
            self.architecture.ok_or(GgufError::Damaged("it does not name an architecture"))?;
        let number = |rest: &str| {
            let key = format!("{architecture}.{rest}");
            let found = self.numbers.iter().find(|(name, _)| *name == key);
            found.and_then(|(_, n)| u32::try_from(*n).ok())
        };
        let heads = number("attention.head_count").unwrap_or(0);
        let quantization = self
            .file_type
            .and_then(file_type_name)
            .or_else(|| tensors.main_type().map(tensor_type_name))
            .unwrap_or("unknown");
        Ok(GgufInfo {
            name: self.name,
            license: self.license,
            quantization: quantization.to_owned(),
            parameters: tensors.elements,
            context_train: number("context_length").unwrap_or(0),
            layers: number("block_count").unwrap_or(0),
            embedding: number("embedding_length").unwrap_or(0),
            heads,
            heads_kv: number("attention.head_count_kv").unwrap_or(heads),
            key_length: number("attention.key_length"),
            value_length: number("attention.value_length"),
            weight_bytes: tensors.bytes,
            file_bytes,
            architecture,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn demo() -> Vec<u8> {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/edgecoder-demo-4m-q8_0.gguf");
        std::fs::read(path).expect("the demo model is in the repository")
    }

    fn check(bytes: &[u8]) -> Result<GgufInfo, GgufError> {
        parse(bytes, bytes.len() as u64)
    }

    #[test]
    fn the_demo_model_is_what_its_card_says() {
        let info = check(&demo()).expect("parses");
        assert_eq!(info.architecture, "llama");
        assert_eq!(info.quantization, "Q8_0");
        assert_eq!(info.parameters, 4_196_608);
        assert_eq!((info.layers, info.heads, info.heads_kv), (4, 4, 2));
        assert_eq!(info.context_train, 1_024);
        // 4 layers x 2 heads x (64 + 64) x 2 bytes x 1,024 tokens
        assert_eq!(info.kv_bytes(1_024, 1), 4 * 2 * 128 * 2 * 1_024);
    }

    #[test]
    fn a_file_cut_off_anywhere_is_refused() {
        let demo = demo();
        for keep in [demo.len() - 1, demo.len() / 2, 100_000, 5_000, 30] {
            let error = check(&demo[..keep]).expect_err("refused");
            assert!(matches!(error, GgufError::Truncated { .. }), "{keep}: {error}");
        }
        assert!(matches!(check(&demo[..10]), Err(GgufError::NotGguf)));
    }

    #[test]
    fn other_files_are_refused() {
        assert!(matches!(check(b"PK\x03\x04 not a model at all......"), Err(GgufError::NotGguf)));
        let mut old = demo();
        old[4] = 1;
        assert!(matches!(check(&old), Err(GgufError::Version(1))));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn damage_never_panics(position in 0_usize..4_000, bytes in proptest::collection::vec(any::<u8>(), 1..16)) {
            let mut file = demo();
            file[position..position + bytes.len()].copy_from_slice(&bytes);
            let _ = check(&file);
        }

        #[test]
        fn random_heads_never_panic(tail in proptest::collection::vec(any::<u8>(), 20..400)) {
            let mut file = b"GGUF\x03\0\0\0".to_vec();
            file.extend(tail);
            let _ = check(&file);
        }
    }
}
