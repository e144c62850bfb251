//! What the page knows about the node: a pure reducer over events.

use agent_api::{
    Activity, Event, Settings, Status,
    host::HostState,
    mesh::Mesh,
    pull::Pull,
    tasks::{Task, TaskCounts},
};

use crate::{mesh::peers::Peers, words};

/// Activity lines kept, newest first; the node's own list is longer.
pub const ACTIVITY_KEPT: usize = 50;

/// Clocks of page and node may differ by this much before the page corrects for it: below it, a
/// late event would look like a wrong clock and make every counter jump.
const CLOCK_SLACK_MS: i64 = 2_000;

/// After this long without an event the page says how old its data is.
pub const STALE_AFTER_MS: i64 = 5_000;

/// Whether the node is there.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Link {
    /// The first answer is awaited.
    #[default]
    Connecting,
    Live,
    /// The node does not answer; somebody tries again at `retry_at_ms`.
    Lost {
        attempt: u32,
        retry_at_ms: i64,
        reason: String,
    },
    /// The node ended on purpose.
    Stopped {
        stopping: bool,
    },
    /// The browser has no token, or a wrong one.
    Denied {
        had_token: bool,
    },
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct AppState {
    pub link: Link,
    pub status: Option<Status>,
    pub activity: Vec<Activity>,
    pub settings: Option<Settings>,
    /// Oldest first.
    pub pulls: Vec<Pull>,
    pub mesh: Option<Mesh>,
    pub peers: Peers,
    /// When the last event came, on the page's clock.
    pub heard_at_ms: Option<i64>,
    /// What to add to the page's clock to get the node's.
    pub clock_offset_ms: i64,
}

/// What the page has to do after an event.
#[derive(Clone, Debug, PartialEq)]
pub enum Next {
    Nothing,
    /// A snapshot came: ask for the lists that are not in it.
    LoadLists,
    /// Events were missed: ask for everything again.
    AskAgain,
    /// The installed models, their options or what is in memory changed: ask for the list.
    LoadModels,
    /// These pulls ended well since the last event.
    Arrived(Vec<Pull>),
    /// Tasks are new or changed; `more` did, too, than are here.
    Tasks {
        changed: Vec<Task>,
        counts: TaskCounts,
        more: bool,
    },
    /// Schedules or deliveries changed: ask for them.
    LoadSchedules,
}

impl AppState {
    /// Takes an event that came at `now_ms` on the page's clock.
    pub fn apply(&mut self, event: Event, now_ms: i64) -> Next {
        if let Event::Host { state } = event {
            return self.apply_host(state);
        }
        self.heard_at_ms = Some(now_ms);
        match event {
            Event::Snapshot { status, activity, settings, pulls, mesh } => {
                self.link = Link::Live;
                self.set_status(*status, now_ms);
                self.set_activity(activity);
                self.settings = Some(*settings);
                self.pulls = pulls;
                self.mesh = Some(*mesh);
                return Next::LoadLists;
            }
            Event::Status { status } => {
                self.link = Link::Live;
                self.set_status(*status, now_ms);
            }
            Event::Activity { item } => self.add_activity(item),
            Event::Settings { settings } => self.settings = Some(*settings),
            Event::Pulls { pulls } => {
                let arrived = words::pull::arrived(&self.pulls, &pulls);
                self.pulls = pulls;
                if !arrived.is_empty() {
                    return Next::Arrived(arrived);
                }
            }
            Event::Models => return Next::LoadModels,
            Event::Mesh { mesh } => self.mesh = Some(*mesh),
            Event::Peers { changed, gone } => self.peers.apply(changed, &gone),
            Event::Tasks { changed, counts, more } => {
                return Next::Tasks { changed, counts, more };
            }
            Event::Schedules => return Next::LoadSchedules,
            Event::Resync => return Next::AskAgain,
            Event::Host { .. } => {}
        }
        Next::Nothing
    }

