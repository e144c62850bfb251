//! A loaded model at work: continuous batching of all running requests.
//!
//! Each decode step carries one token of every running answer and pieces of the prompts of
//! requests that came in meanwhile. Commands are taken between steps, and all replies of a step
//! (of several, if they are very short) are written at once.

use std::{
    collections::VecDeque,
    io,
    sync::mpsc::{Receiver, TryRecvError},
    time::{Duration, Instant},
};

use agent_api::runner::{
    Command, FinishReason, Generate, LoadModel, Reply, RunnerError, TextInput, Timings,
    TokenLogprob, Usage,
};
use llama_cpp_2::{
    context::LlamaContext, llama_backend::LlamaBackend, llama_batch::LlamaBatch, token::LlamaToken,
};

use crate::{
    embed::{Embedder, Job},
    failure::{bad_request, busy, engine, no_model},
    grammar,
    llama_log::LlamaErrors,
    model::{BATCH, Model, Pooling, milliseconds},
    pace::Pace,
    prompt,
    sampling::{self, Candidates, PENALTY_WINDOW, Picked, Picker},
    serve::Arrived,
    slots::{self, Running, Slot},
    text::{Answer, Released},
    wire::Wire,
};

/// Requests waiting for a slot, and as many for embeddings; one more is refused as busy. The node
/// has a queue of its own in front of this one.
const WAITING: usize = 256;
/// Stop strings per request; each is looked for at every token.
const MAX_STOPS: usize = 64;

/// Steps shorter than this share a flush, for so long in all. Waking the node costs more than
/// writing, and a small model makes a token in a tenth of the time a listener could notice.
const HOLD_REPLIES: Duration = Duration::from_millis(4);

/// Why a session ended.
#[derive(Debug)]
pub(crate) enum Next {
    Load(LoadModel),
    Unload,
    /// The input ended.
    Closed,
}

/// The model's context and everything that uses it.
#[derive(Debug)]
pub(crate) struct Session<'m> {
    model: &'m Model,
    backend: &'m LlamaBackend,
    errors: &'m LlamaErrors,
    context: LlamaContext<'m>,
    batch: LlamaBatch<'static>,
    slots: Vec<Slot>,
    /// Requests that have everything but a slot.
    waiting: VecDeque<Running>,
    admissions: u64,
    candidates: Candidates,
    pace: Pace,
    /// Bytes of one token; kept to save an allocation per token.
    piece: Vec<u8>,
    jobs: VecDeque<Job>,
    embedder: Option<Embedder<'m>>,
}

/// What a decode step carries.
#[derive(Debug)]
struct Filled {
    outputs: Vec<Output>,
    /// Slots that have tokens in the step.
    slots: Vec<usize>,
    prompt_tokens: usize,
}

/// A slot that gets an output from the current step.
#[derive(Clone, Copy, Debug)]
struct Output {
    slot: usize,
    /// Index in the batch.
    index: i32,
}

impl<'m> Session<'m> {
    /// The error is a sentence for the node.
    pub(crate) fn new(
        model: &'m Model,
        backend: &'m LlamaBackend,
        errors: &'m LlamaErrors,
    ) -> Result<Self, String> {
        Ok(Self {
            context: model.context(backend, errors)?,
            model,
            backend,
            errors,
            batch: LlamaBatch::new(BATCH as usize, 1),
            slots: (0..model.slots).map(|_| Slot::default()).collect(),
            waiting: VecDeque::new(),
            admissions: 0,
            candidates: Candidates::new(),
            pace: Pace::default(),
            piece: Vec::with_capacity(64),
            jobs: VecDeque::new(),
            embedder: None,
        })
    }

