//! The steps of a build, one after the other.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::SystemTime;

use serde_json::{Value, json};
use trierarch_runtime::spec::RootfsSpec;

use super::cache::CachedStep;
use super::copy::{Placement, digest_of, find_sources, place};
use super::expand::{expand, expand_unquoted};
use super::layer::{LayerOptions, commit_upper};
use super::overlay::{Workspace, with_mounts};
use super::parse::{Command, Copy, Instruction, Kind};
use super::plan::{Base, find};
use super::state::State;
use super::{BuildError, BuildOptions, Inputs, RunRequest};
use crate::clock;
use crate::digest::Digest;
use crate::error::{IoContext, StoreError};
use crate::image::{Image, Layer};
use crate::layers::{RootfsLayers, chain_ids};
use crate::lease::Lease;
use crate::progress::{Event, Progress};
use crate::reference::Reference;
use crate::store::Store;
use crate::tree::{Attributes, Tree, TreePath};

/// Does what the plan says and names the result.
pub(super) fn execute(store: &Store, options: &BuildOptions, inputs: &Inputs, progress: &Progress) -> Result<Image, BuildError> {
    let now = clock::now();
    let stages = &inputs.plan.stages;
    let total = inputs.plan.needed.iter().map(|number| stages[*number].instructions.len() + 1).sum();
    let mut build = Build { store, options, inputs, progress, lease: store.lease()?, now, states: BTreeMap::new(), number: 0, total };
    for number in &inputs.plan.needed {
        let state = build.stage(*number)?;
        build.states.insert(*number, state);
    }
    let mut state = build.states.pop_last().map(|(_, state)| state).unwrap_or_else(State::scratch);
    for (key, value) in &options.labels {
        state.add_label(key, value);
    }
    build.finish(&state)
}

struct Build<'a> {
    store: &'a Store,
    options: &'a BuildOptions,
    inputs: &'a Inputs,
    progress: &'a Progress,
    lease: Lease,
    now: SystemTime,
    /// Finished stages.
    states: BTreeMap<usize, State>,
    /// Steps begun.
    number: usize,
    total: usize,
}

/// A step's problem: of the line, or of the machine.
enum StepError {
    Problem(String),
    Store(StoreError),
}

impl From<StoreError> for StepError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<String> for StepError {
    fn from(problem: String) -> Self {
        Self::Problem(problem)
    }
}

