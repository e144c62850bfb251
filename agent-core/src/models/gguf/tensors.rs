//! What the tensor list says: sizes by place and by type.

use std::{collections::BTreeMap, io::Read};

use super::{
    GgufError,
    head::{Head, MAX_LAYERS},
    types,
};

const MAX_DIMENSIONS: u32 = 4;

#[derive(Default)]
pub(super) struct Tensors {
    /// End of the furthest tensor, relative to the start of the data.
    pub(super) end: u64,
    pub(super) elements: u64,
    pub(super) bytes: u64,
    /// Bytes per tensor type, to name the quantization when the metadata does not.
    by_type: BTreeMap<u32, u64>,
    pub(super) embedding: u64,
    embedding_repacked: bool,
    pub(super) output: u64,
    /// The first dimension of the embedding matrix is the width, the second this.
    pub(super) embedding_rows: Option<u64>,
    pub(super) layers: Vec<u64>,
    /// Of tensors that hold all experts of a layer.
    pub(super) experts: u64,
    /// Of weights in layers and of the output matrix that llama.cpp rearranges.
    pub(super) repacked: u64,
}

impl Tensors {
    pub(super) fn read_one<R: Read>(&mut self, head: &mut Head<R>) -> Result<(), GgufError> {
        let absurd = || GgufError::Damaged("a tensor has an absurd size");
        let name = head.name()?;
        let n_dimensions = head.u32()?;
        if n_dimensions > MAX_DIMENSIONS {
            return Err(GgufError::Damaged("a tensor has more than 4 dimensions"));
        }
        let mut elements = 1_u64;
        let mut rows = None;
        for index in 0..n_dimensions {
            let length = head.u64()?;
            elements = elements.checked_mul(length).ok_or_else(absurd)?;
            rows = if index == 1 { Some(length) } else { rows };
        }
        let kind = head.u32()?;
        let offset = head.u64()?;
        let (block, block_bytes) =
            types::block_size(kind).ok_or(GgufError::Damaged("a tensor has an unknown type"))?;
        let bytes = (elements / block).checked_mul(block_bytes).ok_or_else(absurd)?;
        let end = offset.checked_add(bytes).ok_or_else(absurd)?;
        self.end = self.end.max(end);
        self.elements = self.elements.saturating_add(elements);
        self.bytes = self.bytes.saturating_add(bytes);
        let of_type = self.by_type.entry(kind).or_default();
        *of_type = of_type.saturating_add(bytes);
        self.place(&name, kind, bytes, rows);
        Ok(())
    }

    fn place(&mut self, name: &str, kind: u32, bytes: u64, rows: Option<u64>) {
        let repacked = rows.is_some() && types::is_repacked(kind);
        if name == "token_embd.weight" {
            self.embedding = bytes;
            self.embedding_rows = rows;
            self.embedding_repacked = repacked;
            return;
        }
        if name == "output.weight" {
            self.output = bytes;
        }
        if repacked {
            self.repacked = self.repacked.saturating_add(bytes);
        }
        if name.contains("_exps.") {
            self.experts = self.experts.saturating_add(bytes);
        }
        let layer = name.strip_prefix("blk.").and_then(|rest| rest.split('.').next());
        if let Some(layer) = layer.and_then(|n| n.parse::<usize>().ok()).filter(|&n| n < MAX_LAYERS)
        {
            if self.layers.len() <= layer {
                self.layers.resize(layer + 1, 0);
            }
            self.layers[layer] = self.layers[layer].saturating_add(bytes);
        }
    }

    /// What can be said when the list was cut: which matrices there are, not how many weights.
    pub(super) fn of_cut_list(self, bytes: u64) -> Self {
        Self {
            bytes,
            embedding: self.embedding,
            embedding_rows: self.embedding_rows,
            by_type: self.by_type,
            ..Self::default()
        }
    }

    /// Bytes of the second copy that llama.cpp makes of an embedding matrix which is also the
    /// output matrix: rows are looked up in the one and the rearranged other is multiplied.
    pub(super) fn tied_copy(&self) -> u64 {
        if self.output == 0 && self.embedding_repacked { self.embedding } else { 0 }
    }

    pub(super) fn main_type(&self) -> Option<u32> {
        self.by_type.iter().max_by_key(|(_, bytes)| **bytes).map(|(kind, _)| *kind)
    }
}