    /// Works until the model is replaced or freed, or the commands end.
    pub(crate) fn run(&mut self, inbox: &Receiver<Arrived>, wire: &mut Wire) -> io::Result<Next> {
        loop {
            if let Some(next) = self.take_commands(inbox, wire) {
                let why = match &next {
                    Next::Load(_) => "The model was replaced while the request was running.",
                    Next::Unload | Next::Closed => {
                        "The model was unloaded while the request was running."
                    }
                };
                self.fail_all(why, wire);
                wire.flush()?;
                return Ok(next);
            }
            self.admit();
            let started = Instant::now();
            self.step(wire);
            self.embed(wire);
            let brief = started.elapsed() < HOLD_REPLIES && !self.has_long_work();
            if !brief || wire.waited() >= HOLD_REPLIES {
                wire.flush()?;
            }
        }
    }

    fn is_idle(&self) -> bool {
        self.waiting.is_empty()
            && self.jobs.is_empty()
            && self.slots.iter().all(|slot| slot.running.is_none())
    }

    /// Whether the next step may take longer than one for running answers alone.
    fn has_long_work(&self) -> bool {
        !self.jobs.is_empty()
            || !self.waiting.is_empty()
            || self.slots.iter().any(|slot| !slot.prompt_left().is_empty())
    }

    /// Takes all commands that have come; waits for one when there is nothing to do.
    fn take_commands(&mut self, inbox: &Receiver<Arrived>, wire: &mut Wire) -> Option<Next> {
        loop {
            let arrived = if self.is_idle() {
                // Replies must not wait for the next command.
                if wire.flush().is_err() {
                    return Some(Next::Closed);
                }
                match inbox.recv() {
                    Ok(arrived) => arrived,
                    Err(_) => return Some(Next::Closed),
                }
            } else {
                match inbox.try_recv() {
                    Ok(arrived) => arrived,
                    Err(TryRecvError::Empty) => return None,
                    Err(TryRecvError::Disconnected) => return Some(Next::Closed),
                }
            };
            match arrived.command {
                Command::Load(request) => return Some(Next::Load(request)),
                Command::Unload => return Some(Next::Unload),
                Command::Cancel { id } => self.cancel(id, wire),
                Command::Generate { id, request } => {
                    if let Err(error) = self.enqueue(id, *request, arrived.at) {
                        wire.send(&Reply::Failed { id, error });
                    }
                }
                Command::Embed { id, inputs } => {
                    if let Err(error) = self.enqueue_embed(id, &inputs, arrived.at) {
                        wire.send(&Reply::Failed { id, error });
                    }
                }
            }
        }
    }

    fn enqueue(&mut self, id: u64, request: Generate, arrived: Instant) -> Result<(), RunnerError> {
        if self.waiting.len() >= WAITING {
            return Err(busy(self.waiting.len()));
        }
        let model = self.model;
        if !model.causal {
            return Err(bad_request(
                "This model makes embeddings and cannot generate text. Choose another model.",
            ));
        }
        if request.stop.len() > MAX_STOPS {
            return Err(bad_request(format!(
                "More than {MAX_STOPS} stop strings are not allowed."
            )));
        }
        let logprobs = match request.logprobs {
            Some(count) if count > sampling::MAX_ALTERNATIVES => {
                return Err(bad_request(format!(
                    "{count} alternatives per token were asked for; at most {} are given.",
                    sampling::MAX_ALTERNATIVES
                )));
            }
            other => other.map(|count| count as usize),
        };
        let mut prompt = prompt::tokens(model, &request.prompt)?;
        let (begun, constrained) = (&request.continue_from, request.constraint.is_some());
        let begun = prompt::append_begun(model, &request.prompt, &mut prompt, begun, constrained)?;
        let mut grammar = match &request.constraint {
            Some(constraint) => Some(grammar::sampler(constraint, &model.llama, self.errors)?),
            None => None,
        };
        if let Some(grammar) = &mut grammar {
            grammar::advance(grammar, &model.llama, &prompt[prompt.len() - begun..])?;
        }
        let seen = &prompt[prompt.len().saturating_sub(PENALTY_WINDOW)..];
        let (vocabulary, end) = (model.llama.n_vocab(), model.end);
        let picker =
            Picker::new(&request.sampling, vocabulary, grammar, end, seen).map_err(bad_request)?;
        self.waiting.push_back(Running {
            id,
            usage: Usage { prompt_tokens: (prompt.len() - begun) as u32, ..Usage::default() },
            prompt,
            next: None,
            picker,
            answer: Answer::new(request.stop),
            logprobs,
            max_tokens: request.max_tokens.map(|max| max.saturating_sub(begun as u32)),
            render_control: request.constraint.is_some(),
            arrived,
            admitted: arrived,
            prompted: None,
        });
        Ok(())
    }