    fn apply_host(&mut self, state: HostState) -> Next {
        let was_live = self.link == Link::Live;
        self.link = match state {
            HostState::Starting => Link::Connecting,
            HostState::Running => Link::Live,
            HostState::Restarting { attempt, retry_at_ms, reason } => {
                Link::Lost { attempt, retry_at_ms, reason }
            }
            HostState::Stopping => Link::Stopped { stopping: true },
            HostState::Stopped => Link::Stopped { stopping: false },
        };
        // A new node is a new snapshot; ask, in case it was sent before the page listened.
        if self.link == Link::Live && !was_live { Next::AskAgain } else { Next::Nothing }
    }

    pub fn set_status(&mut self, status: Status, now_ms: i64) {
        let offset = status.at_ms - now_ms;
        if (offset - self.clock_offset_ms).abs() > CLOCK_SLACK_MS {
            self.clock_offset_ms = offset;
        }
        self.status = Some(status);
    }

    pub fn set_activity(&mut self, mut items: Vec<Activity>) {
        items.sort_by_key(|a| std::cmp::Reverse(a.id));
        items.dedup_by_key(|a| a.id);
        items.truncate(ACTIVITY_KEPT);
        self.activity = items;
    }

    fn add_activity(&mut self, item: Activity) {
        let place = self.activity.partition_point(|a| a.id > item.id);
        if self.activity.get(place).is_some_and(|a| a.id == item.id) {
            self.activity[place] = item;
        } else {
            self.activity.insert(place, item);
            self.activity.truncate(ACTIVITY_KEPT);
        }
    }

