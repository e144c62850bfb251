//! The table of the product's own paths. The router, the UI client, the command line and
//! `/openapi.json` are all made from it, so that they cannot disagree.

use serde::{Serialize, de::DeserializeOwned};

use crate::{
    catalogue::{Catalogue, CatalogueQuery, UpdateCatalogue},
    fit::Fit,
    hardware::Hardware,
    mesh::{
        AdmitNode, Coordinators, CreateMesh, DhtStats, Invite, InviteRequest, MarkNode, Mesh,
        PeerDetails, PeerId, PeerList, PeerQuery, TicketInfo, TicketText, Topology,
    },
    models::{
        CopyModel, FitQuery, ImportModel, InstalledModel, ModelDetails, ModelList, ModelStatus,
        Removed, SetModelOptions, ShowModel, SwapModel, SwapPreview, Verified,
    },
    node::{ActivityList, ActivityQuery, Health, LogLines, LogQuery, Pause, Serving, Status},
    pull::{ModelName, Pull, PullId, PullList, PullPreview, PullRequest},
    settings::{RegistryLogin, SettingsPatch, SettingsView},
    tasks::{
        DeliveryPathId, Drain, NewSchedule, Orchestration, Outbox, OutboxQuery, PauseSchedule,
        Placement, Schedule, ScheduleList, SchedulePathId, SetConcurrency, SubmitTask, Submitted,
        Task, TaskDetails, TaskEvents, TaskList, TaskOutput, TaskPathId, TaskQuery,
    },
};

mod path;

pub use path::{fill_path, find, path_fields};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    Get,
    Post,
    Patch,
}

impl Method {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Patch => "PATCH",
        }
    }
}

/// Who may call a path over HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Anyone on this computer.
    Open,
    /// Anyone on this computer; on a seed, anyone at all.
    Public,
    /// Holders of the per-install token.
    Token,
}

/// A typed path. `Request` is the JSON body of `POST` and `PATCH`, the query of `GET`.
pub trait Endpoint {
    const METHOD: Method;
    /// A part `{name}` stands for the request's field of that name; see [`fill_path`].
    const PATH: &'static str;
    type Request: Serialize + DeserializeOwned;
    type Response: Serialize + DeserializeOwned;
}

/// No parameters.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Nothing {}

/// One row of the table, without its types.
#[derive(Clone, Copy, Debug)]
pub struct EndpointInfo {
    pub name: &'static str,
    pub method: Method,
    pub path: &'static str,
    pub access: Access,
    pub summary: &'static str,
    #[cfg(feature = "schema")]
    pub request_schema: fn(&mut schemars::SchemaGenerator) -> schemars::Schema,
    #[cfg(feature = "schema")]
    pub response_schema: fn(&mut schemars::SchemaGenerator) -> schemars::Schema,
}