    fn enqueue_embed(
        &mut self,
        id: u64,
        inputs: &[TextInput],
        arrived: Instant,
    ) -> Result<(), RunnerError> {
        if self.jobs.len() >= WAITING {
            return Err(busy(self.jobs.len()));
        }
        if self.model.pooling == Pooling::Rank {
            return Err(bad_request(
                "This model ranks texts and makes no embeddings. Choose another model.",
            ));
        }
        let inputs = inputs
            .iter()
            .map(|input| prompt::embedding_tokens(self.model, input))
            .collect::<Result<VecDeque<_>, _>>()?;
        let prompt_tokens = inputs.iter().map(|tokens| tokens.len() as u32).sum();
        self.jobs.push_back(Job { id, inputs, vectors: Vec::new(), prompt_tokens, arrived });
        Ok(())
    }

    fn cancel(&mut self, id: u64, wire: &mut Wire) {
        let running = self.slots.iter_mut().find_map(|slot| slot.running.take_if(|r| r.id == id));
        let running = running.or_else(|| {
            let at = self.waiting.iter().position(|waiting| waiting.id == id)?;
            self.waiting.remove(at).map(|waiting| Running { admitted: Instant::now(), ..waiting })
        });
        if let Some(running) = running {
            finish(running, FinishReason::Cancelled, wire);
        } else if let Some(at) = self.jobs.iter().position(|job| job.id == id)
            && let Some(job) = self.jobs.remove(at)
        {
            if let Some(embedder) = self.embedder.as_mut().filter(|_| at == 0) {
                embedder.abandon();
            }
            wire.send(&job.cancelled());
        }
    }

    fn fail_all(&mut self, why: &str, wire: &mut Wire) {
        let running = self.slots.iter_mut().filter_map(|slot| slot.running.take());
        let ids = running.chain(self.waiting.drain(..)).map(|running| running.id);
        for id in ids.chain(self.jobs.drain(..).map(|job| job.id)) {
            let error = no_model(format!("{why} Send it again."));
            wire.send(&Reply::Failed { id, error });
        }
    }

    /// Gives free slots to waiting requests, in the order they came.
    fn admit(&mut self) {
        while let Some(waiting) = self.waiting.front()
            && let Some(index) = slots::choose(&self.slots, &waiting.prompt)
            && let Some(mut running) = self.waiting.pop_front()
        {
            let slot = &mut self.slots[index];
            let kept = keep_prefix(&mut self.context, index, slot, &running.prompt);
            running.usage.cached_tokens = (kept as u32).min(running.usage.prompt_tokens);
            running.admitted = Instant::now();
            self.admissions += 1;
            slot.admission = self.admissions;
            slot.running = Some(running);
        }
    }

    /// One decode step for everything that runs.
    fn step(&mut self, wire: &mut Wire) {
        let filled = self.fill_batch();
        if self.batch.n_tokens() == 0 {
            return;
        }
        let started = Instant::now();
        if let Err(error) = self.context.decode(&mut self.batch) {
            self.fail_step(&filled.slots, &format!("llama.cpp could not continue: {error}."), wire);
            return;
        }
        for output in filled.outputs {
            self.take_output(output, wire);
        }
        if filled.prompt_tokens > 0 {
            self.pace.observe(filled.prompt_tokens, started.elapsed());
        }
    }

