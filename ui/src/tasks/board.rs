//! The lists of tasks that the page has loaded: pages of the node's answers, kept up by its events.
//!
//! A node may keep a hundred thousand tasks. Of each group only as many pages are loaded as were
//! scrolled to, newest first; how many there are is the node's word.

use std::{cmp::Reverse, collections::BTreeSet, sync::Arc};

use agent_api::tasks::{Role, Task, TaskCounts, TaskId, TaskKind, TaskQuery, TaskState};

use crate::words::task as words;

/// Tasks of one answer while a list is scrolled through; the node gives at most 500.
pub const PAGE: u32 = 200;
/// Changes that came while an answer was on its way; more are not kept, the answer has them.
const MAX_WAITING: usize = 1_000;

/// Tasks in the same part of their life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Group {
    Active,
    Queued,
    Done,
    Failed,
    Cancelled,
}

impl Group {
    pub const ALL: [Self; 5] =
        [Self::Active, Self::Queued, Self::Done, Self::Failed, Self::Cancelled];

    pub fn of(state: TaskState) -> Self {
        match state {
            TaskState::Queued => Self::Queued,
            TaskState::Placed | TaskState::Leased | TaskState::Running | TaskState::Verifying => {
                Self::Active
            }
            TaskState::Done => Self::Done,
            TaskState::Failed | TaskState::Expired => Self::Failed,
            TaskState::Cancelled => Self::Cancelled,
        }
    }

    pub fn title(self) -> &'static str {
        match self {
            Self::Active => "Active",
            Self::Queued => "Queued",
            Self::Done => "Done",
            Self::Failed => "Failed",
            Self::Cancelled => "Cancelled",
        }
    }

    /// Rows of it while all groups are shown.
    pub fn preview(self) -> usize {
        match self {
            Self::Active => 20,
            Self::Queued | Self::Failed => 8,
            Self::Done => 15,
            Self::Cancelled => 4,
        }
    }

    pub fn count(self, counts: &TaskCounts) -> u32 {
        match self {
            Self::Active => counts.active,
            Self::Queued => counts.queued,
            Self::Done => counts.done,
            Self::Failed => counts.failed,
            Self::Cancelled => counts.cancelled,
        }
    }

    /// The narrowest word of [`TaskQuery::state`] that covers the group.
    pub fn word(self) -> &'static str {
        match self.words() {
            [only] => only,
            _ => "ended",
        }
    }

    /// The words of [`TaskQuery::state`] that together are this group.
    fn words(self) -> &'static [&'static str] {
        match self {
            Self::Active => &["active"],
            Self::Queued => &["queued"],
            Self::Done => &["done"],
            Self::Failed => &["failed", "expired"],
            Self::Cancelled => &["cancelled"],
        }
    }
}

/// What of all tasks is shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// `None`: some of every group.
    pub group: Option<Group>,
    pub role: Option<Role>,
    pub kind: Option<TaskKind>,
    pub search: String,
}

impl Filter {
    /// Without the group: what the node is asked about each of them.
    pub fn query(&self) -> TaskQuery {
        let search = self.search.trim();
        TaskQuery {
            kind: self.kind,
            role: self.role,
            search: (!search.is_empty()).then(|| search.to_owned()),
            ..TaskQuery::default()
        }
    }

    /// Something is left out besides groups.
    pub fn narrow(&self) -> bool {
        self.role.is_some() || self.kind.is_some() || !self.search.trim().is_empty()
    }
}

/// How far down a list is loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Reach {
    Nothing,
    /// Tasks older than this one are not known.
    To(TaskId),
    All,
}

#[derive(Clone, Debug, PartialEq)]
struct Source {
    word: &'static str,
    reach: Reach,
}

impl Source {
    fn holds(&self, state: TaskState) -> bool {
        let active = Group::of(state) == Group::Active;
        if self.word == "active" { active } else { state.as_str() == self.word }
    }
}

