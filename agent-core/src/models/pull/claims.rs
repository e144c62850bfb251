//! What pulls that run at the same time will still write: together they must have room.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
};

use super::progress::Progress;
use crate::models::manifest::{Digest, Manifest};

/// Running attempts that were found to have room, by pull; as many as run at the same time.
#[derive(Debug, Default)]
pub(super) struct Claims(Mutex<HashMap<String, Claim>>);

#[derive(Debug)]
struct Claim {
    manifest: Arc<Manifest>,
    progress: Arc<Progress>,
}

impl Claims {
    /// Claims room for the rest of a pull unless `problem` finds one, which is given how many bytes
    /// other pulls will still write. Who comes first has the room.
    pub(super) fn claim(
        &self,
        id: &str,
        manifest: &Arc<Manifest>,
        progress: &Arc<Progress>,
        problem: impl FnOnce(u64) -> Option<String>,
    ) -> Option<String> {
        let mut claims = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A layer that several fetch is written once.
        let mut seen: HashSet<Digest> = manifest.layers.iter().map(|l| l.digest).collect();
        let mut others = 0_u64;
        for (_, claim) in claims.iter().filter(|(other, _)| other.as_str() != id) {
            for layer in &claim.manifest.layers {
                if seen.insert(layer.digest) {
                    let missing = layer.size.saturating_sub(claim.progress.done(layer.digest));
                    others = others.saturating_add(missing);
                }
            }
        }
        let found = problem(others);
        if found.is_none() {
            let (manifest, progress) = (Arc::clone(manifest), Arc::clone(progress));
            claims.insert(id.to_owned(), Claim { manifest, progress });
        }
        found
    }

    /// The attempt is over, however it ended.
    pub(super) fn release(&self, id: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;

    #[test]
    fn the_second_pull_sees_what_the_first_will_still_write() {
        let claims = Claims::default();
        let [a, b, c] = ["a", "b", "a"]
            .map(|text| Arc::new(Manifest::of_gguf(Digest::of(text.as_bytes()), 100)));
        let progress = Arc::<Progress>::default();
        let ask = |id: &str, manifest| {
            let mut others = 0;
            claims.claim(id, manifest, &progress, |found| {
                others = found;
                (found > 60).then(|| "no room".to_owned())
            });
            others
        };
        assert_eq!(ask("1", &a), 0);
        assert_eq!(ask("2", &b), 100, "and it has no room");
        assert_eq!(ask("1", &a), 0, "so it claims nothing");
        assert_eq!(ask("3", &c), 0, "the same layer is written once");
        claims.release("3");
        progress.layer(Digest::of(b"a")).store(50, Ordering::Relaxed);
        assert_eq!(ask("2", &b), 50);
        assert_eq!(ask("1", &a), 100, "now the second has claimed");
        claims.release("2");
        assert_eq!(ask("1", &a), 0);
    }
}