    /// Puts the next token of every answer into the batch, then pieces of prompts, oldest first.
    fn fill_batch(&mut self) -> Filled {
        self.batch.clear();
        let mut outputs = Vec::with_capacity(self.slots.len());
        for (index, slot) in self.slots.iter_mut().enumerate() {
            if let Some(token) = slot.running.as_mut().and_then(|running| running.next.take()) {
                outputs.push(Output { slot: index, index: self.batch.n_tokens() });
                add(&mut self.batch, index, slot.cached.len(), token, true);
                slot.cached.push(token);
            }
        }
        let mut slots: Vec<usize> = outputs.iter().map(|output| output.slot).collect();
        let mut room = BATCH as usize - outputs.len();
        if !outputs.is_empty() {
            room = room.min(self.pace.shared_step());
        }
        let before = room;
        let mut prompts: Vec<usize> =
            (0..self.slots.len()).filter(|&i| !self.slots[i].prompt_left().is_empty()).collect();
        prompts.sort_by_key(|&index| self.slots[index].admission);
        for index in prompts {
            if room == 0 {
                break;
            }
            let slot = &mut self.slots[index];
            let left = slot.prompt_left();
            let whole = left.len() <= room;
            let piece = left[..left.len().min(room)].to_vec();
            for (at, &token) in piece.iter().enumerate() {
                let last = whole && at + 1 == piece.len();
                add(&mut self.batch, index, slot.cached.len() + at, token, last);
            }
            room -= piece.len();
            slot.cached.extend(piece);
            slots.push(index);
            if whole {
                outputs.push(Output { slot: index, index: self.batch.n_tokens() - 1 });
            }
        }
        Filled { outputs, slots, prompt_tokens: before - room }
    }

    /// A step failed: every request in it fails, and what their sequences hold is unknown.
    fn fail_step(&mut self, slots: &[usize], why: &str, wire: &mut Wire) {
        for &index in slots {
            let slot = &mut self.slots[index];
            if let Some(running) = slot.running.take() {
                wire.send(&Reply::Failed { id: running.id, error: engine(why) });
            }
            clear(&mut self.context, index, slot);
        }
    }

    /// Picks a slot's next token and sends what it adds.
    fn take_output(&mut self, output: Output, wire: &mut Wire) {
        let slot = &mut self.slots[output.slot];
        let Some(mut running) = slot.running.take() else { return };
        if running.prompted.is_none() {
            running.prompted = Some(Instant::now());
            let Usage { prompt_tokens, cached_tokens, .. } = running.usage;
            wire.send(&Reply::Started { id: running.id, prompt_tokens, cached_tokens });
        }
        if running.max_tokens == Some(0) {
            return finish(running, FinishReason::Length, wire);
        }
        let picked = running.picker.pick(&self.context, output.index, &mut self.candidates);
        let token = match picked {
            Ok(Picked::Token(token)) if !self.model.llama.vocab().is_eog(token) => token,
            Ok(Picked::Token(_) | Picked::Complete) => {
                return finish(running, FinishReason::Stop, wire);
            }
            Err(why) => return fail(running, bad_request(why), wire),
        };
        if self.add_text(&mut running, token, output.index, wire) {
            return finish(running, FinishReason::Stop, wire);
        }
        let usage = &running.usage;
        let full = running.prompt.len() as u32 + usage.completion_tokens >= self.model.context;
        if full || running.max_tokens.is_some_and(|max| usage.completion_tokens >= max) {
            return finish(running, FinishReason::Length, wire);
        }
        running.next = Some(token);
        self.slots[output.slot].running = Some(running);
    }

    /// Adds a token to an answer; says whether a stop string is complete.
    fn add_text(
        &mut self,
        running: &mut Running,
        token: LlamaToken,
        index: i32,
        wire: &mut Wire,
    ) -> bool {
        running.usage.completion_tokens += 1;
        let (model, control) = (self.model, running.render_control);
        let note = running.logprobs.map(|count| {
            sampling::log_probability(self.context.get_logits_ith(index), token, count, |token| {
                let mut bytes = Vec::new();
                model.append_piece(token, true, &mut bytes);
                bytes
            })
        });
        self.piece.clear();
        model.append_piece(token, control, &mut self.piece);
        let released = running.answer.push(&self.piece, note);
        let stopped = released.stopped;
        send_text(running.id, released, wire);
        stopped
    }