impl Build<'_> {
    fn stage(&mut self, number: usize) -> Result<State, BuildError> {
        let stage = &self.inputs.plan.stages[number];
        self.report(stage.from.text.clone(), false);
        let mut state = match &stage.base {
            Base::Scratch => State::scratch(),
            Base::Stage(base) => self.states[base].continued(),
            Base::Image(name) => {
                let image = &self.inputs.images[name];
                self.protect(&image.layers)?;
                let bytes = self.store.read_blob(&image.id)?;
                let config: Value = serde_json::from_slice(&bytes).map_err(|source| StoreError::Invalid {
                    what: "image configuration",
                    digest: image.id.clone(),
                    source,
                })?;
                State::over(config, image.layers.clone())
            }
        };
        for instruction in &stage.instructions {
            self.step(number, instruction, &mut state).map_err(|error| match error {
                StepError::Problem(problem) => BuildError::Line { file: self.inputs.file.clone(), line: instruction.line, problem },
                StepError::Store(source) => BuildError::Store(source),
            })?;
        }
        Ok(state)
    }

    fn step(&mut self, number: usize, instruction: &Instruction, state: &mut State) -> Result<(), StepError> {
        let escape = self.inputs.escape;
        let text = instruction.text.clone();
        let word = |state: &State, word: &str| expand(word, escape, &|key| state.lookup(key));
        match &instruction.kind {
            Kind::Copy(copy) | Kind::Add(copy) => return self.copy(copy, matches!(instruction.kind, Kind::Add(_)), number, text, state),
            Kind::Run(command) => return self.run(command, text, state),
            Kind::Workdir(path) => {
                let path = word(state, path)?;
                state.set_workdir(&path);
                return self.workdir(text, state);
            }
            _ => self.report(text.clone(), false),
        }
        match &instruction.kind {
            Kind::Arg(pairs) => {
                for (key, default) in pairs {
                    let default = default.as_ref().map(|default| word(state, default)).transpose()?;
                    let value = self.options.args.get(key).cloned().or(default).or_else(|| self.inputs.plan.global_args.get(key).cloned());
                    if let Some(value) = value {
                        state.set_arg(key, value);
                    }
                }
            }
            Kind::Env(pairs) => {
                // All values see the environment before the instruction.
                let before = state.clone();
                for (key, value) in pairs {
                    state.set_env(&word(&before, key)?, &word(&before, value)?);
                }
            }
            Kind::Label(pairs) => {
                for (key, value) in pairs {
                    let (key, value) = (word(state, key)?, word(state, value)?);
                    state.add_label(&key, &value);
                }
            }
            Kind::Expose(ports) => {
                for port in ports {
                    let expanded = word(state, port)?;
                    expanded.split_whitespace().try_for_each(|port| state.expose(port))?;
                }
            }
            Kind::Volume(paths) => {
                for path in paths {
                    let path = word(state, path)?;
                    state.add_volume(&path);
                }
            }
            Kind::User(user) => {
                let user = word(state, user)?;
                state.set_user(user);
            }
            Kind::StopSignal(signal) => {
                let signal = word(state, signal)?;
                state.set_stop_signal(signal);
            }
            Kind::Shell(words) => state.set_shell(words.clone()),
            Kind::Cmd(command) => state.set_cmd(command),
            Kind::Entrypoint(command) => state.set_entrypoint(command),
            Kind::Ignored(notice) => self.progress.report(Event::Notice { text: notice.clone() }),
            Kind::From { .. } | Kind::Copy(_) | Kind::Add(_) | Kind::Run(_) | Kind::Workdir(_) => {}
        }
        state.record(&text, None);
        Ok(())
    }

    fn copy(&mut self, copy: &Copy, add: bool, number: usize, text: String, state: &mut State) -> Result<(), StepError> {
        let escape = self.inputs.escape;
        let word = |text: &str| match copy.json {
            true => expand_unquoted(text, escape, &|key| state.lookup(key)),
            false => expand(text, escape, &|key| state.lookup(key)),
        };
        let patterns: Vec<String> = copy.sources.iter().map(|source| word(source)).collect::<Result<_, _>>()?;
        let destination = state.absolute(&word(&copy.destination)?);
        let chown = copy.chown.as_deref().map(&word).transpose()?;
        let chmod = copy.chmod.as_deref().map(&word).transpose()?;
        let mode = chmod
            .map(|text| u32::from_str_radix(&text, 8).map_err(|_not_octal| format!("invalid chmod parameter: {text:?} must be octal")))
            .transpose()?;
        let inline: Vec<(String, String)> = copy
            .inline
            .iter()
            .map(|(name, body)| Ok((name.clone(), expand(body, escape, &|key| state.lookup(key)).unwrap_or_else(|_as_it_is| body.clone()))))
            .collect::<Result<_, String>>()?;
        let source = copy.from.as_deref().map(|from| self.source(from, number, &word)).transpose()?;
        // What stands in the context is hashed; another stage's files are known by its layers.
        let (found, inputs) = match &source {
            Some((chain, _)) => (None, json!({ "from": chain, "patterns": patterns })),
            None => {
                let found = find_sources(&self.options.context, &patterns, Some(&self.inputs.ignore))?;
                let digest = digest_of(&found).map_err(|error| error.to_string())?;
                (Some(found), json!({ "context": digest }))
            }
        };
        let key = self.key(
            state,
            "copy",
            &json!({ "inputs": inputs, "to": destination, "chown": chown, "mode": mode, "inline": inline, "add": add }),
        );
        if self.cached(&key, &text, state)? {
            return Ok(());
        }
        let from_stage = source.is_some();
        let source_layers = source.map(|(_, layers)| self.store.unpack_layers(&layers, self.progress)).transpose()?;
        self.change_files(&key, text, state, source_layers.as_ref(), |workspace, lower, source_layers| {
            let named = chown.as_deref().map(|chown| owner(chown, lower, workspace)).transpose()?;
            let placement = Placement {
                destination,
                owner: named.or((!from_stage).then_some((0, 0))),
                archive_owner: named,
                mode,
                extract: add,
                inline,
            };
            let outcome = with_mounts(lower, source_layers, workspace, |views| match (views.source, &found) {
                (Some(root), _) => place(views.merged, &find_sources(root, &patterns, None)?, &placement),
                (None, Some(found)) => place(views.merged, found, &placement),
                (None, None) => Err("there is nothing to copy from".to_owned()),
            });
            outcome.map_err(|error| format!("mount the layers: {error}"))?
        })
    }

    /// The stage or image that `COPY --from` names: the digest that stands for it, and its layers.
    fn source(&self, from: &str, number: usize, word: &dyn Fn(&str) -> Result<String, String>) -> Result<(String, Vec<Layer>), StepError> {
        if let Some(stage) = find(from, &self.inputs.plan.stages[..number]) {
            let layers = self.states[&stage].layers.clone();
            return Ok((chain_name(&layers), layers));
        }
        let name = word(from)?;
        let image = self
            .inputs
            .images
            .get(&name)
            .or_else(|| self.inputs.images.get(from))
            .ok_or_else(|| format!("invalid from flag value {from}: no such stage or image"))?;
        Ok((chain_name(&image.layers), image.layers.clone()))
    }

    fn run(&mut self, command: &Command, text: String, state: &mut State) -> Result<(), StepError> {
        let args = state.words(command);
        let env = state.run_env(&self.options.args);
        let (cwd, user) = (state.workdir().to_owned(), state.user().to_owned());
        let key = self.key(state, "run", &json!({ "args": args, "env": env, "cwd": cwd, "user": user }));
        if self.cached(&key, &text, state)? {
            return Ok(());
        }
        let runner = self.options.runner.clone().ok_or_else(|| "RUN needs a container runtime, and none was given".to_owned())?;
        let progress = self.progress.clone();
        self.change_files(&key, text, state, None, |workspace, lower, _| {
            let (upper, work) = (workspace.upper.clone(), workspace.work.clone());
            let request = RunRequest { lower: lower.clone(), upper, work, args: args.clone(), env, cwd, user };
            let code = runner.run(&request, &mut |bytes| progress.report(Event::Output { bytes: bytes.to_vec() }))?;
            match code {
                0 => Ok(()),
                code => Err(format!("the command '{}' returned a non-zero code: {code}", args.join(" "))),
            }
        })
    }

    /// The directory is made if the image has none.
    fn workdir(&mut self, text: String, state: &mut State) -> Result<(), StepError> {
        let path = state.workdir().to_owned();
        let key = self.key(state, "workdir", &json!({ "path": path }));
        if self.cached(&key, &text, state)? {
            return Ok(());
        }
        self.change_files(&key, text, state, None, |workspace, lower, _| {
            let made = with_mounts(lower, None, workspace, |views| {
                let mut tree = Tree::open(views.merged, &[])?;
                let path = TreePath::clamp(path.as_bytes());
                if path.is_root() || tree.leads_to_directory(&path) {
                    return Ok(());
                }
                tree.directory(&path, &Attributes { mode: 0o755, ..Attributes::default() })
            });
            made.and_then(|made| made).map_err(|error| format!("create {path}: {error}"))
        })
    }

    /// Runs a step that changes files, and makes its changes a layer. An unchanged tree makes none.
    fn change_files(
        &mut self,
        key: &Digest,
        text: String,
        state: &mut State,
        source: Option<&RootfsLayers>,
        change: impl FnOnce(&Workspace, &RootfsLayers, Option<&RootfsLayers>) -> Result<(), String>,
    ) -> Result<(), StepError> {
        self.report(text.clone(), false);
        self.protect(&state.layers)?;
        let lower = self.store.unpack_layers(&state.layers, self.progress)?;
        let (id, directory) = self.store.new_layer_directory(&self.lease)?;
        tracing::debug!(layer = id, "Began a build step");
        let workspace = Workspace::create(&directory).during("create", &directory)?;
        let outcome = (|| {
            copy_root_attributes(&lower, &workspace.upper)?;
            change(&workspace, &lower, source).map_err(StepError::Problem)?;
            let options = LayerOptions { mtime_max: self.options.source_date_epoch, ..LayerOptions::default() };
            Ok::<_, StepError>(commit_upper(self.store, &workspace.upper, &lower.lowerdirs(), options, &self.lease)?)
        })();
        if let Err(error) = fs::remove_dir_all(&directory) {
            tracing::warn!(%error, path = %directory.display(), "Could not remove a build step's directory");
        }
        let layer = outcome?;
        let mut layers = state.layers.clone();
        layers.extend(layer.clone());
        let step = CachedStep { layer: layer.clone(), chain: chain_ids(&layers).pop() };
        self.store.remember_step(key, &step)?;
        state.record(&text, layer);
        Ok(())
    }

    /// Takes a step's result from the cache if it is there.
    fn cached(&mut self, key: &Digest, text: &str, state: &mut State) -> Result<bool, StepError> {
        if self.options.no_cache {
            return Ok(false);
        }
        let Some(step) = self.store.cached_step(key, self.now, &self.lease)? else { return Ok(false) };
        self.report(text.to_owned(), true);
        state.record(text, step.layer);
        Ok(true)
    }

    /// Everything that decides what a step makes.
    fn key(&self, state: &State, kind: &str, inputs: &Value) -> Digest {
        let all = json!({ "version": 1, "below": chain_name(&state.layers), "kind": kind, "inputs": inputs, "epoch": self.options.source_date_epoch });
        Digest::of(all.to_string().as_bytes())
    }

    fn finish(&self, state: &State) -> Result<Image, BuildError> {
        self.protect(&state.layers)?;
        // The same build has the same time, so that it has the same ID.
        let timeless = Digest::of(state.finish("").to_string().as_bytes());
        let created = match self.options.source_date_epoch {
            Some(seconds) => jiff::Timestamp::from_second(seconds).unwrap_or_default(),
            None => self.store.build_time(&timeless, self.now, self.options.no_cache)?,
        };
        let config = state.finish(&created.to_string()).to_string();
        let config_digest = self.store.write_blob(config.as_bytes(), &self.lease)?;
        let layers: Vec<Value> =
            state.layers.iter().map(|layer| json!({ "mediaType": layer.media_type, "digest": layer.digest, "size": layer.size })).collect();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": config_digest, "size": config.len() },
            "layers": layers,
        });
        let target = self.store.write_blob(manifest.to_string().as_bytes(), &self.lease)?;
        self.store.unpack_layers(&state.layers, self.progress)?;
        for tag in &self.options.tags {
            self.store.set_name(tag, &target, &self.lease)?;
        }
        let names = self.options.tags.iter().map(Reference::to_string).collect();
        self.progress.report(Event::Done { digest: target.clone(), names });
        match self.options.tags.first() {
            Some(tag) => Ok(self.store.get(tag)?.ok_or(StoreError::MissingBlob { digest: target })?),
            None => Ok(Image::clone(&*self.store.parse(&target)?)),
        }
    }

    fn protect(&self, layers: &[Layer]) -> Result<(), StoreError> {
        layers.iter().try_for_each(|layer| self.lease.protect(&layer.digest))
    }

    fn report(&mut self, text: String, cached: bool) {
        self.number += 1;
        self.progress.report(Event::Step { number: self.number, total: self.total, text, cached });
    }
}

