//! Weighted fair queueing, without IO: start-time fair queueing (Goyal, Vin and Cheng, 1996).
//! Accounts that wait get shares of the work in proportion to their weights, whatever one of them
//! sends; an idle account saves nothing up.

use std::{collections::HashMap, fmt, hash::Hash};

/// Names an item while it waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// Items of accounts that wait.
pub struct FairQueue<A, T> {
    _accounts: HashMap<A, Vec<(Ticket, T)>>,
}

impl<A: fmt::Debug, T> fmt::Debug for FairQueue<A, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FairQueue").finish_non_exhaustive()
    }
}

impl<A: Eq + Hash + Clone, T> FairQueue<A, T> {
    pub fn new() -> Self {
        Self { _accounts: HashMap::new() }
    }

    /// `weight` 1 or more; `cost` in any unit that is the same for all. Higher `priority` goes first
    /// among items of the same account.
    pub fn push(
        &mut self,
        _account: A,
        _weight: u32,
        _cost: u64,
        _priority: u8,
        _item: T,
    ) -> Ticket {
        Ticket(0)
    }

    /// The next item that may go, by fair order.
    pub fn pop(&mut self, _may: impl FnMut(&A, &T) -> bool) -> Option<(A, Ticket, T)> {
        None
    }

    pub fn remove(&mut self, _ticket: Ticket) -> Option<(A, T)> {
        None
    }

    /// 1 is next, as things stand.
    pub fn position(&self, _ticket: Ticket) -> Option<u32> {
        None
    }

    pub fn len(&self) -> usize {
        0
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn len_of(&self, _account: &A) -> usize {
        0
    }
}

impl<A: Eq + Hash + Clone, T> Default for FairQueue<A, T> {
    fn default() -> Self {
        Self::new()
    }
}