    /// One batch of the oldest job for embeddings.
    fn embed(&mut self, wire: &mut Wire) {
        let Some(job) = self.jobs.front_mut() else { return };
        if self.embedder.is_none() {
            match Embedder::new(self.model, self.backend, self.errors) {
                Ok(embedder) => self.embedder = Some(embedder),
                Err(why) => {
                    wire.send(&Reply::Failed { id: job.id, error: engine(why) });
                    self.jobs.pop_front();
                    return;
                }
            }
        }
        let Some(embedder) = &mut self.embedder else { return };
        let reply = match embedder.step(job) {
            Ok(()) if !job.inputs.is_empty() => return,
            Ok(()) => Reply::Embedded {
                id: job.id,
                vectors: std::mem::take(&mut job.vectors),
                prompt_tokens: job.prompt_tokens,
            },
            Err(why) => Reply::Failed { id: job.id, error: engine(why) },
        };
        wire.send(&reply);
        self.jobs.pop_front();
    }
}

fn add(batch: &mut LlamaBatch<'_>, slot: usize, at: usize, token: LlamaToken, output: bool) {
    let (slot, at) = (slot as i32, at as i32);
    batch.add(token, at, &[slot], output).expect("the batch is filled up to its size only");
}

/// Removes from a slot's cache what a prompt cannot use; returns how much stays.
fn keep_prefix(
    context: &mut LlamaContext<'_>,
    index: usize,
    slot: &mut Slot,
    prompt: &[LlamaToken],
) -> usize {
    let kept = slots::reusable(&slot.cached, prompt);
    if kept == slot.cached.len() {
        return kept;
    }
    let sequence = index as i32;
    // With a sliding window the beginning may be gone; what was near the end then cannot be
    // continued from an earlier place. Recurrent models refuse to remove a part at all.
    let whole = context.kv_cache_seq_pos_min(sequence) <= 0;
    let removed =
        kept > 0 && whole && context.kv_cache_seq_rm(sequence, Some(kept as u32), None).is_ok();
    if removed {
        slot.cached.truncate(kept);
    } else {
        clear(context, index, slot);
    }
    slot.cached.len()
}

fn clear(context: &mut LlamaContext<'_>, index: usize, slot: &mut Slot) {
    if let Err(error) = context.kv_cache_seq_rm(index as i32, None, None) {
        tracing::error!("sequence {index} cannot be cleared: {error}");
    }
    slot.cached.clear();
}

fn send_text(id: u64, released: Released<TokenLogprob>, wire: &mut Wire) {
    let Released { text, notes, .. } = released;
    if !text.is_empty() {
        wire.send(&Reply::Text { id, text, logprobs: notes });
    }
}

/// Ends a request; its slot keeps what it has in the cache.
fn finish(mut running: Running, finish: FinishReason, wire: &mut Wire) {
    let rest = running.answer.finish();
    send_text(running.id, rest, wire);
    let timings = timings(&running);
    wire.send(&Reply::Done { id: running.id, finish, usage: running.usage, timings });
}

fn fail(running: Running, error: RunnerError, wire: &mut Wire) {
    wire.send(&Reply::Failed { id: running.id, error });
}

fn timings(running: &Running) -> Timings {
    let between = |from: Instant, to: Instant| to.duration_since(from).as_secs_f64() * 1e3;
    let queue_ms = between(running.arrived, running.admitted);
    match running.prompted {
        Some(prompted) => Timings {
            queue_ms,
            prompt_ms: between(running.admitted, prompted),
            generate_ms: milliseconds(prompted),
        },
        None => Timings { queue_ms, prompt_ms: milliseconds(running.admitted), generate_ms: 0.0 },
    }
}
