//! A ticket: text that lets its holder into a mesh.
//!
//! `ec1`, then base32 (RFC 4648, lower case, no padding) of the postcard form and four bytes of its
//! BLAKE3 hash. Whoever has it can join: it carries a private mesh's secret.

use data_encoding::BASE32_NOPAD;
use serde::{Deserialize, Serialize};

use super::{Addresses, MeshCard, MeshId, NodeKey, addr::Loopback};

const PREFIX: &str = "ec1";
const VERSION: u8 = 1;
const CHECK_BYTES: usize = 4;
/// Longest text that is looked at. Eight nodes with all their addresses need less than 6,000.
pub const TICKET_CHARS: usize = 8 << 10;
/// The inviter and seven more: enough to find one that is awake.
pub const TICKET_PEERS: usize = 7;
const NAME_CHARS: usize = 64;
const MESH_NAME_CHARS: usize = 40;

/// Why a text is not a usable ticket. Shown to the owner as it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TicketError {
    #[error("this is not a ticket. A ticket is one long word that begins with ec1")]
    NotATicket,
    #[error("this ticket is damaged. Copy all of it again; one wrong character is enough")]
    Damaged,
    #[error("this ticket is longer than {TICKET_CHARS} characters. Copy only the ticket itself")]
    TooLong,
    #[error(
        "this ticket was made by a newer EdgeCoder (ticket version {0}). Update this one, then use the ticket again"
    )]
    Newer(u8),
    #[error("this ticket is expired. Ask for a new one")]
    Expired,
}

/// The content of a ticket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// Always settled: a mesh that somebody is invited to is one.
    pub card: MeshCard,
    pub inviter: NodeKey,
    /// At most 64 characters.
    pub inviter_name: String,
    /// The inviter first, then up to [`TICKET_PEERS`] others, with addresses.
    pub peers: Vec<(NodeKey, Addresses)>,
    /// Milliseconds since 1970, by the inviter's clock.
    pub issued_ms: i64,
    pub expires_ms: i64,
}

/// After the version byte; the order of the fields is the wire format.
#[derive(Serialize, Deserialize)]
struct Wire {
    mesh: MeshId,
    name: String,
    secret: Option<[u8; 32]>,
    inviter: NodeKey,
    inviter_name: String,
    peers: Vec<(NodeKey, Addresses)>,
    issued_ms: i64,
    expires_ms: i64,
}

impl Ticket {
    /// The text. What does not fit the bounds is left out.
    pub fn encode(&self) -> String {
        let peers = self.peers.iter().take(1 + TICKET_PEERS);
        let wire = Wire {
            mesh: self.card.id,
            name: self.card.name.chars().take(MESH_NAME_CHARS).collect(),
            secret: self.card.secret,
            inviter: self.inviter,
            inviter_name: self.inviter_name.chars().take(NAME_CHARS).collect(),
            peers: peers.map(|(key, at)| (*key, at.cleaned(Loopback::Allowed))).collect(),
            issued_ms: self.issued_ms,
            expires_ms: self.expires_ms,
        };
        let mut bytes = vec![VERSION];
        bytes.extend(postcard::to_stdvec(&wire).unwrap_or_default());
        let check = blake3::hash(&bytes);
        bytes.extend_from_slice(&check.as_bytes()[..CHECK_BYTES]);
        format!("{PREFIX}{}", BASE32_NOPAD.encode(&bytes).to_ascii_lowercase())
    }

    /// Reads a ticket; case and white space do not matter. `now_ms`: milliseconds since 1970.
    pub fn decode(text: &str, now_ms: i64) -> Result<Self, TicketError> {
        let mut word = String::new();
        for c in text.chars().filter(|c| !c.is_whitespace()) {
            if word.len() >= TICKET_CHARS {
                return Err(TicketError::TooLong);
            }
            word.push(c.to_ascii_uppercase());
        }
        let prefix = PREFIX.to_ascii_uppercase();
        let body = word.strip_prefix(prefix.as_str()).ok_or(TicketError::NotATicket)?;
        let bytes = BASE32_NOPAD.decode(body.as_bytes()).map_err(|_| TicketError::Damaged)?;
        let (content, check) =
            bytes.split_last_chunk::<CHECK_BYTES>().ok_or(TicketError::Damaged)?;
        if blake3::hash(content).as_bytes()[..CHECK_BYTES] != *check {
            return Err(TicketError::Damaged);
        }
        let (&version, content) = content.split_first().ok_or(TicketError::Damaged)?;
        if version > VERSION {
            return Err(TicketError::Newer(version));
        }
        let (wire, rest) =
            postcard::take_from_bytes::<Wire>(content).map_err(|_| TicketError::Damaged)?;
        if version != VERSION || !rest.is_empty() {
            return Err(TicketError::Damaged);
        }
        let ticket = Self::from_wire(wire)?;
        if ticket.expires_ms <= now_ms { Err(TicketError::Expired) } else { Ok(ticket) }
    }

