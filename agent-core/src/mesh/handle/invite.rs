//! Tickets as the owner sees them: text, QR code, what is inside.

use agent_api::mesh::{InviteRequest, TicketInfo};
use qrcode::{EcLevel, QrCode, render::svg};

use super::MeshError;
use crate::mesh::{
    Addresses, MeshCard, NodeKey,
    net::snapshot::{Row, Snapshot},
    ticket::Ticket,
};

/// A week, unless the owner says otherwise.
const LIFETIME_S: u64 = 7 * 24 * 60 * 60;
const LONGEST_S: u64 = 30 * 24 * 60 * 60;
/// A ticket's text stays as short as this where it can: its QR code is then one that a phone reads
/// from a screen (120 modules a side).
const TEXT_CHARS: usize = 1_300;
/// Addresses of each peer other than the inviter.
const PEER_ADDRESSES: usize = 4;
/// Other peers, in case the inviter sleeps.
const OTHERS: usize = 7;
/// Smallest side of the QR code's image, in its own units.
const QR_SIDE: u32 = 256;

pub(super) fn expires_ms(request: &InviteRequest, now_ms: i64) -> Result<i64, MeshError> {
    let seconds = request.expires_in_s.unwrap_or(LIFETIME_S);
    if !(1..=LONGEST_S).contains(&seconds) {
        return Err(MeshError::BadRequest(format!(
            "a ticket is good for 1 to {LONGEST_S} seconds (30 days)"
        )));
    }
    Ok(now_ms.saturating_add_unsigned(seconds.saturating_mul(1_000)))
}

/// `times`: now and the end, milliseconds since 1970.
pub(super) fn ticket(
    snapshot: &Snapshot,
    own: NodeKey,
    own_name: &str,
    times: (i64, i64),
) -> Ticket {
    let (issued_ms, expires_ms) = times;
    let mut ticket = Ticket {
        card: MeshCard { settled: true, ..snapshot.card.clone() },
        inviter: own,
        inviter_name: own_name.to_owned(),
        peers: vec![(own, snapshot.addresses.clone())],
        issued_ms,
        expires_ms,
    };
    let mut others: Vec<&Row> = snapshot.rows.values().map(AsRef::as_ref).collect();
    others.retain(|row| !row.addresses.is_empty() && (row.is_connected() || row.is_seed()));
    others.sort_by_key(|row| (!row.is_seed(), !row.is_connected(), row.key));
    for row in others.into_iter().take(OTHERS) {
        ticket.peers.push((row.key, few(&row.addresses)));
        if ticket.encode().len() > TEXT_CHARS {
            ticket.peers.pop();
        }
    }
    ticket
}

fn few(addresses: &Addresses) -> Addresses {
    Addresses {
        direct: addresses.direct.iter().copied().take(PEER_ADDRESSES).collect(),
        relays: addresses.relays.iter().take(1).cloned().collect(),
    }
}

pub(super) fn info(ticket: &Ticket, current: &MeshCard) -> TicketInfo {
    let addresses = ticket.peers.iter().flat_map(|(_, at)| {
        at.direct.iter().map(ToString::to_string).chain(at.relays.iter().cloned())
    });
    TicketInfo {
        mesh_id: hex::encode(ticket.card.id.0),
        name: ticket.card.name.clone(),
        private: ticket.card.secret.is_some(),
        inviter: ticket.inviter.to_id(),
        inviter_name: ticket.inviter_name.clone(),
        expires_at_ms: ticket.expires_ms,
        joined: ticket.card.id == current.id && ticket.card.secret == current.secret,
        addresses: addresses.collect(),
    }
}

/// In capitals, which a QR code stores in fewer modules; a ticket is read either way.
pub(super) fn qr(text: &str) -> Result<String, MeshError> {
    let code = QrCode::with_error_correction_level(text.to_ascii_uppercase(), EcLevel::L);
    let code = code.map_err(|error| {
        MeshError::BadRequest(format!("the ticket does not fit into a QR code: {error}"))
    })?;
    let image = code.render::<svg::Color<'_>>().min_dimensions(QR_SIDE, QR_SIDE).build();
    Ok(image)
}