    /// When the data on the page is from, if that needs saying.
    pub fn stale_since(&self, now_ms: i64) -> Option<i64> {
        let heard = self.heard_at_ms?;
        (self.link != Link::Live || now_ms - heard > STALE_AFTER_MS).then_some(heard)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use agent_api::{
        ActivityKind, NodeId,
        machine::Machine,
        models::{ModelState, ModelStatus},
        node::{NodeInfo, Requests, Serving, ServingState, Speed},
    };

    use super::*;

    pub(crate) fn status(at_ms: i64) -> Status {
        Status {
            at_ms,
            node: NodeInfo {
                node_id: NodeId("ab".repeat(32)),
                name: "workbench".into(),
                version: "0.1.0".into(),
                data_dir: "data".into(),
                pid: 7,
                started_at_ms: 0,
                url: "http://127.0.0.1:4301".into(),
                exposed: false,
            },
            serving: Serving { state: ServingState::Idle, reason: "Ready.".into(), until_ms: None },
            model: ModelStatus {
                state: ModelState::Ready,
                reason: String::new(),
                active: None,
                loaded: None,
                retry_at_ms: None,
                runner_crashes: 0,
                runner_pid: None,
                resident: Vec::new(),
            },
            speed: Speed::default(),
            requests: Requests::default(),
            machine: Machine::default(),
            notices: Vec::new(),
        }
    }

    fn line(id: i64) -> Activity {
        Activity { id, at_ms: id, kind: ActivityKind::RequestDone, text: format!("line {id}") }
    }

    fn snapshot(at_ms: i64, activity: Vec<Activity>) -> Event {
        Event::Snapshot {
            status: Box::new(status(at_ms)),
            activity,
            settings: Box::new(Settings::default()),
            pulls: Vec::new(),
            mesh: Box::new(crate::words::mesh::tests::mesh()),
        }
    }

    fn ids(state: &AppState) -> Vec<i64> {
        state.activity.iter().map(|a| a.id).collect()
    }

    #[test]
    fn a_snapshot_makes_the_page_live_and_replaces_what_was_there() {
        let mut state = AppState::default();
        assert_eq!(state.apply(snapshot(1_000, vec![line(2), line(1)]), 1_000), Next::LoadLists);
        assert_eq!(state.link, Link::Live);
        assert_eq!(state.mesh.as_ref().map(|m| m.name.as_str()), Some("commons"));
        assert_eq!(ids(&state), [2, 1]);
        state.apply(snapshot(2_000, vec![line(9)]), 2_000);
        assert_eq!(ids(&state), [9]);
    }

    #[test]
    fn activity_is_newest_first_without_doubles_and_bounded() {
        let mut state = AppState::default();
        state.apply(snapshot(0, vec![line(1), line(3)]), 0);
        for id in [2, 4, 4, 3] {
            state.apply(Event::Activity { item: line(id) }, 0);
        }
        assert_eq!(ids(&state), [4, 3, 2, 1]);
        for id in 5..200 {
            state.apply(Event::Activity { item: line(id) }, 0);
        }
        assert_eq!(state.activity.len(), ACTIVITY_KEPT);
        assert_eq!(state.activity[0].id, 199);
    }

    #[test]
    fn a_restart_keeps_the_last_data_and_says_how_old_it_is() {
        let mut state = AppState::default();
        state.apply(snapshot(1_000, vec![line(1)]), 1_000);
        assert_eq!(state.stale_since(2_000), None);
        let restarting =
            HostState::Restarting { attempt: 2, retry_at_ms: 9_000, reason: "It ended.".into() };
        state.apply(Event::Host { state: restarting }, 5_000);
        assert_eq!(
            state.link,
            Link::Lost { attempt: 2, retry_at_ms: 9_000, reason: "It ended.".into() }
        );
        assert!(state.status.is_some());
        assert_eq!(state.stale_since(5_000), Some(1_000));
        assert_eq!(state.apply(Event::Host { state: HostState::Running }, 9_000), Next::AskAgain);
        state.apply(snapshot(9_100, vec![line(2)]), 9_100);
        assert_eq!((state.link.clone(), state.stale_since(9_200)), (Link::Live, None));
    }

    #[test]
    fn silence_is_noticed_and_falling_behind_asks_again() {
        let mut state = AppState::default();
        assert_eq!(state.stale_since(99_000), None);
        state.apply(snapshot(0, Vec::new()), 0);
        assert_eq!(state.stale_since(STALE_AFTER_MS), None);
        assert_eq!(state.stale_since(STALE_AFTER_MS + 1), Some(0));
        assert_eq!(state.apply(Event::Resync, 6_000), Next::AskAgain);
    }

    #[test]
    fn pulls_are_replaced_and_an_arrival_is_announced_once() {
        use agent_api::pull::PullState;
        let pull = |state| crate::words::pull::tests::pull("llama3.2:1b", state);
        let mut state = AppState::default();
        state.apply(snapshot(0, Vec::new()), 0);
        let going = Event::Pulls { pulls: vec![pull(PullState::Verifying)] };
        assert_eq!(state.apply(going, 0), Next::Nothing);
        let done = Event::Pulls { pulls: vec![pull(PullState::Done)] };
        assert_eq!(state.apply(done.clone(), 0), Next::Arrived(vec![pull(PullState::Done)]));
        assert_eq!(state.apply(done, 0), Next::Nothing);
        assert_eq!(state.pulls.len(), 1);
        assert_eq!(state.apply(Event::Models, 0), Next::LoadModels);
    }

    #[test]
    fn the_mesh_and_its_peers_follow_their_events() {
        use crate::mesh::peers::tests::peer;
        let mut state = AppState::default();
        state.apply(snapshot(0, Vec::new()), 0);
        state.peers.ask();
        state.peers.answer(vec![peer(1), peer(2)]);
        let gone = vec![peer(1).node_id];
        let event = Event::Peers { changed: vec![peer(3)], gone };
        assert_eq!(state.apply(event, 0), Next::Nothing);
        let names: Vec<_> = state.peers.iter().map(|p| p.name.clone()).collect();
        assert_eq!(names, ["peer-2", "peer-3"]);
        let mut mesh = crate::words::mesh::tests::mesh();
        mesh.name = "hafen-lab".into();
        state.apply(Event::Mesh { mesh: Box::new(mesh) }, 0);
        assert_eq!(state.mesh.map(|m| m.name), Some("hafen-lab".into()));
    }

    #[test]
    fn only_a_real_difference_between_the_clocks_is_corrected() {
        let mut state = AppState::default();
        state.apply(snapshot(1_000, Vec::new()), 2_500);
        assert_eq!(state.clock_offset_ms, 0);
        state.apply(Event::Status { status: Box::new(status(600_000)) }, 3_000);
        assert_eq!(state.clock_offset_ms, 597_000);
        state.apply(Event::Status { status: Box::new(status(601_000)) }, 5_000);
        assert_eq!(state.clock_offset_ms, 597_000);
    }
}