    fn from_wire(wire: Wire) -> Result<Self, TicketError> {
        let short = |text: &str, chars| {
            text.chars().count() <= chars && !text.chars().any(char::is_control)
        };
        if !short(&wire.name, MESH_NAME_CHARS)
            || !short(&wire.inviter_name, NAME_CHARS)
            || wire.peers.len() > 1 + TICKET_PEERS
        {
            return Err(TicketError::Damaged);
        }
        let peers = wire.peers.iter().map(|(key, at)| (*key, at.cleaned(Loopback::Allowed)));
        Ok(Self {
            card: MeshCard { id: wire.mesh, name: wire.name, secret: wire.secret, settled: true },
            inviter: wire.inviter,
            inviter_name: wire.inviter_name,
            peers: peers.collect(),
            issued_ms: wire.issued_ms,
            expires_ms: wire.expires_ms,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ticket() -> Ticket {
        let at = Addresses {
            direct: vec!["192.168.1.7:4302".parse().expect("an address")],
            relays: vec!["https://relay.example".to_owned()],
        };
        Ticket {
            card: MeshCard {
                id: MeshId([7; 32]),
                name: "home".to_owned(),
                secret: Some([9; 32]),
                settled: true,
            },
            inviter: NodeKey([1; 32]),
            inviter_name: "desk".to_owned(),
            peers: vec![(NodeKey([1; 32]), at.clone()), (NodeKey([2; 32]), at)],
            issued_ms: 1_000,
            expires_ms: 2_000,
        }
    }

    #[test]
    fn a_ticket_survives_mail_programs() {
        let text = ticket().encode();
        assert_eq!(Ticket::decode(&text, 1_500), Ok(ticket()));
        let shouted: String = text.to_ascii_uppercase();
        let wrapped = shouted
            .as_bytes()
            .chunks(40)
            .map(|line| std::str::from_utf8(line).expect("ascii"))
            .collect::<Vec<_>>()
            .join("\r\n  ");
        assert_eq!(Ticket::decode(&format!(" {wrapped}\n"), 1_500), Ok(ticket()));
    }

    #[test]
    fn one_wrong_character_anywhere_is_noticed() {
        let text = ticket().encode();
        for at in 0..text.len() {
            for wrong in "abcdefghijklmnopqrstuvwxyz234567019-!".chars() {
                let mut changed = text.clone();
                changed.replace_range(at..=at, &wrong.to_string());
                if changed == text {
                    continue;
                }
                let error = Ticket::decode(&changed, 1_500).expect_err("refused");
                let expected = if at < 3 { TicketError::NotATicket } else { TicketError::Damaged };
                assert_eq!(error, expected, "{wrong} at {at}");
            }
            let mut missing = text.clone();
            missing.remove(at);
            assert!(Ticket::decode(&missing, 1_500).is_err(), "without the character at {at}");
        }
    }

    #[test]
    fn old_new_long_and_foreign_texts_are_refused_by_name() {
        let text = ticket().encode();
        assert_eq!(Ticket::decode(&text, 2_000), Err(TicketError::Expired));
        assert_eq!(Ticket::decode("hello", 0), Err(TicketError::NotATicket));
        assert_eq!(Ticket::decode("", 0), Err(TicketError::NotATicket));
        let long = "ec1".to_owned() + &"a".repeat(TICKET_CHARS);
        assert_eq!(Ticket::decode(&long, 0), Err(TicketError::TooLong));
        let mut bytes = vec![VERSION + 1, 1, 2, 3];
        let check = blake3::hash(&bytes);
        bytes.extend_from_slice(&check.as_bytes()[..CHECK_BYTES]);
        let newer = format!("ec1{}", BASE32_NOPAD.encode(&bytes));
        assert_eq!(Ticket::decode(&newer, 0), Err(TicketError::Newer(VERSION + 1)));
    }

    #[test]
    fn the_largest_ticket_can_be_read() {
        let mut large = ticket();
        let direct = (1..=12).map(|n| format!("[2001:db8::{n}]:65535").parse().expect("address"));
        let relay = "https://".to_owned() + &"r".repeat(Addresses::MAX_URL - 8);
        let at = Addresses { direct: direct.collect(), relays: vec![relay.clone(), relay + "x"] };
        large.peers = (0..8).map(|n| (NodeKey([n; 32]), at.clone())).collect();
        let text = large.encode();
        assert!(text.len() <= TICKET_CHARS, "{} characters", text.len());
        assert!(Ticket::decode(&text, 1_500).is_ok());
    }

    proptest! {
        #[test]
        fn random_text_is_refused(text in ".{0,300}") {
            prop_assert!(Ticket::decode(&text, 0).is_err());
        }

        #[test]
        fn random_content_with_a_right_checksum_never_panics(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..600),
        ) {
            bytes.insert(0, VERSION);
            let check = blake3::hash(&bytes);
            bytes.extend_from_slice(&check.as_bytes()[..CHECK_BYTES]);
            let _ = Ticket::decode(&format!("ec1{}", BASE32_NOPAD.encode(&bytes)), 0);
        }
    }
}