/// One question to the node.
#[derive(Clone, Debug, PartialEq)]
pub struct Ask {
    pub group: Group,
    pub query: TaskQuery,
    /// Grows with every new filter: an answer to an older one is thrown away.
    generation: u64,
    source: usize,
}

#[derive(Clone, Debug, PartialEq)]
struct Lane {
    group: Group,
    sources: Vec<Source>,
    /// Newest first.
    rows: Vec<Arc<Task>>,
}

impl Lane {
    fn new(group: Group) -> Self {
        let source = |word: &&'static str| Source { word, reach: Reach::Nothing };
        Self { group, sources: group.words().iter().map(source).collect(), rows: Vec::new() }
    }

    fn place(&self, id: &TaskId) -> Result<usize, usize> {
        self.rows.binary_search_by_key(&Reverse(id), |task| Reverse(&task.id))
    }

    fn put(&mut self, task: Arc<Task>) {
        match self.place(&task.id) {
            Ok(at) => self.rows[at] = task,
            Err(at) => self.rows.insert(at, task),
        }
    }

    fn remove(&mut self, id: &TaskId) {
        if let Ok(at) = self.place(id) {
            self.rows.remove(at);
        }
    }

    /// Rows above everything that is not loaded yet.
    fn shown(&self) -> &[Arc<Task>] {
        let mut end = self.rows.len();
        for source in &self.sources {
            match &source.reach {
                Reach::Nothing => end = 0,
                Reach::To(id) => end = end.min(self.rows.partition_point(|t| t.id >= *id)),
                Reach::All => {}
            }
        }
        &self.rows[..end]
    }

    fn complete(&self) -> bool {
        self.sources.iter().all(|s| s.reach == Reach::All)
    }

    fn loaded(&self) -> bool {
        self.sources.iter().all(|s| s.reach != Reach::Nothing)
    }

    /// The source that keeps the most rows back.
    fn next_source(&self) -> Option<(usize, Option<TaskId>)> {
        let waits = |(at, source): (usize, &Source)| match &source.reach {
            Reach::All => None,
            Reach::Nothing => Some((at, None)),
            Reach::To(id) => Some((at, Some(id.clone()))),
        };
        let all: Vec<_> = self.sources.iter().enumerate().filter_map(waits).collect();
        let first = all.iter().find(|(_, before)| before.is_none()).cloned();
        first.or_else(|| all.into_iter().max_by(|a, b| a.1.cmp(&b.1)))
    }
}

/// Everything that the panel knows of tasks.
#[derive(Clone, Debug, PartialEq)]
pub struct Board {
    filter: Filter,
    lanes: Vec<Lane>,
    pub counts: TaskCounts,
    /// The counts came at least once.
    pub known: bool,
    generation: u64,
    /// Questions on their way, by group and source.
    asked: BTreeSet<(Group, usize)>,
    waiting: Vec<Arc<Task>>,
}

impl Default for Board {
    fn default() -> Self {
        Self {
            filter: Filter::default(),
            lanes: Group::ALL.into_iter().map(Lane::new).collect(),
            counts: TaskCounts::default(),
            known: false,
            generation: 0,
            asked: BTreeSet::new(),
            waiting: Vec::new(),
        }
    }
}

impl Board {
    pub fn filter(&self) -> &Filter {
        &self.filter
    }

    /// Another filter. A change of the group alone keeps what is loaded.
    pub fn set_filter(&mut self, filter: Filter) {
        let same = Filter { group: self.filter.group, ..filter.clone() } == self.filter;
        self.filter = filter;
        if !same {
            self.forget();
        }
    }

    fn forget(&mut self) {
        self.lanes = Group::ALL.into_iter().map(Lane::new).collect();
        self.generation += 1;
        self.asked.clear();
        self.waiting.clear();
    }

    fn lane(&self, group: Group) -> &Lane {
        // Every group has a lane, in their order.
        &self.lanes[group as usize]
    }

    pub fn rows(&self, group: Group) -> &[Arc<Task>] {
        self.lane(group).shown()
    }

    /// Everything of the group is loaded.
    pub fn complete(&self, group: Group) -> bool {
        self.lane(group).complete()
    }

