//! Loads a model file and says what it is.

use std::{fs::File, io::Read, num::NonZeroU32, path::Path, thread, time::Instant};

use agent_api::runner::{LoadModel, Loaded, reads_weights};
use llama_cpp_2::{
    context::{LlamaContext, params::LlamaContextParams},
    gguf::GgufContext,
    llama_backend::LlamaBackend,
    model::{LlamaModel, params::LlamaModelParams},
    token::LlamaToken,
};

use crate::{engine, llama_log::LlamaErrors, template::Template};

/// Most sequences decoded together; llama.cpp's own limit is 256.
const MAX_SLOTS: u32 = 64;
/// Tokens one decode step may carry.
pub(crate) const BATCH: u32 = 2048;
/// Tokens llama.cpp computes at once within a step: its own default, a good size for CPU caches.
const MICRO_BATCH: u32 = 512;

/// Number of gguf's type "unsigned, 32 bits" (`gguf_type` in ggml's `gguf.h`).
const GGUF_TYPE_UINT32: u32 = 4;

/// How the vectors of an input's tokens become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pooling {
    Mean,
    First,
    Last,
    /// The model scores pairs of texts and makes no vectors.
    Rank,
}

/// A model in memory and what the runner needs to know about it.
#[derive(Debug)]
pub(crate) struct Model {
    pub(crate) llama: LlamaModel,
    /// `Err`: the file has a template, and this is why it cannot be used.
    pub(crate) template: Option<Result<Template, String>>,
    pub(crate) bos: String,
    /// A token that ends generation.
    pub(crate) end: Option<LlamaToken>,
    /// Tokens per sequence.
    pub(crate) context: u32,
    pub(crate) slots: u32,
    pub(crate) threads: i32,
    /// Whether tokens see only what is before them. Without that a model makes embeddings only.
    pub(crate) causal: bool,
    pub(crate) pooling: Pooling,
    description: Loaded,
}

impl Model {
    /// The error is a sentence for the node.
    pub(crate) fn load(
        backend: &LlamaBackend,
        request: &LoadModel,
        errors: &LlamaErrors,
    ) -> Result<Self, String> {
        let started = Instant::now();
        if request.context == 0 {
            return Err("The model cannot be loaded with a context of 0 tokens.".into());
        }
        check_file(Path::new(&request.path))?;
        errors.clear();
        let gpu_layers = if engine::devices().is_empty() { 0 } else { request.gpu_layers };
        let mapped = gpu_layers > 0 || !reads_weights(file_type(Path::new(&request.path)));
        let parameters =
            LlamaModelParams::default().with_n_gpu_layers(gpu_layers).with_use_mmap(mapped);
        let llama =
            LlamaModel::load_from_file(backend, &request.path, &parameters).map_err(|error| {
                let why = errors.first().unwrap_or_else(|| error.to_string());
                format!("llama.cpp cannot load the model file {}: {why}", request.path)
            })?;
        let model = Self::describe(llama, request, gpu_layers);
        if model.description.architecture.starts_with("t5") {
            return Err("Encoder-decoder models (T5) are not supported.".into());
        }
        let description = Loaded { load_ms: milliseconds(started), ..model.description };
        Ok(Self { description, ..model })
    }

    fn describe(llama: LlamaModel, request: &LoadModel, gpu_layers: u32) -> Self {
        let text = |key: &str| llama.meta_val_str(key).ok();
        let architecture = text("general.architecture").unwrap_or_default();
        let file = Path::new(&request.path).file_stem().unwrap_or_default().to_string_lossy();
        let causal = text(&format!("{architecture}.attention.causal")).as_deref() != Some("false");
        let pooling = match text(&format!("{architecture}.pooling_type")).as_deref() {
            Some("2") => Pooling::First,
            Some("3") => Pooling::Last,
            Some("4") => Pooling::Rank,
            _ => Pooling::Mean,
        };
        let vocab = llama.vocab();
        let bos = token_text(&llama, vocab.bos());
        let eos = token_text(&llama, vocab.eos());
        let end = vocab.tokens().find(|&token| vocab.is_eog(token));
        let source = llama.chat_template(None).ok().and_then(|t| t.to_string().ok());
        let template = source.as_deref().map(|source| Template::compile(source, &bos, &eos));
        let context_train = llama.n_ctx_train();
        let slots = request.slots.clamp(1, MAX_SLOTS);
        let description = Loaded {
            name: text("general.name").unwrap_or_else(|| file.into_owned()),
            architecture,
            parameters: llama.n_params(),
            size_bytes: llama.size(),
            context: request.context.min(context_train),
            context_train,
            slots,
            embedding_width: u32::try_from(llama.n_embd_out()).unwrap_or_default(),
            load_ms: 0.0,
            // The output matrix counts as one more layer.
            gpu_layers: gpu_layers.min(llama.n_layer() + 1),
            chat_template: source,
            bos: bos.clone(),
            eos,
        };
        let (context, threads) =
            (description.context, threads(request.threads, description.parameters));
        Self { llama, template, bos, end, context, slots, threads, causal, pooling, description }
    }

