//! Models of any shape, for benchmarks and memory tests: the demo model's tokenizer and metadata
//! around tensors of another size. The weights are random, or zero and take no disk.
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
    /// Width of a head; absent: `width / heads`.
    pub head: Option<u32>,
    /// Tokens; the demo model's if that has more.
    pub vocabulary: u32,
    /// Merge rules; the demo model's if that has more.
    pub merges: u32,
    pub weights: Weights,
    /// Of the matrices that lead out of the layers, where they are of another type than the file
    /// says.
    pub down: Option<Weights>,
    /// An output matrix of its own, and not the embedding matrix again.
    pub output: bool,
}

impl Shape {
    /// Everything but the numbers that every shape has its own of.
    pub const LLAMA: Self = Self {
        layers: 0,
        width: 0,
        feed_forward: 0,
        heads: 0,
        kv_heads: 0,
        context: 0,
        head: None,
        vocabulary: 0,
        merges: 0,
        weights: Weights::Q8_0,
        down: None,
        output: false,
    };

    fn head(&self) -> u32 {
        self.head.unwrap_or(self.width / self.heads)
    }
}

/// How the numbers of matrices are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weights {
    F32,
    F16,
    Q8_0,
    Q4_0,
    Q4K,
}

impl Weights {
    /// ggml's number of the type, elements and bytes of a block, and `llama_ftype`.
    const fn format(self) -> (u32, u64, u64, u32) {
        match self {
            Self::F32 => (0, 1, 4, 0),
            Self::F16 => (1, 1, 2, 1),
            Self::Q8_0 => (8, 32, 34, 7),
            Self::Q4_0 => (2, 32, 18, 2),
            Self::Q4K => (12, 256, 144, 14),
        }
    }
}

const ALIGNMENT: u64 = 32;

struct Tensor {
    name: String,
    dimensions: Vec<u64>,
    weights: Weights,
}

impl Tensor {
    fn bytes(&self) -> u64 {
        let (_, block, block_bytes, _) = self.weights.format();
        self.dimensions.iter().product::<u64>() / block * block_bytes
    }

    fn padded(&self) -> u64 {
        self.bytes().next_multiple_of(ALIGNMENT)
    }
}

/// Writes a model with random weights in Q8_0; gives their number.
pub fn write_random_model(path: &Path, shape: Shape) -> Result<u64> {
    let (head, tensors) = head(shape)?;
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    file.write_all(&head)?;
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for tensor in &tensors {
        write_tensor(&mut file, tensor, &mut random)?;
    }
    file.flush()?;
    Ok(tensors.iter().map(|tensor| tensor.dimensions.iter().product::<u64>()).sum())
}

/// Writes a model whose weights are all zero: a file with a hole, which takes no disk whatever
/// its size.
pub fn write_zero_model(path: &Path, shape: Shape) -> Result<()> {
    let (head, tensors) = head(shape)?;
    let mut file = File::create(path)?;
    file.write_all(&head)?;
    file.set_len(head.len() as u64 + tensors.iter().map(Tensor::padded).sum::<u64>())?;
    Ok(())
}

fn head(shape: Shape) -> Result<(Vec<u8>, Vec<Tensor>)> {
    let demo = std::fs::read(demo_model()).context("the demo model")?;
    let mut metadata = Metadata::read(&demo)?;
    for (key, value) in [
        ("general.file_type", shape.weights.format().3),
        ("llama.block_count", shape.layers),
        ("llama.embedding_length", shape.width),
        ("llama.feed_forward_length", shape.feed_forward),
        ("llama.attention.head_count", shape.heads),
        ("llama.attention.head_count_kv", shape.kv_heads),
        ("llama.attention.key_length", shape.head()),
        ("llama.attention.value_length", shape.head()),
        ("llama.context_length", shape.context),
        ("llama.rope.dimension_count", shape.head()),
    ] {
        metadata.set(key, value);
    }
    metadata.lengthen_tokenizer(shape.vocabulary, shape.merges)?;
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
        head.extend(tensor.weights.format().0.to_le_bytes());
        head.extend(offset_bytes(offset));
        offset += tensor.padded();
    }
    head.resize(head.len().next_multiple_of(usize::try_from(ALIGNMENT)?), 0);
    Ok((head, tensors))
}

fn offset_bytes(offset: u64) -> [u8; 8] {
    offset.to_le_bytes()
}

