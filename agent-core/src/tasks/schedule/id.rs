//! Ids of schedules.

use agent_api::tasks::ScheduleId;
use uuid::Uuid;

/// Crockford's base 32, lower case: without i, l, o and u.
const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// A new id: sorts by time.
pub(super) fn new_id() -> ScheduleId {
    ScheduleId(format!("s_{}", written(Uuid::now_v7())))
}

/// The 26 characters of a ULID: a version 7 UUID has its layout, 48 bits of milliseconds first.
fn written(id: Uuid) -> String {
    let bits = id.as_u128();
    let digit = |place: u32| {
        let value = usize::try_from((bits >> (5 * place)) & 31).unwrap_or_default();
        char::from(DIGITS[value])
    };
    (0..26).rev().map(digit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_have_the_length_of_a_ulid_and_sort_by_time() {
        let (first, second) = (Uuid::from_u128(1 << 80), Uuid::from_u128(2 << 80));
        assert_eq!(written(first), "00000000010000000000000000");
        assert!(written(first) < written(second));
        assert_eq!(written(Uuid::from_u128(u128::MAX)), "7zzzzzzzzzzzzzzzzzzzzzzzzz");
        assert_eq!(new_id().0.len(), 28);
    }
}