macro_rules! endpoints {
    ($( $(#[doc = $doc:literal])+ $name:ident = $method:ident $path:literal $access:ident, $request:ty => $response:ty; )+) => {
        $(
            $(#[doc = $doc])+
            #[derive(Clone, Copy, Debug)]
            pub struct $name;
            impl Endpoint for $name {
                const METHOD: Method = Method::$method;
                const PATH: &'static str = $path;
                type Request = $request;
                type Response = $response;
            }
        )+
        /// Every path of the table, in the order of this file.
        pub const ENDPOINTS: &[EndpointInfo] = &[$(
            EndpointInfo {
                name: stringify!($name),
                method: Method::$method,
                path: $path,
                access: Access::$access,
                summary: concat!($($doc),+),
                #[cfg(feature = "schema")]
                request_schema: |g| g.subschema_for::<$request>(),
                #[cfg(feature = "schema")]
                response_schema: |g| g.subschema_for::<$response>(),
            },
        )+];
    };
}

endpoints! {
    /// Whether the node is up and what it is doing; small enough to poll.
    GetHealth = Get "/health/runtime" Open, Nothing => Health;
    /// Everything the Dashboard shows.
    GetStatus = Get "/status" Token, Nothing => Status;
    /// What the node did, newest first.
    GetActivity = Get "/activity" Token, ActivityQuery => ActivityList;
    /// The last lines of the node's log.
    GetLogs = Get "/logs" Token, LogQuery => LogLines;
    /// The owner's settings.
    GetSettings = Get "/settings" Token, Nothing => SettingsView;
    /// Change settings; only the fields that are sent.
    PatchSettings = Patch "/settings" Token, SettingsPatch => SettingsView;
    /// Stop taking work from other computers and free the model's memory.
    PauseNode = Post "/orchestration/pause" Token, Pause => Serving;
    /// Take work again.
    ResumeNode = Post "/orchestration/resume" Token, Nothing => Serving;
    /// Model files that this node can load.
    ListModels = Get "/model/list" Token, Nothing => ModelList;
    /// The active model and what the runner does with it.
    GetModelStatus = Get "/model/status" Token, Nothing => ModelStatus;
    /// Make another model the active one and load it; requests in flight finish first.
    PostModelSwap = Post "/model/swap" Token, SwapModel => ModelStatus;
    /// What a swap would evict and how much memory it takes; changes nothing.
    PostSwapPreview = Post "/model/swap/preview" Token, SwapModel => SwapPreview;
    /// Everything known about one installed model.
    GetModelShow = Get "/model/show" Token, ShowModel => ModelDetails;
    /// Whether a model will run here, and how.
    GetModelFit = Get "/model/fit" Token, FitQuery => Fit;
    /// Load a model beside the active one.
    PostModelLoad = Post "/model/load" Token, ModelName => ModelStatus;
    /// Free a model's memory after its requests in flight.
    PostModelUnload = Post "/model/unload" Token, ModelName => ModelStatus;
    /// How one model is to run: context, parallel requests, GPU layers, keep-alive, pin, preload.
    PostModelOptions = Post "/model/options" Token, SetModelOptions => InstalledModel;
    /// Remove a model; layers that others use stay.
    PostModelRemove = Post "/model/remove" Token, ModelName => Removed;
    /// Give a model a second name.
    PostModelCopy = Post "/model/copy" Token, CopyModel => InstalledModel;
    /// Take a GGUF file of this computer into the store.
    PostModelImport = Post "/model/import" Token, ImportModel => InstalledModel;
    /// Hash a model's layers again and compare with their digests.
    PostModelVerify = Post "/model/verify" Token, ModelName => Verified;
    /// Fetch a model from a registry, or go on with a pull of it.
    PostModelPull = Post "/model/pull" Token, PullRequest => Pull;
    /// What a pull would fetch and whether the model will run; downloads nothing.
    PostPullPreview = Post "/model/pull/preview" Token, ModelName => PullPreview;
    /// Pulls that are under way, waiting, paused, failed or just done. Progress: `/model/pull/stream`.
    ListPulls = Get "/model/pulls" Token, Nothing => PullList;
    /// Stop a pull and keep its parts.
    PostPullPause = Post "/model/pull/pause" Token, PullId => Pull;
    /// Go on with a paused or failed pull.
    PostPullResume = Post "/model/pull/resume" Token, PullId => Pull;
    /// End a pull and delete its parts.
    PostPullCancel = Post "/model/pull/cancel" Token, PullId => PullList;
    /// Models worth pulling, searched by words, each with its fit on this computer.
    GetCatalogue = Get "/model/catalog" Token, CatalogueQuery => Catalogue;
    /// Replace the catalogue by a newer file; it is checked whole first.
    PostCatalogue = Post "/model/catalog" Token, UpdateCatalogue => Catalogue;
    /// Name and secret for a private registry; an empty secret forgets them.
    PostRegistryLogin = Post "/model/registry/login" Token, RegistryLogin => SettingsView;
    /// What the computer is made of, and its tier with the reason.
    GetHardware = Get "/machine/hardware" Token, Nothing => Hardware;
    /// The mesh this node is in, the ways of finding peers, and what was refused.
    GetMesh = Get "/mesh" Token, Nothing => Mesh;
    /// Peers: connected ones first, by round-trip time.
    GetMeshPeers = Get "/mesh/peers" Token, PeerQuery => PeerList;
    /// Nodes and links, as far as this node knows.
    GetMeshTopology = Get "/mesh/topology" Token, Nothing => Topology;
    /// One peer with its paths, addresses and attempts.
    GetMeshPeer = Get "/agent-mesh/peers/{id}" Token, PeerId => PeerDetails;
    /// A ticket with which another node joins this mesh.
    PostMeshInvite = Post "/mesh/invite" Token, InviteRequest => Invite;
    /// What a ticket leads to; changes nothing.
    PostMeshTicket = Post "/mesh/ticket" Token, TicketText => TicketInfo;
    /// Leave the current mesh and join another by its ticket.
    PostMeshJoin = Post "/mesh/join" Token, TicketText => Mesh;
    /// Leave the mesh; the node goes on in a new private one of its own.
    PostMeshLeave = Post "/mesh/leave" Token, Nothing => Mesh;
    /// Leave the mesh and make another.
    PostMeshCreate = Post "/mesh/create" Token, CreateMesh => Mesh;
    /// Block a node, or stop blocking it: nothing is taken from it or sent to it.
    PostMeshBlock = Post "/mesh/block" Token, MarkNode => Mesh;
    /// Mark a node as the owner's own or as one they trust, or take the mark away.
    PostMeshTrust = Post "/mesh/trust" Token, MarkNode => Mesh;
    /// Let a nearby node into this mesh, or not.
    PostMeshAdmit = Post "/mesh/admit" Token, AdmitNode => Mesh;
    /// Ask every source for peers now.
    PostMeshRefresh = Post "/mesh/refresh" Token, Nothing => Mesh;
    /// Nodes that help others to meet. A seed answers everyone.
    GetCoordinators = Get "/network/coordinators" Public, Nothing => Coordinators;
    /// The distributed hash table that seeds run.
    GetDhtStats = Get "/dht/stats" Token, Nothing => DhtStats;
    /// Submit a task. `Idempotency-Key` may be a header or a field.
    PostTask = Post "/tasks" Token, SubmitTask => Submitted;
    /// The same as `POST /tasks`.
    PostSubmit = Post "/submit" Token, SubmitTask => Submitted;
    /// Tasks that were submitted here or ran here, newest first.
    ListTasks = Get "/tasks" Token, TaskQuery => TaskList;
    /// One task with its timeline, attempts and placement. Live: `/tasks/{id}/follow`.
    GetTask = Get "/tasks/{id}" Token, TaskPathId => TaskDetails;
    /// Every transition of a task.
    GetTaskEvents = Get "/tasks/{id}/events" Token, TaskPathId => TaskEvents;
    /// The result, or the text so far.
    GetTaskOutput = Get "/tasks/{id}/output" Token, TaskPathId => TaskOutput;
    /// Why this node does it, and why not the others.
    GetTaskPlacement = Get "/tasks/{id}/placement" Token, TaskPathId => Placement;
    /// Stop a task, wherever it is.
    PostTaskCancel = Post "/tasks/{id}/cancel" Token, TaskPathId => Task;
    /// Submit a task that failed, expired or was cancelled once more, as a new task.
    PostTaskRetry = Post "/tasks/{id}/retry" Token, TaskPathId => Submitted;
    /// Tasks that are submitted by the clock.
    ListSchedules = Get "/schedules" Token, Nothing => ScheduleList;
    /// Submit a task at the times of a cron expression.
    PostSchedule = Post "/schedules" Token, NewSchedule => Schedule;
    /// Stop a schedule for a while, or let it go on.
    PostSchedulePause = Post "/schedules/{id}/pause" Token, PauseSchedule => Schedule;
    /// Submit a schedule's task now, besides its times.
    PostScheduleRun = Post "/schedules/{id}/run" Token, SchedulePathId => Submitted;
    /// Remove a schedule; tasks that it submitted stay.
    PostScheduleRemove = Post "/schedules/{id}/remove" Token, SchedulePathId => ScheduleList;
    /// Results on their way to webhooks, and those that were given up.
    GetOutbox = Get "/outbox" Token, OutboxQuery => Outbox;
    /// Try a delivery again now.
    PostDeliveryRetry = Post "/outbox/{id}/retry" Token, DeliveryPathId => Outbox;
    /// Give a delivery up for good.
    PostDeliveryRemove = Post "/outbox/{id}/remove" Token, DeliveryPathId => Outbox;
    /// This node as coordinator of its tasks and as worker: load, abilities, workers.
    GetOrchestration = Get "/orchestration/status" Token, Nothing => Orchestration;
    /// How many tasks of other nodes run here at the same time.
    PostConcurrency = Post "/orchestration/concurrency" Token, SetConcurrency => Orchestration;
    /// Start no more tasks, own or others', and let those that run finish; or end that.
    PostDrain = Post "/orchestration/drain" Token, Drain => Orchestration;
}