/// What stands for a list of layers in a cache key.
fn chain_name(layers: &[Layer]) -> String {
    chain_ids(layers).pop().map_or_else(|| "scratch".to_owned(), |chain| chain.to_string())
}

/// `--chown=USER[:GROUP]`: numbers, or names in the image's files. A user alone gives its own group; a number alone, that group.
fn owner(text: &str, lower: &RootfsLayers, workspace: &Workspace) -> Result<(u32, u32), String> {
    let numbers = |text: &str| -> Option<(u32, u32)> {
        let (user, group) = text.split_once(':').unwrap_or((text, text));
        Some((user.parse().ok()?, group.parse().ok()?))
    };
    if let Some(owner) = numbers(text) {
        return Ok(owner);
    }
    let rootfs = RootfsSpec::overlay(lower.lowerdirs(), &workspace.upper, &workspace.work);
    let user = trierarch_runtime::users::resolve(&rootfs, text).map_err(|error| crate::error::chain(&error))?.user;
    Ok((user.uid, user.gid))
}

/// The root directory of an overlay looks as its upper directory does.
fn copy_root_attributes(lower: &RootfsLayers, upper: &Path) -> Result<(), StepError> {
    if let Some(top) = lower.lowerdirs().first() {
        let meta = fs::metadata(top).during("read", top)?;
        std::os::unix::fs::chown(upper, Some(meta.uid()), Some(meta.gid())).during("chown", upper)?;
        fs::set_permissions(upper, meta.permissions()).during("chmod", upper)?;
    }
    Ok(())
}