fn tensors(shape: Shape, vocabulary: u64) -> Vec<Tensor> {
    let (width, ff) = (u64::from(shape.width), u64::from(shape.feed_forward));
    let query = u64::from(shape.head() * shape.heads);
    let kv = u64::from(shape.head() * shape.kv_heads);
    let tensor = |name: String, dimensions: &[u64], weights: Weights| Tensor {
        name,
        dimensions: dimensions.to_vec(),
        weights: if dimensions.len() == 1 { Weights::F32 } else { weights },
    };
    let mut all = vec![
        tensor("token_embd.weight".into(), &[width, vocabulary], shape.weights),
        tensor("output_norm.weight".into(), &[width], Weights::F32),
    ];
    if shape.output {
        all.push(tensor("output.weight".into(), &[width, vocabulary], shape.weights));
    }
    for layer in 0..shape.layers {
        for (name, dimensions) in [
            ("attn_norm", &[width][..]),
            ("attn_q", &[width, query]),
            ("attn_k", &[width, kv]),
            ("attn_v", &[width, kv]),
            ("attn_output", &[query, width]),
            ("ffn_norm", &[width]),
            ("ffn_gate", &[width, ff]),
            ("ffn_up", &[width, ff]),
            ("ffn_down", &[ff, width]),
        ] {
            let down = shape.down.filter(|_| name == "ffn_down");
            let name = format!("blk.{layer}.{name}.weight");
            all.push(tensor(name, dimensions, down.unwrap_or(shape.weights)));
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
    match tensor.weights {
        Weights::F32 => {
            for _ in 0..elements {
                file.write_all(&1.0_f32.to_le_bytes())?;
            }
        }
        Weights::Q8_0 => {
            let (_, block_elements, _, _) = Weights::Q8_0.format();
            // A scale and 32 signed bytes. 0x1400 is 2^-10 in f16: weights of up to 0.12, so
            // that nothing overflows.
            let mut block = [0; 34];
            block[1] = 0x14;
            for _ in 0..elements / block_elements {
                for eight in block[2..].chunks_exact_mut(8) {
                    eight.copy_from_slice(&random.next().to_le_bytes());
                }
                file.write_all(&block)?;
            }
        }
        other => bail!("random weights are written in Q8_0 only, not {other:?}"),
    }
    let pad = tensor.padded() - tensor.bytes();
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

    /// Sets an unsigned 32-bit number.
    fn set(&mut self, key: &str, value: u32) {
        let bytes = 4_u32.to_le_bytes().into_iter().chain(value.to_le_bytes()).collect();
        match self.entries.iter_mut().find(|(name, _)| name == key) {
            Some((_, old)) => *old = bytes,
            None => self.entries.push((key.to_owned(), bytes)),
        }
    }

    /// Makes the tokenizer as large as that of other models; the new tokens occur in no text.
    fn lengthen_tokenizer(&mut self, tokens: u32, merges: u32) -> Result<()> {
        const NORMAL: i32 = 1;
        let before = self.vocabulary;
        self.lengthen("tokenizer.ggml.tokens", tokens.into(), |n, out| {
            put_text(out, &format!("w{n}x"));
        })?;
        self.vocabulary = before.max(tokens.into());
        self.lengthen("tokenizer.ggml.token_type", tokens.into(), |_, out| {
            out.extend(NORMAL.to_le_bytes());
        })?;
        self.lengthen("tokenizer.ggml.merges", merges.into(), |n, out| {
            put_text(out, &format!("w{n} x{}", n % 977));
        })?;
        self.set("llama.vocab_size", u32::try_from(self.vocabulary)?);
        Ok(())
    }

    /// Adds elements to an array until it has `length`.
    fn lengthen(
        &mut self,
        key: &str,
        length: u64,
        element: impl Fn(u64, &mut Vec<u8>),
    ) -> Result<()> {
        let found = self.entries.iter_mut().find(|(name, _)| name == key);
        let (_, bytes) = found.with_context(|| format!("the demo model has no {key}"))?;
        let count = bytes.get(8..16).context("an array")?;
        let count = u64::from_le_bytes(count.try_into()?);
        (count..length).for_each(|n| element(n, bytes));
        bytes[8..16].copy_from_slice(&count.max(length).to_le_bytes());
        Ok(())
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
