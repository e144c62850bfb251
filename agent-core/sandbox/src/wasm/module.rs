//! A module ready to be called, whichever of the three forms of the contract it has.

use agent_api::sandbox::MAX_OUTPUT_BYTES;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use sha2::{Digest as _, Sha256};
use wasmtime::{
    Engine, Error, InstancePre, Linker, Module, Store,
    component::{Component, Linker as ComponentLinker},
};
use wasmtime_wasi::p2::bindings::CommandPre;

use super::state::State;

/// Where preview 1 lives.
const PREVIEW_1: &str = "wasi_snapshot_preview1";

/// Packages of preview 2 that a command may import. Files and sockets are there, but empty and
/// closed.
const PREVIEW_2: [&str; 6] =
    ["wasi:cli/", "wasi:clocks/", "wasi:filesystem/", "wasi:io/", "wasi:random/", "wasi:sockets/"];

/// The exports that make a bare module.
const BARE: [&str; 3] = ["memory", "alloc", "run"];

/// What modules may import.
pub(super) struct Linkers {
    core: Linker<State>,
    component: ComponentLinker<State>,
}

impl std::fmt::Debug for Linkers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Linkers").finish_non_exhaustive()
    }
}

impl Linkers {
    pub(super) fn new(engine: &Engine) -> wasmtime::Result<Self> {
        let mut core = Linker::new(engine);
        wasmtime_wasi::p1::add_to_linker_async(&mut core, |state: &mut State| &mut state.wasi)?;
        let mut component = ComponentLinker::new(engine);
        wasmtime_wasi::p2::add_to_linker_async(&mut component)?;
        Ok(Self { core, component })
    }
}

/// Compiled, checked and linked.
pub(super) enum Compiled {
    Command(InstancePre<State>),
    Component(CommandPre<State>),
    Bare(InstancePre<State>),
}

impl std::fmt::Debug for Compiled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Command(_) => "Command",
            Self::Component(_) => "Component",
            Self::Bare(_) => "Bare",
        })
    }
}

/// The module's bytes, if they are what its name says.
pub(super) fn checked(base64: &str, sha256: &str) -> Result<Vec<u8>, super::Outcome> {
    let broken = |why: String| super::Outcome::Broke(format!("the module did not arrive: {why}"));
    let bytes = BASE64_STANDARD.decode(base64).map_err(|error| broken(error.to_string()))?;
    let found = hex::encode(Sha256::digest(&bytes));
    if found != sha256 {
        return Err(broken(format!("its SHA-256 is {found}, not {sha256}")));
    }
    Ok(bytes)
}

impl Compiled {
    /// The error is a sentence for whoever made the module.
    pub(super) fn new(engine: &Engine, linkers: &Linkers, bytes: &[u8]) -> Result<Self, String> {
        let invalid = |error: Error| format!("this is no valid WebAssembly: {error:#}");
        // The field after the magic number tells modules from components.
        if bytes.get(6..8) == Some(&[1, 0]) {
            let component = Component::from_binary(engine, bytes).map_err(invalid)?;
            return Self::component(engine, linkers, &component);
        }
        let module = Module::from_binary(engine, bytes).map_err(invalid)?;
        let has = |name: &&str| module.get_export(name).is_some();
        let command = has(&"_start");
        if !command && !BARE.iter().all(has) {
            return Err(
                "the module exports neither _start (a WASI command) nor memory, alloc and run"
                    .to_owned(),
            );
        }
        for import in module.imports() {
            if command && import.module() == PREVIEW_1 {
                continue;
            }
            return Err(format!(
                "the module imports {}.{}, which is not there: {}",
                import.module(),
                import.name(),
                if command {
                    "a command may import WASI preview 1 and nothing else"
                } else {
                    "a module with alloc and run may not import anything"
                }
            ));
        }
        let pre = linkers.core.instantiate_pre(&module).map_err(|error| unlinked(&error))?;
        Ok(if command { Self::Command(pre) } else { Self::Bare(pre) })
    }

    fn component(
        engine: &Engine,
        linkers: &Linkers,
        component: &Component,
    ) -> Result<Self, String> {
        let ty = component.component_type();
        let foreign = ty
            .imports(engine)
            .map(|(name, _)| name.to_owned())
            .find(|name| !PREVIEW_2.iter().any(|package| name.starts_with(package)));
        if let Some(name) = foreign {
            return Err(format!(
                "the component imports {name}, which is not there: a command may import WASI preview 2 without HTTP and nothing else"
            ));
        }
        let pre = linkers.component.instantiate_pre(component).map_err(|error| unlinked(&error))?;
        let command = CommandPre::new(pre).map_err(|error| {
            format!("the component is no command, it does not export wasi:cli/run: {error:#}")
        })?;
        Ok(Self::Component(command))
    }

    /// Runs it. `None`: the output is what it wrote to stdout.
    pub(super) async fn call(
        &self,
        store: &mut Store<State>,
        input: &[u8],
    ) -> wasmtime::Result<Option<Vec<u8>>> {
        match self {
            Self::Command(pre) => {
                let instance = pre.instantiate_async(&mut *store).await?;
                let start = instance.get_typed_func::<(), ()>(&mut *store, "_start")?;
                start.call_async(store, ()).await?;
                Ok(None)
            }
            Self::Component(pre) => {
                let command = pre.instantiate_async(&mut *store).await?;
                let ended = command.wasi_cli_run().call_run(store).await?;
                ended.map_err(|()| Error::msg("the component said that it failed"))?;
                Ok(None)
            }
            Self::Bare(pre) => bare(pre, store, input).await.map(Some),
        }
    }
}

async fn bare(
    pre: &InstancePre<State>,
    store: &mut Store<State>,
    input: &[u8],
) -> wasmtime::Result<Vec<u8>> {
    let instance = pre.instantiate_async(&mut *store).await?;
    let memory = instance
        .get_memory(&mut *store, "memory")
        .ok_or_else(|| Error::msg("its export memory is not a memory"))?;
    let alloc = instance.get_typed_func::<i32, i32>(&mut *store, "alloc")?;
    let run = instance.get_typed_func::<(i32, i32), i64>(&mut *store, "run")?;
    let length = i32::try_from(input.len())?;
    let pointer = alloc.call_async(&mut *store, length).await?;
    // WebAssembly's addresses are unsigned, its integers have no sign.
    let at = pointer.cast_unsigned() as usize;
    memory
        .write(&mut *store, at, input)
        .map_err(|_| Error::msg("alloc gave a place outside of its memory"))?;
    let packed = run.call_async(&mut *store, (pointer, length)).await?.cast_unsigned();
    let (at, length) = ((packed >> 32) as usize, (packed & 0xffff_ffff) as usize);
    if length > MAX_OUTPUT_BYTES {
        return Err(Error::msg(super::state::TOO_MUCH_OUTPUT));
    }
    let output = memory.data(&*store).get(at..).and_then(|rest| rest.get(..length));
    output
        .map(<[u8]>::to_vec)
        .ok_or_else(|| Error::msg("run gave an output that is outside of its memory"))
}

fn unlinked(error: &Error) -> String {
    format!("the module imports something that is not there: {error:#}")
}