    pub fn loaded(&self, group: Group) -> bool {
        self.lane(group).loaded()
    }

    pub fn get(&self, id: &TaskId) -> Option<&Arc<Task>> {
        self.lanes.iter().find_map(|lane| lane.place(id).ok().map(|at| &lane.rows[at]))
    }

    /// Rows of a group while all are shown. A queue is shown from its head, where all of it is
    /// known.
    pub fn preview(&self, group: Group) -> Vec<Arc<Task>> {
        let mut rows = self.rows(group).to_vec();
        if group == Group::Queued && self.complete(group) {
            rows.sort_by_key(|t| (t.queue_position.unwrap_or(u32::MAX), t.id.clone()));
        }
        rows.truncate(group.preview());
        rows
    }

    /// How many there are, and whether there are more than that.
    pub fn total(&self, group: Group) -> (u32, bool) {
        if self.filter.narrow() {
            let rows = self.rows(group).len();
            return (u32::try_from(rows).unwrap_or(u32::MAX), !self.complete(group));
        }
        (group.count(&self.counts), false)
    }

    /// The groups in view.
    pub fn groups(&self) -> Vec<Group> {
        match self.filter.group {
            Some(group) => vec![group],
            None => Group::ALL.to_vec(),
        }
    }

    /// The question for the next page of a group, unless it is on its way or there is none.
    pub fn more(&mut self, group: Group, limit: u32) -> Option<Ask> {
        let (source, before) = self.lane(group).next_source()?;
        self.ask(group, source, before, limit)
    }

    /// Questions for the newest page of every source of a group, loaded or not.
    pub fn again(&mut self, group: Group, limit: u32) -> Vec<Ask> {
        let sources = 0..self.lane(group).sources.len();
        sources.filter_map(|source| self.ask(group, source, None, limit)).collect()
    }

    fn ask(
        &mut self,
        group: Group,
        source: usize,
        before: Option<TaskId>,
        limit: u32,
    ) -> Option<Ask> {
        if !self.asked.insert((group, source)) {
            return None;
        }
        let state = Some(self.lane(group).sources[source].word.to_owned());
        let query = TaskQuery { state, before, limit: Some(limit), ..self.filter.query() };
        Some(Ask { group, query, generation: self.generation, source })
    }

    /// The question has no answer. Whether anybody still wants it.
    pub fn give_up(&mut self, ask: &Ask) -> bool {
        let current = ask.generation == self.generation;
        if current {
            self.asked.remove(&(ask.group, ask.source));
        }
        current
    }

    /// Takes a page: what the node has between the page's ends, and nothing else, is there.
    pub fn answer(
        &mut self,
        ask: &Ask,
        tasks: Vec<Task>,
        next: Option<TaskId>,
        counts: TaskCounts,
    ) {
        if !self.give_up(ask) {
            return;
        }
        self.counts = counts;
        self.known = true;
        let lane = &mut self.lanes[ask.group as usize];
        let source = lane.sources[ask.source].clone();
        let below = |id: &TaskId| ask.query.before.as_ref().is_none_or(|b| id < b);
        // `next` is the last task of the page: what is older is on the next one.
        let above = |id: &TaskId| next.as_ref().is_none_or(|n| id >= n);
        // So much is new that the page does not reach what was loaded: that hangs in the air.
        let meets = lane.rows.iter().any(|t| source.holds(t.state) && above(&t.id));
        let torn = ask.query.before.is_none() && !meets;
        lane.rows.retain(|t| !source.holds(t.state) || !(torn || below(&t.id) && above(&t.id)));
        for task in tasks {
            lane.put(Arc::new(task));
        }
        let reach = &mut lane.sources[ask.source].reach;
        *reach = match (&*reach, next) {
            (_, None) => Reach::All,
            (Reach::To(old), Some(next)) if !torn => Reach::To(old.min(&next).clone()),
            (Reach::All, Some(_)) if !torn => Reach::All,
            (_, Some(next)) => Reach::To(next),
        };
        for task in self.waiting.clone() {
            self.put(task);
        }
        if self.asked.is_empty() {
            self.waiting.clear();
        }
    }

