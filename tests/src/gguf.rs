//! Models of any shape with random weights, for benchmarks and memory tests: the demo model's
//! tokenizer and metadata around tensors of another size.
//!
//! Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

use std::{
    fs::File,
    io::{BufWriter, Write as _},
    path::Path,
};

use anyhow::{Context as _, Result, bail};

use crate::programs::demo_model;

/// A Llama-like shape.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub layers: u32,
    pub width: u32,
    pub feed_forward: u32,
    pub heads: u32,
    pub kv_heads: u32,
    pub context: u32,
}

/// Elements and bytes of one Q8_0 block: an f16 scale and 32 signed bytes.
const BLOCK: u64 = 32;
const BLOCK_BYTES: u64 = 34;
const F32: u32 = 0;
const Q8_0: u32 = 8;
const ALIGNMENT: u64 = 32;

struct Tensor {
    name: String,
    dimensions: Vec<u64>,
    kind: u32,
}

impl Tensor {
    fn bytes(&self) -> u64 {
        let elements: u64 = self.dimensions.iter().product();
        if self.kind == F32 { elements * 4 } else { elements / BLOCK * BLOCK_BYTES }
    }
}

/// Writes a model; gives its number of weights.
pub fn write_random_model(path: &Path, shape: Shape) -> Result<u64> {
    let demo = std::fs::read(demo_model()).context("the demo model")?;
    let mut metadata = Metadata::read(&demo)?;
    for (key, value) in [
        ("llama.block_count", shape.layers),
        ("llama.embedding_length", shape.width),
        ("llama.feed_forward_length", shape.feed_forward),
        ("llama.attention.head_count", shape.heads),
        ("llama.attention.head_count_kv", shape.kv_heads),
        ("llama.context_length", shape.context),
        ("llama.rope.dimension_count", shape.width / shape.heads),
    ] {
        metadata.set(key, value);
    }
    metadata.entries.retain(|(key, _)| {
        !key.starts_with("llama.attention.key_") && !key.starts_with("llama.attention.value_")
    });
    let tensors = tensors(shape, metadata.vocabulary);
    let mut head = b"GGUF\x03\0\0\0".to_vec();
    head.extend((tensors.len() as u64).to_le_bytes());
    head.extend((metadata.entries.len() as u64).to_le_bytes());
    for (key, value) in &metadata.entries {
        put_text(&mut head, key);
        head.extend(value);
    }
    let mut offset = 0;
    for tensor in &tensors {
        put_text(&mut head, &tensor.name);
        head.extend(u32::try_from(tensor.dimensions.len())?.to_le_bytes());
        tensor.dimensions.iter().for_each(|d| head.extend(d.to_le_bytes()));
        head.extend(tensor.kind.to_le_bytes());
        head.extend(offset_bytes(offset));
        offset = (offset + tensor.bytes()).next_multiple_of(ALIGNMENT);
    }
    head.resize(head.len().next_multiple_of(usize::try_from(ALIGNMENT)?), 0);
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    file.write_all(&head)?;
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut weights = 0;
    for tensor in &tensors {
        weights += tensor.dimensions.iter().product::<u64>();
        write_tensor(&mut file, tensor, &mut random)?;
    }
    file.flush()?;
    Ok(weights)
}

fn offset_bytes(offset: u64) -> [u8; 8] {
    offset.to_le_bytes()
}

fn tensors(shape: Shape, vocabulary: u64) -> Vec<Tensor> {
    let (width, ff) = (u64::from(shape.width), u64::from(shape.feed_forward));
    let kv = width / u64::from(shape.heads) * u64::from(shape.kv_heads);
    let tensor = |name: String, dimensions: &[u64]| Tensor {
        name,
        dimensions: dimensions.to_vec(),
        kind: if dimensions.len() == 1 { F32 } else { Q8_0 },
    };
    let mut all = vec![
        tensor("token_embd.weight".into(), &[width, vocabulary]),
        tensor("output_norm.weight".into(), &[width]),
    ];
    for layer in 0..shape.layers {
        for (name, dimensions) in [
            ("attn_norm", &[width][..]),
            ("attn_q", &[width, width]),
            ("attn_k", &[width, kv]),
            ("attn_v", &[width, kv]),
            ("attn_output", &[width, width]),
            ("ffn_norm", &[width]),
            ("ffn_gate", &[width, ff]),
            ("ffn_up", &[width, ff]),
            ("ffn_down", &[ff, width]),
        ] {
            all.push(tensor(format!("blk.{layer}.{name}.weight"), dimensions));
        }
    }
    all
}

fn write_tensor(
    file: &mut impl std::io::Write,
    tensor: &Tensor,
    random: &mut Random,
) -> Result<()> {
    let elements: u64 = tensor.dimensions.iter().product();
    if tensor.kind == F32 {
        for _ in 0..elements {
            file.write_all(&1.0_f32.to_le_bytes())?;
        }
    } else {
        // 0x1400 is 2^-10 in f16: weights of up to 0.12, so that nothing overflows.
        let mut block = [0; BLOCK_BYTES as usize];
        block[1] = 0x14;
        for _ in 0..elements / BLOCK {
            for eight in block[2..].chunks_exact_mut(8) {
                eight.copy_from_slice(&random.next().to_le_bytes());
            }
            file.write_all(&block)?;
        }
    }
    let pad = tensor.bytes().next_multiple_of(ALIGNMENT) - tensor.bytes();
    file.write_all(&[0; ALIGNMENT as usize][..usize::try_from(pad)?])?;
    Ok(())
}

/// xorshift64: the same weights every time.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// Key and value (type and bytes, as they stand in the file).
struct Metadata {
    entries: Vec<(String, Vec<u8>)>,
    vocabulary: u64,
}

impl Metadata {
    fn read(file: &[u8]) -> Result<Self> {
        let mut input = Reader { bytes: file, at: 16 };
        let count = input.u64()?;
        let mut all = Self { entries: Vec::new(), vocabulary: 0 };
        for _ in 0..count {
            let key = input.text()?;
            let start = input.at;
            let kind = input.u32()?;
            let length = input.skip_value(kind)?;
            if key == "tokenizer.ggml.tokens" {
                all.vocabulary = length;
            }
            all.entries.push((key, file[start..input.at].to_vec()));
        }
        Ok(all)
    }

    /// Sets an unsigned 32-bit number, if the key is there.
    fn set(&mut self, key: &str, value: u32) {
        for (_, bytes) in self.entries.iter_mut().filter(|(name, _)| name == key) {
            *bytes = 4_u32.to_le_bytes().into_iter().chain(value.to_le_bytes()).collect();
        }
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn take(&mut self, count: usize) -> Result<&[u8]> {
        let taken = self.bytes.get(self.at..self.at + count).context("the file ends early")?;
        self.at += count;
        Ok(taken)
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.take(4)?.try_into()?))
    }

    fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.take(8)?.try_into()?))
    }

    fn text(&mut self) -> Result<String> {
        let length = usize::try_from(self.u64()?)?;
        Ok(String::from_utf8_lossy(self.take(length)?).into_owned())
    }

    /// Skips a value; gives the length of an array.
    fn skip_value(&mut self, kind: u32) -> Result<u64> {
        let width = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            10..=12 => 8,
            8 => {
                self.text()?;
                return Ok(1);
            }
            9 => {
                let (kind, count) = (self.u32()?, self.u64()?);
                for _ in 0..count {
                    self.skip_value(kind)?;
                }
                return Ok(count);
            }
            other => bail!("a value of unknown kind {other}"),
        };
        self.take(width)?;
        Ok(1)
    }
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}
