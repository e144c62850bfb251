//! Weighted fair queueing, without IO: start-time fair queueing (Goyal, Vin and Cheng, 1996).
//! Accounts that wait get shares of the work in proportion to their weights, whatever one of them
//! sends; an idle account saves nothing up.
//!
//! Each account that waits has a *start*: the virtual time at which its next item may begin. The
//! least one goes, virtual time moves there, and the account's next start is later by the item's
//! cost over the account's weight. Who comes after a pause starts at the present virtual time, or
//! where it left off if that is later: so it has neither credit nor is its debt forgotten.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap},
    fmt,
    hash::Hash,
};

/// Virtual time per unit of cost at weight 1: divisions by weights of up to 100 stay exact enough.
/// A `u128` holds the costs of 2^64 items of 2^40 each.
const SCALE: u128 = 1 << 20;
/// Accounts without items whose debt is remembered: as many as a mesh has nodes.
const IDLE_ACCOUNTS: usize = 4_096;

/// Names an item while it waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// Items of accounts that wait. Every operation takes time in proportion to the logarithm of their
/// number, but for those that say otherwise.
pub struct FairQueue<A, T> {
    now: u128,
    next: u64,
    accounts: HashMap<A, Account>,
    /// Accounts with items, by their starts; ties by who came first.
    starts: BTreeMap<(u128, u64), A>,
    /// Accounts without, by the time from which on nothing has to be known of them.
    idle: BTreeMap<(u128, u64), A>,
    items: HashMap<Ticket, Item<A, T>>,
}

#[derive(Debug)]
struct Account {
    /// Its key in `starts` or `idle`.
    place: (u128, u64),
    weight: u32,
    /// By priority, then by arrival.
    order: BTreeSet<(Reverse<u8>, Ticket)>,
}

struct Item<A, T> {
    account: A,
    priority: u8,
    cost: u64,
    item: T,
}

impl<A: fmt::Debug, T> fmt::Debug for FairQueue<A, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FairQueue")
            .field("items", &self.items.len())
            .field("accounts", &self.starts.len())
            .finish_non_exhaustive()
    }
}

impl<A: Eq + Hash + Clone, T> FairQueue<A, T> {
    pub fn new() -> Self {
        Self {
            now: 0,
            next: 0,
            accounts: HashMap::new(),
            starts: BTreeMap::new(),
            idle: BTreeMap::new(),
            items: HashMap::new(),
        }
    }

    /// `weight` 1 or more, the newest counts; `cost` in any unit that is the same for all. Higher
    /// `priority` goes first among items of the same account.
    pub fn push(&mut self, account: A, weight: u32, cost: u64, priority: u8, item: T) -> Ticket {
        let ticket = Ticket(self.next);
        self.next += 1;
        let now = self.now;
        let known = self.accounts.entry(account.clone()).or_insert_with(|| Account {
            place: (now, ticket.0),
            weight: 1,
            order: BTreeSet::new(),
        });
        known.weight = weight.max(1);
        if known.order.is_empty() {
            self.idle.remove(&known.place);
            known.place = (known.place.0.max(now), ticket.0);
            self.starts.insert(known.place, account.clone());
        }
        known.order.insert((Reverse(priority), ticket));
        self.items.insert(ticket, Item { account, priority, cost, item });
        ticket
    }

    /// The next item that may go, by fair order. Items that may not are passed over, which takes
    /// time in proportion to their number; they lose nothing by it.
    pub fn pop(&mut self, mut may: impl FnMut(&A, &T) -> bool) -> Option<(A, Ticket, T)> {
        let ticket = self.starts.values().find_map(|account| {
            let mut order = self.accounts.get(account)?.order.iter().map(|(_, ticket)| *ticket);
            order.find(|ticket| self.items.get(ticket).is_some_and(|item| may(account, &item.item)))
        })?;
        let start = self.accounts.get(&self.items.get(&ticket)?.account)?.place.0;
        let item = self.take(ticket, true)?;
        self.now = self.now.max(start);
        self.forget();
        Some((item.account, ticket, item.item))
    }

    /// Takes an item away; its account owes nothing for it.
    pub fn remove(&mut self, ticket: Ticket) -> Option<(A, T)> {
        let item = self.take(ticket, false)?;
        self.forget();
        Some((item.account, item.item))
    }

