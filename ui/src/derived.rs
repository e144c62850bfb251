//! Values computed from the state, that wake their readers only when they change.
//!
//! `Memo` is compiled anew for every type that it holds, which is a tenth of the page; these hold
//! their values behind one pointer and are compiled once.

use std::{any::Any, marker::PhantomData, sync::Arc};

use leptos::prelude::*;

trait Value: Send + Sync {
    fn same(&self, other: &dyn Any) -> bool;
    fn any(&self) -> &dyn Any;
}

impl<T: PartialEq + Send + Sync + 'static> Value for T {
    fn same(&self, other: &dyn Any) -> bool {
        other.downcast_ref::<T>().is_some_and(|other| other == self)
    }

    fn any(&self) -> &dyn Any {
        self
    }
}

#[derive(Clone)]
struct Erased(Arc<dyn Value>);

impl PartialEq for Erased {
    fn eq(&self, other: &Self) -> bool {
        self.0.same(other.0.any())
    }
}

/// A computed value.
pub struct Derived<T> {
    memo: Memo<Erased>,
    of: PhantomData<fn() -> T>,
}

impl<T> Clone for Derived<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Derived<T> {}

/// Computes anew when a signal that `read` reads has changed.
pub fn derived<T: PartialEq + Send + Sync + 'static>(
    read: impl Fn() -> T + Send + Sync + 'static,
) -> Derived<T> {
    Derived { memo: erased(Box::new(move || Erased(Arc::new(read())))), of: PhantomData }
}

fn erased(read: Box<dyn Fn() -> Erased + Send + Sync>) -> Memo<Erased> {
    Memo::new(move |_| read())
}

fn seen<T: 'static, U>(value: &Erased, read: impl FnOnce(&T) -> U) -> U {
    match value.0.any().downcast_ref() {
        Some(value) => read(value),
        None => unreachable!("a derived value has the type that it was made with"),
    }
}

impl<T: 'static> Derived<T> {
    pub fn with<U>(self, read: impl FnOnce(&T) -> U) -> U {
        seen(&self.memo.get(), read)
    }

    pub fn with_untracked<U>(self, read: impl FnOnce(&T) -> U) -> U {
        seen(&self.memo.get_untracked(), read)
    }

    /// `None` when the part of the page that it was made for is gone: for what runs later, as the
    /// next frame.
    pub fn try_with_untracked<U>(self, read: impl FnOnce(&T) -> U) -> Option<U> {
        self.memo.try_get_untracked().map(|value| seen(&value, read))
    }

    /// Reads it, too: a value that nobody ever read does not follow its sources.
    pub fn track(self) {
        drop(self.memo.get());
    }
}

impl<T: Clone + 'static> Derived<T> {
    pub fn get(self) -> T {
        self.with(T::clone)
    }

    pub fn get_untracked(self) -> T {
        self.with_untracked(T::clone)
    }
}

impl<T: Clone + Send + Sync + 'static> From<Derived<T>> for Signal<T> {
    fn from(value: Derived<T>) -> Self {
        Self::derive(move || value.get())
    }
}