    pub(crate) fn describe_loaded(&self, also_ms: f64) -> Loaded {
        let description = self.description.clone();
        Loaded { load_ms: description.load_ms + also_ms, ..description }
    }

    /// The context in which answers are generated: the slots share the work and nothing else.
    pub(crate) fn context<'m>(
        &'m self,
        backend: &LlamaBackend,
        errors: &LlamaErrors,
    ) -> Result<LlamaContext<'m>, String> {
        let (context, slots) = (self.context, self.slots);
        let parameters = LlamaContextParams::default()
            .with_n_ctx(NonZeroU32::new(context.saturating_mul(slots)))
            .with_n_seq_max(slots)
            .with_n_batch(BATCH)
            .with_n_ubatch(MICRO_BATCH)
            .with_n_threads(self.threads)
            .with_n_threads_batch(self.threads);
        errors.clear();
        self.llama.new_context(backend, parameters).map_err(|_| {
            let why = errors.first().unwrap_or_else(|| "there is not enough memory".into());
            format!(
                "llama.cpp cannot make room for {slots} sequences of {context} tokens: {why}. \
                 Load the model with fewer slots or a smaller context."
            )
        })
    }

    /// The bytes a token stands for; with `control`, also those of control tokens.
    pub(crate) fn append_piece(&self, token: LlamaToken, control: bool, bytes: &mut Vec<u8>) {
        self.llama.vocab().token_to_piece_into(token, bytes, control, None);
    }
}

pub(crate) fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

fn token_text(llama: &LlamaModel, token: LlamaToken) -> String {
    // A model without such a token says -1.
    if token.0 < 0 {
        return String::new();
    }
    String::from_utf8_lossy(&llama.vocab().token_to_piece(token, true, None)).into_owned()
}

/// Refuses early what is certainly no model, with a better reason than llama.cpp has.
fn check_file(path: &Path) -> Result<(), String> {
    let shown = path.display();
    let mut magic = [0; 4];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut magic));
    match read {
        Ok(()) if &magic == b"GGUF" => Ok(()),
        Ok(()) => Err(format!("{shown} is not a model file: it does not begin with \"GGUF\".")),
        Err(error) => Err(format!("The model file {shown} cannot be read: {error}.")),
    }
}

/// `general.file_type` of the file: what most of its weights are quantized to.
fn file_type(path: &Path) -> Option<u32> {
    let head = GgufContext::from_file(path)?;
    let index = head.find_key("general.file_type");
    // Asking for a number that is not one would end the process.
    let is_number = index >= 0 && head.kv_type(index) == GGUF_TYPE_UINT32;
    is_number.then(|| head.val_u32(index))
}

/// Below this many weights one thread is the fastest: a step takes a fraction of a millisecond, and
/// several threads spend it waiting for each other. On a busy machine they lose a whole time slice
/// at every barrier (seen here with the 4 M demo model: 10 tokens/s instead of 2,000).
const SINGLE_THREAD_PARAMETERS: u64 = 50_000_000;

/// As many threads as asked for, or one per physical core: a second one per core only gets in
/// the way of the first.
fn threads(asked: Option<u32>, parameters: u64) -> i32 {
    let usable = thread::available_parallelism().map_or(1, usize::from);
    let count = match asked {
        Some(asked) => usize::try_from(asked).unwrap_or(usable).clamp(1, usable.max(1) * 4),
        None if parameters < SINGLE_THREAD_PARAMETERS => 1,
        None => sysinfo::System::physical_core_count().unwrap_or(usable).clamp(1, usable),
    };
    i32::try_from(count).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_model_is_refused_with_a_reason() {
        let folder = tempfile::tempdir().expect("makes a folder");
        let refused = |path: &Path| check_file(path).expect_err("is refused");
        assert!(refused(&folder.path().join("none.gguf")).contains("cannot be read"));
        assert!(refused(folder.path()).contains("cannot be read"));
        let text = folder.path().join("text.gguf");
        std::fs::write(&text, "not a model").expect("writes");
        assert!(refused(&text).contains("does not begin with"));
    }

    #[test]
    fn threads_are_bounded_by_the_machine() {
        assert_eq!(threads(Some(1), u64::MAX), 1);
        assert!(threads(None, u64::MAX) >= 1);
        assert!(threads(Some(u32::MAX), 1) <= 4_096 * 4);
    }

    #[test]
    fn a_tiny_model_gets_one_thread_unless_asked() {
        assert_eq!(threads(None, 4_000_000), 1);
        assert_eq!(threads(Some(2), 4_000_000), 2);
    }
}