    /// What an account's work cost beyond what its items said: its next one starts later by it.
    pub fn charge(&mut self, account: &A, weight: u32, extra: u64) {
        if extra == 0 {
            return;
        }
        let place = (self.now, self.next);
        let known = self.accounts.entry(account.clone()).or_insert_with(|| {
            self.next += 1;
            Account { place, weight: weight.max(1), order: BTreeSet::new() }
        });
        let list = if known.order.is_empty() { &mut self.idle } else { &mut self.starts };
        list.remove(&known.place);
        known.place.0 = known.place.0.max(self.now) + step(extra, known.weight);
        list.insert(known.place, account.clone());
        self.forget();
    }

    fn take(&mut self, ticket: Ticket, pays: bool) -> Option<Item<A, T>> {
        let item = self.items.remove(&ticket)?;
        let account = self.accounts.get_mut(&item.account)?;
        account.order.remove(&(Reverse(item.priority), ticket));
        self.starts.remove(&account.place);
        if pays {
            account.place.0 += step(item.cost, account.weight);
        }
        let list = if account.order.is_empty() { &mut self.idle } else { &mut self.starts };
        list.insert(account.place, item.account.clone());
        Some(item)
    }

    /// Accounts without items whose debt is over, and the smallest debts of too many.
    fn forget(&mut self) {
        while let Some(entry) = self.idle.first_entry() {
            if entry.key().0 > self.now && self.idle.len() <= IDLE_ACCOUNTS {
                break;
            }
            if let Some((_, account)) = self.idle.pop_first() {
                self.accounts.remove(&account);
            }
        }
    }

    /// 1 is next, as things stand. Takes time in proportion to the position.
    pub fn position(&self, ticket: Ticket) -> Option<u32> {
        self.items.get(&ticket)?;
        let before = self.in_order().position(|one| one == ticket)?;
        u32::try_from(before + 1).ok()
    }

    /// All tickets in the order in which they would go, if nothing else came. Priorities count
    /// within an account only.
    pub fn in_order(&self) -> impl Iterator<Item = Ticket> {
        let mut heads: BinaryHeap<Reverse<(u128, u64, usize)>> = BinaryHeap::new();
        let mut lines = Vec::new();
        for ((start, tie), account) in &self.starts {
            if let Some(account) = self.accounts.get(account) {
                heads.push(Reverse((*start, *tie, lines.len())));
                lines.push((account.weight, account.order.iter().peekable()));
            }
        }
        std::iter::from_fn(move || {
            let Reverse((start, tie, line)) = heads.pop()?;
            let (weight, order) = lines.get_mut(line)?;
            let (_, ticket) = order.next()?;
            if order.peek().is_some() {
                let cost = self.items.get(ticket).map_or(0, |item| item.cost);
                heads.push(Reverse((start + step(cost, *weight), tie, line)));
            }
            Some(*ticket)
        })
    }

    pub fn get(&self, ticket: Ticket) -> Option<&T> {
        self.items.get(&ticket).map(|item| &item.item)
    }

    pub fn len(&self) -> usize {
        self.items.len()
    }

    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    pub fn len_of(&self, account: &A) -> usize {
        self.accounts.get(account).map_or(0, |account| account.order.len())
    }
}

/// How much later the next item of an account starts.
fn step(cost: u64, weight: u32) -> u128 {
    u128::from(cost.max(1)) * SCALE / u128::from(weight.max(1))
}