    /// Tasks that are new or changed.
    pub fn apply(&mut self, changed: Vec<Task>, counts: TaskCounts) {
        self.counts = counts;
        self.known = true;
        for task in changed {
            let task = Arc::new(task);
            if !self.asked.is_empty() && self.waiting.len() < MAX_WAITING {
                self.waiting.push(Arc::clone(&task));
            }
            self.put(task);
        }
    }

    fn put(&mut self, task: Arc<Task>) {
        let group = Group::of(task.state);
        for lane in self.lanes.iter_mut().filter(|lane| lane.group != group) {
            lane.remove(&task.id);
        }
        let fits = words::fits(&task, &self.filter.query());
        let lane = &mut self.lanes[group as usize];
        if fits {
            lane.put(task);
        } else {
            lane.remove(&task.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::words::task::tests::task;

    fn counts() -> TaskCounts {
        TaskCounts { done: 9, ..TaskCounts::default() }
    }

    fn ids(board: &Board, group: Group) -> Vec<u32> {
        let number = |t: &Arc<Task>| t.id.0[2..].parse().expect("a number");
        board.rows(group).iter().map(number).collect()
    }

    /// Answers as a node with the tasks `1..=last` of one state would.
    fn serve(board: &mut Board, ask: &Ask, last: u32, state: TaskState) {
        let limit = ask.query.limit.expect("a limit") as usize;
        let older = |t: &Task| ask.query.before.as_ref().is_none_or(|b| t.id < *b);
        let all: Vec<_> = (1..=last).rev().map(|n| task(n, state)).filter(older).collect();
        let page: Vec<_> = all.iter().take(limit).cloned().collect();
        let next = (all.len() > limit).then(|| page.last().expect("a page").id.clone());
        board.answer(ask, page, next, counts());
    }

    #[test]
    fn pages_follow_each_other_down_to_the_oldest_task() {
        let mut board = Board::default();
        assert!(!board.loaded(Group::Done));
        let first = board.more(Group::Done, 2).expect("a question");
        assert_eq!(board.more(Group::Done, 2), None, "it is on its way");
        serve(&mut board, &first, 5, TaskState::Done);
        assert_eq!(ids(&board, Group::Done), [5, 4]);
        while let Some(ask) = board.more(Group::Done, 2) {
            serve(&mut board, &ask, 5, TaskState::Done);
        }
        assert_eq!(ids(&board, Group::Done), [5, 4, 3, 2, 1]);
        assert!(board.complete(Group::Done));
        assert_eq!(board.total(Group::Done), (9, false), "the node counts");
    }

    #[test]
    fn a_task_moves_between_the_groups_with_its_state() {
        let mut board = Board::default();
        for group in Group::ALL {
            for ask in board.again(group, 2) {
                board.answer(&ask, Vec::new(), None, counts());
            }
        }
        board.apply(vec![task(1, TaskState::Queued), task(2, TaskState::Running)], counts());
        assert_eq!((ids(&board, Group::Queued), ids(&board, Group::Active)), (vec![1], vec![2]));
        board.apply(vec![task(1, TaskState::Leased), task(2, TaskState::Expired)], counts());
        assert_eq!((ids(&board, Group::Active), ids(&board, Group::Failed)), (vec![1], vec![2]));
        assert!(board.rows(Group::Queued).is_empty());
    }

    #[test]
    fn rows_below_what_is_loaded_wait_until_it_is() {
        let mut board = Board::default();
        let ask = board.more(Group::Done, 2).expect("a question");
        serve(&mut board, &ask, 9, TaskState::Done);
        board.apply(vec![task(3, TaskState::Done)], counts());
        assert_eq!(ids(&board, Group::Done), [9, 8], "4 to 7 are not known yet");
    }

    #[test]
    fn two_states_of_one_group_are_merged_and_neither_leaves_a_gap() {
        let mut board = Board::default();
        let failed = board.more(Group::Failed, 2).expect("a question");
        assert_eq!(failed.query.state.as_deref(), Some("failed"));
        let both = vec![task(9, TaskState::Failed), task(5, TaskState::Failed)];
        let next = Some(task(5, TaskState::Failed).id);
        board.answer(&failed, both, next, counts());
        assert!(board.rows(Group::Failed).is_empty(), "an expired one may be newer");
        let expired = board.more(Group::Failed, 2).expect("a question");
        assert_eq!(expired.query.state.as_deref(), Some("expired"));
        let some = vec![task(7, TaskState::Expired), task(2, TaskState::Expired)];
        board.answer(&expired, some, None, counts());
        assert_eq!(ids(&board, Group::Failed), [9, 7, 5]);
        let last = board.more(Group::Failed, 2).expect("the rest of the failed ones");
        assert_eq!(last.query.before, Some(task(5, TaskState::Failed).id));
        board.answer(&last, vec![task(4, TaskState::Failed)], None, counts());
        assert_eq!(ids(&board, Group::Failed), [9, 7, 5, 4, 2]);
    }

    #[test]
    fn a_change_that_overtook_an_answer_stays() {
        let mut board = Board::default();
        let ask = board.more(Group::Done, 3).expect("a question");
        board.apply(vec![task(4, TaskState::Done)], counts());
        serve(&mut board, &ask, 3, TaskState::Done);
        assert_eq!(ids(&board, Group::Done), [4, 3, 2, 1]);
    }

    #[test]
    fn asking_again_takes_away_what_the_node_no_longer_has() {
        let mut board = Board::default();
        let ask = board.more(Group::Active, 9).expect("a question");
        serve(&mut board, &ask, 4, TaskState::Running);
        let again = board.again(Group::Active, 9);
        board.answer(&again[0], vec![task(2, TaskState::Running)], None, counts());
        assert_eq!(ids(&board, Group::Active), [2]);
    }

    #[test]
    fn a_page_that_does_not_reach_the_loaded_rows_replaces_them() {
        let mut board = Board::default();
        let ask = board.more(Group::Done, 2).expect("a question");
        serve(&mut board, &ask, 5, TaskState::Done);
        let again = board.again(Group::Done, 2);
        serve(&mut board, &again[0], 90, TaskState::Done);
        assert_eq!(ids(&board, Group::Done), [90, 89]);
        let next = board.more(Group::Done, 2).expect("the rest");
        serve(&mut board, &next, 90, TaskState::Done);
        assert_eq!(ids(&board, Group::Done), [90, 89, 88, 87]);
    }

    #[test]
    fn another_filter_starts_anew_and_throws_late_answers_away() {
        let mut board = Board::default();
        let late = board.more(Group::Done, 2).expect("a question");
        board.set_filter(Filter { kind: Some(TaskKind::Wasm), ..Filter::default() });
        serve(&mut board, &late, 5, TaskState::Done);
        assert!(!board.loaded(Group::Done));
        let ask = board.more(Group::Done, 2).expect("a new question");
        assert_eq!(ask.query.kind, Some(TaskKind::Wasm));
        board.answer(&ask, Vec::new(), None, counts());
        board.apply(vec![task(1, TaskState::Done)], counts());
        assert!(board.rows(Group::Done).is_empty(), "a chat does not fit");
        assert_eq!(board.total(Group::Done), (0, false));
        // The group alone is no reason to load anew.
        board.set_filter(Filter { group: Some(Group::Done), ..board.filter().clone() });
        assert!(board.loaded(Group::Done));
    }

    #[test]
    fn a_whole_queue_is_shown_from_its_head() {
        let mut board = Board::default();
        let place = |n, at| Task { queue_position: Some(at), ..task(n, TaskState::Queued) };
        let ask = board.more(Group::Queued, 9).expect("a question");
        board.answer(&ask, vec![place(2, 1), place(1, 2)], None, counts());
        let first: Vec<_> = board.preview(Group::Queued).iter().map(|t| t.queue_position).collect();
        assert_eq!(first, [Some(1), Some(2)]);
    }
}
