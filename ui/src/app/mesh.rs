//! What the owner can do with the mesh, and what the page knows about it.

use agent_api::{
    Endpoint, NodeId,
    endpoint::{
        GetMeshPeers, GetOrchestration, Nothing, PatchSettings, PostMeshAdmit, PostMeshBlock,
        PostMeshCreate, PostMeshJoin, PostMeshLeave, PostMeshRefresh, PostMeshTrust,
    },
    mesh::{
        AdmitNode, CreateMesh, MarkNode, Mesh, MeshSettingsPatch, MeshState, PeerQuery, TicketText,
    },
    settings::SettingsPatch,
};
use leptos::{prelude::*, task::spawn_local};

use super::App;
use crate::{
    backend,
    derived::{Derived, derived},
    mesh::order::Workers,
    route,
};

/// A node that a question is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Who {
    pub id: NodeId,
    pub name: String,
}

/// The dialogs about the mesh: each is open while its signal says so.
#[derive(Clone, Copy)]
pub struct MeshView {
    /// The peer in the drawer; the page's address sets it.
    pub peer: RwSignal<Option<NodeId>>,
    pub invite: RwSignal<bool>,
    pub join: RwSignal<bool>,
    pub create: RwSignal<bool>,
    pub leave: RwSignal<bool>,
    pub block: RwSignal<Option<Who>>,
    /// The rows of the table, in order: the drawer steps through them.
    pub rows: RwSignal<Vec<NodeId>>,
    /// What this node thinks of those it shared work with.
    pub workers: RwSignal<Workers>,
    /// Why there is no list of peers.
    pub problem: RwSignal<Option<String>>,
    /// Why the last change was refused, for the dialog that asked for it.
    pub refusal: RwSignal<Option<String>>,
    /// A change of the mesh is on its way.
    pub busy: RwSignal<bool>,
}

impl Default for MeshView {
    fn default() -> Self {
        Self {
            peer: RwSignal::new(route::peer_of(&super::location_hash())),
            invite: RwSignal::new(false),
            join: RwSignal::new(false),
            create: RwSignal::new(false),
            leave: RwSignal::new(false),
            block: RwSignal::new(None),
            rows: RwSignal::new(Vec::new()),
            workers: RwSignal::new(Workers::new()),
            problem: RwSignal::new(None),
            refusal: RwSignal::new(None),
            busy: RwSignal::new(false),
        }
    }
}

impl MeshView {
    fn asks(self) -> bool {
        self.join.get_untracked() || self.create.get_untracked()
    }

    /// Whether the mesh is turned on, as far as known.
    pub fn on(self, app: App) -> bool {
        app.state.with(|s| s.mesh.as_ref().is_some_and(|m| m.state != MeshState::Off))
    }
}