impl<A: Eq + Hash + Clone, T> Default for FairQueue<A, T> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Queue = FairQueue<u8, u64>;

    /// Work done per account while all of them always wait with something.
    fn saturate(weights: &[u32], costs: &[u64], total: u64) -> Vec<u64> {
        let mut queue = Queue::new();
        let accounts: Vec<u8> = (0..).take(weights.len()).collect();
        let push = |queue: &mut Queue, account: u8, n: usize| {
            let cost = costs[(n + usize::from(account)) % costs.len()];
            queue.push(account, weights[usize::from(account)], cost, 5, cost);
        };
        for account in &accounts {
            for n in 0..3 {
                push(&mut queue, *account, n);
            }
        }
        let mut done = vec![0; weights.len()];
        for n in 0.. {
            if done.iter().sum::<u64>() >= total {
                break;
            }
            let (account, _, cost) = queue.pop(|_, _| true).expect("always something");
            done[usize::from(account)] += cost;
            push(&mut queue, account, n);
        }
        done
    }

    fn share(done: &[u64], of: usize) -> f64 {
        done[of] as f64 / done.iter().sum::<u64>() as f64
    }

    #[test]
    fn equal_weights_share_equally_and_three_to_one_is_three_to_one() {
        let even = saturate(&[1, 1], &[10], 10_000);
        assert!((share(&even, 0) - 0.5).abs() < 0.01, "{even:?}");
        let odd = saturate(&[3, 1], &[7, 100, 1], 50_000);
        assert!((share(&odd, 0) - 0.75).abs() < 0.075, "{odd:?}");
    }

    #[test]
    fn an_account_that_floods_waits_behind_one_that_asks_once() {
        let mut queue = Queue::new();
        for n in 0..1_000 {
            queue.push(1, 10, 100, 5, n);
        }
        for _ in 0..10 {
            queue.pop(|_, _| true).expect("one of the flood");
        }
        let ticket = queue.push(2, 10, 100, 5, 7);
        assert!(queue.position(ticket).expect("waits") <= 2);
        let next = [queue.pop(|_, _| true), queue.pop(|_, _| true)];
        assert!(next.iter().flatten().any(|(account, _, _)| *account == 2));
    }

    #[test]
    fn an_idle_account_saves_nothing_up_and_a_debt_is_not_forgotten() {
        let mut queue = Queue::new();
        for n in 0..100 {
            queue.push(1, 1, 10, 5, n);
        }
        for _ in 0..50 {
            queue.pop(|_, _| true).expect("one");
        }
        for n in 0..50 {
            queue.push(2, 1, 10, 5, n);
        }
        let first: Vec<_> = (0..20).filter_map(|_| queue.pop(|_, _| true)).collect();
        let late = first.iter().filter(|(account, _, _)| *account == 2).count();
        assert!((9..=11).contains(&late), "{late} of 20: half, not all");

        let mut queue = Queue::new();
        queue.push(1, 1, 1_000, 5, 0);
        queue.push(2, 1, 10, 5, 0);
        queue.pop(|account, _| *account == 1).expect("a large one");
        queue.push(1, 1, 10, 5, 0);
        for _ in 0..50 {
            let (account, ..) = queue.pop(|_, _| true).expect("one");
            assert_eq!(account, 2, "account 1 had its share for now");
            queue.push(2, 1, 10, 5, 0);
        }
    }

    #[test]
    fn priorities_count_within_an_account_only() {
        let mut queue = Queue::new();
        queue.push(1, 1, 10, 0, 10);
        queue.push(1, 1, 10, 9, 11);
        queue.push(1, 1, 10, 9, 12);
        queue.push(2, 1, 10, 0, 20);
        let order: Vec<_> =
            std::iter::from_fn(|| queue.pop(|_, _| true)).map(|(_, _, item)| item).collect();
        assert_eq!(order, [11, 20, 12, 10]);
    }

    #[test]
    fn what_may_not_go_is_passed_over_and_keeps_its_place() {
        let mut queue = Queue::new();
        let first = queue.push(1, 1, 10, 5, 1);
        queue.push(1, 1, 10, 5, 2);
        queue.push(2, 1, 10, 5, 3);
        assert_eq!(queue.pop(|_, item| *item == 2).map(|(_, _, item)| item), Some(2));
        assert_eq!(queue.pop(|account, _| *account == 3), None);
        assert_eq!(queue.position(first), Some(2), "its account had a turn");
        assert_eq!(queue.len(), 2);
    }

    #[test]
    fn a_cancelled_item_costs_nothing_and_moves_the_others_up() {
        let mut queue = Queue::new();
        let large = queue.push(1, 1, 1_000_000, 9, 1);
        let small = queue.push(1, 1, 1, 5, 2);
        let other = queue.push(2, 1, 1, 5, 3);
        assert_eq!(queue.position(small), Some(3));
        assert_eq!(queue.remove(large), Some((1, 1)));
        assert_eq!((queue.remove(large), queue.position(large)), (None, None));
        assert_eq!((queue.position(small), queue.position(other)), (Some(1), Some(2)));
        assert_eq!((queue.len(), queue.len_of(&1), queue.len_of(&9)), (2, 1, 0));
        queue.remove(small);
        queue.remove(other);
        assert!(queue.is_empty() && queue.pop(|_, _| true).is_none());
        assert!(queue.accounts.is_empty() && queue.starts.is_empty() && queue.idle.is_empty());
    }

    #[test]
    fn what_cost_more_than_it_said_is_paid_for_later() {
        for waits in [false, true] {
            let mut queue = Queue::new();
            queue.push(1, 1, 1, 5, 0);
            queue.pop(|_, _| true).expect("the cheap one");
            if waits {
                queue.push(1, 1, 1, 5, 0);
            }
            queue.charge(&1, 1, 1_000);
            if !waits {
                queue.push(1, 1, 1, 5, 0);
            }
            for _ in 0..50 {
                queue.push(2, 1, 10, 5, 0);
                let (account, ..) = queue.pop(|_, _| true).expect("one");
                assert_eq!(account, 2, "account 1 had more than its share");
            }
        }
        let mut queue = Queue::new();
        queue.charge(&9, 1, 100);
        assert_eq!((queue.accounts.len(), queue.idle.len()), (1, 1), "a debt of nobody here");
        queue.push(9, 1, 1, 5, 0);
        assert_eq!(queue.pop(|_, _| true).map(|(account, ..)| account), Some(9));
    }

    #[test]
    fn accounts_that_left_are_forgotten() {
        let mut queue: FairQueue<u64, ()> = FairQueue::new();
        for account in 0..20_000 {
            queue.push(account, 1, account + 1, 5, ());
            queue.pop(|_, ()| true).expect("the one");
        }
        assert!(queue.accounts.len() <= IDLE_ACCOUNTS + 1, "{}", queue.accounts.len());
        assert_eq!(queue.accounts.len(), queue.idle.len() + queue.starts.len());
    }

    proptest! {
        #[test]
        fn shares_follow_the_weights_whatever_things_cost(
            weights in prop::collection::vec(1_u32..10, 2..9),
            costs in prop::collection::vec(1_u64..50, 1..6),
        ) {
            let done = saturate(&weights, &costs, 200_000);
            let all = f64::from(weights.iter().sum::<u32>());
            for (at, weight) in weights.iter().enumerate() {
                let due = f64::from(*weight) / all;
                let got = share(&done, at);
                prop_assert!((got - due).abs() <= 0.1 * due, "{} of {:?}: {:?}", at, weights, done);
            }
        }

        #[test]
        fn nothing_is_lost_nothing_comes_twice_and_the_order_is_as_foretold(
            steps in prop::collection::vec((0_u8..6, 1_u32..5, 0_u64..1 << 40, 0_u8..10, 0_u8..4), 1..200),
        ) {
            let mut queue: FairQueue<u8, usize> = FairQueue::new();
            let mut waiting = BTreeSet::new();
            for (n, (account, weight, cost, priority, action)) in steps.into_iter().enumerate() {
                match action {
                    0 => {
                        let foretold = queue.in_order().next();
                        let got = queue.pop(|_, _| true).map(|(_, ticket, _)| ticket);
                        prop_assert_eq!(foretold, got);
                        if let Some(ticket) = got {
                            prop_assert!(waiting.remove(&ticket));
                        }
                    }
                    1 if n % 3 == 0 => {
                        if let Some(ticket) = waiting.pop_last() {
                            prop_assert!(queue.remove(ticket).is_some());
                        }
                    }
                    _ => {
                        waiting.insert(queue.push(account, weight, cost, priority, n));
                    }
                }
                prop_assert_eq!(queue.len(), waiting.len());
            }
            let order: Vec<_> = queue.in_order().collect();
            for (n, ticket) in order.iter().enumerate() {
                prop_assert_eq!(queue.position(*ticket), u32::try_from(n + 1).ok());
            }
            // Nobody starves: everything goes in the end.
            let gone: BTreeSet<_> =
                std::iter::from_fn(|| queue.pop(|_, _| true)).map(|(_, ticket, _)| ticket).collect();
            prop_assert_eq!(gone, waiting);
            prop_assert!(queue.starts.is_empty());
        }
    }
}