impl App {
    /// A part of the mesh that changes only when its value does.
    pub fn mesh_part<T: PartialEq + Send + Sync + 'static>(
        self,
        read: impl Fn(&Mesh) -> T + Send + Sync + 'static,
    ) -> Derived<Option<T>> {
        derived(move || self.state.with(|s| s.mesh.as_ref().map(&read)))
    }

    /// Asks for the list of peers.
    pub fn load_peers(self) {
        self.state.update(|s| s.peers.ask());
        spawn_local(async move {
            match backend::call(GetMeshPeers, &PeerQuery::default()).await {
                Ok(list) => {
                    self.mesh.problem.set(None);
                    self.state.update(|s| s.peers.answer(list.peers));
                }
                Err(error) => {
                    self.mesh.problem.set(Some(error.to_string()));
                    self.state.update(|s| s.peers.give_up());
                }
            }
        });
    }

    /// Asks what this node thinks of those it shared work with. Without an answer nothing is shown
    /// of it.
    pub fn load_workers(self) {
        spawn_local(async move {
            let Ok(answer) = backend::call(GetOrchestration, &Nothing {}).await else { return };
            let workers = answer.workers.into_iter().map(|w| (w.node.clone(), w)).collect();
            if self.mesh.workers.with_untracked(|old| *old != workers) {
                self.mesh.workers.set(workers);
            }
        });
    }

    /// The same, where the list was needed before: events may have been missed.
    pub(super) fn load_peers_again(self) {
        if self.state.with_untracked(|s| s.peers.loaded()) {
            self.load_peers();
        }
    }

    /// Shows a peer in the drawer, or none.
    pub fn show_peer(self, id: Option<&NodeId>) {
        self.go(&match id {
            Some(id) => route::peer_href(id),
            None => route::Panel::Mesh.href(),
        });
    }

    /// One call that answers with the mesh as it is then. Whether one is on its way is in
    /// `mesh.busy`; `done` runs after one that worked.
    fn change_mesh<E: Endpoint<Response = Mesh>>(
        self,
        failed: &'static str,
        _: E,
        request: &E::Request,
        done: impl FnOnce(&Mesh) + 'static,
    ) {
        self.change(failed, backend::raw::<E>(request), Box::new(done));
    }

    /// The same for every call, so that it is compiled once.
    fn change(self, failed: &'static str, call: backend::Raw, done: Box<dyn FnOnce(&Mesh)>) {
        if self.mesh.busy.get_untracked() {
            return;
        }
        self.mesh.busy.set(true);
        self.mesh.refusal.set(None);
        spawn_local(async move {
            match backend::read::<Mesh>(call.await) {
                Ok(mesh) => {
                    done(&mesh);
                    self.state.update(|s| s.mesh = Some(mesh));
                }
                // A message under an open dialog would not be seen.
                Err(error) if self.mesh.asks() => self.mesh.refusal.set(Some(error.to_string())),
                Err(error) => self.failed(format!("{failed} {error}")),
            }
            self.mesh.busy.set(false);
        });
    }

    pub fn look_for_peers(self) {
        let call = (PostMeshRefresh, &Nothing {});
        self.change_mesh("Not asked.", call.0, call.1, |_| {});
    }

    /// Marks a node as the owner's own, or as one they trust; or takes the mark away.
    pub fn trust(self, who: Who, on: bool, own: bool) {
        let mark = MarkNode { node_id: who.id.clone(), on, own };
        let call = (PostMeshTrust, &mark);
        self.change_mesh("Not marked.", call.0, call.1, move |_| {
            self.state.update(|s| s.peers.trust(&who.id, on, on && own));
        });
    }

    pub fn block(self, who: Who, on: bool) {
        let mark = MarkNode { node_id: who.id, on, own: false };
        let call = (PostMeshBlock, &mark);
        let failed = if on { "Not blocked." } else { "Still blocked." };
        self.change_mesh(failed, call.0, call.1, move |_| {
            if on {
                self.show_peer(None);
                self.done(format!("{} is blocked", who.name));
            } else {
                self.done(format!("{} is no longer blocked", who.name));
            }
        });
    }

    pub fn admit(self, who: Who, admit: bool) {
        let answer = AdmitNode { node_id: who.id, admit };
        let call = (PostMeshAdmit, &answer);
        self.change_mesh("Not answered.", call.0, call.1, move |_| {
            if admit {
                self.done(format!("{} is let in", who.name));
            }
        });
    }

    pub fn leave_mesh(self) {
        let call = (PostMeshLeave, &Nothing {});
        self.change_mesh("Not left.", call.0, call.1, move |mesh| self.moved(mesh));
    }

    pub fn join_mesh(self, ticket: String) {
        let body = TicketText { ticket };
        let call = (PostMeshJoin, &body);
        self.change_mesh("Not joined.", call.0, call.1, move |mesh| {
            self.mesh.join.set(false);
            self.moved(mesh);
        });
    }

    pub fn create_mesh(self, body: CreateMesh) {
        let call = (PostMeshCreate, &body);
        self.change_mesh("Not made.", call.0, call.1, move |mesh| {
            self.mesh.create.set(false);
            self.moved(mesh);
        });
    }

    fn moved(self, mesh: &Mesh) {
        self.done(format!("This node is in {}", mesh.name));
        self.load_peers_again();
    }

    pub fn turn_mesh_on(self) {
        let mesh = MeshSettingsPatch { enabled: Some(true), ..MeshSettingsPatch::default() };
        let patch = SettingsPatch { mesh: Some(mesh), ..SettingsPatch::default() };
        spawn_local(async move {
            match backend::call(PatchSettings, &patch).await {
                Ok(view) => self.state.update(|s| s.settings = Some(view.settings)),
                Err(error) => self.failed(format!("Not turned on. {error}")),
            }
        });
    }
}
