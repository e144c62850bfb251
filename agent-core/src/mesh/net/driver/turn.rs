//! What the driver does at each turn, besides connections.

use agent_api::mesh::{Announcement, SourceKind};
use iroh::{EndpointAddr, endpoint::RelayStatus};
use tokio::time::Instant;

use super::{Driver, Exit, SLOW_TICKS};
use crate::mesh::{
    membership::io::{Command, Input, MeshEvent},
    net::{
        endpoint::from_iroh,
        session::{Answer, Ask, Request, relay_urls, write_error},
    },
    sources::Found,
    state_file::TicketPeer,
};

impl Driver<'_> {
    /// On disk first, then done, then in the view, then answered.
    pub(super) fn answer(&mut self, Request { ask, reply }: Request) {
        if let Ask::Connect(peer) = ask {
            return self.connect(peer, reply);
        }
        #[cfg(test)]
        assert!(!matches!(ask, Ask::Break), "asked to");
        let result = self.session.write_down(&ask);
        if result.is_ok() {
            self.carry_out(ask);
            self.pump();
            self.publish();
        }
        // Whoever asked may be gone.
        let _ = reply.send(result.map(|()| Answer::Done));
    }

    fn carry_out(&mut self, ask: Ask) {
        match ask {
            Ask::Enter { card, peers } => {
                self.entered = Instant::now();
                self.command(Command::Enter(card));
                self.publisher.all_dirty();
                self.set_own();
                self.offer_ticket(peers);
                self.set_relays();
                self.sources.look_now();
            }
            Ask::Settle => {
                if let Some(file) = &self.session.file {
                    let card = file.memory().card.clone();
                    self.command(Command::Enter(card));
                }
            }
            Ask::Block { key, on: true, .. } => self.command(Command::Block(key)),
            Ask::Block { key, on: false, .. } => self.command(Command::Unblock(key)),
            Ask::Trust { key, on, .. } => {
                self.command(Command::Trust { peer: key, trusted: on });
                self.publisher.dirty(key);
            }
            Ask::Admit { key, admit } => self.command(Command::Admit { peer: key, admit }),
            Ask::Refresh => {
                self.command(Command::Refresh);
                self.sources.look_now();
            }
            Ask::Connect(_) => {}
            #[cfg(test)]
            Ask::Break => {}
        }
    }

    /// Nodes that the ticket to this mesh named.
    pub(super) fn offer_ticket(&mut self, peers: Vec<TicketPeer>) {
        for TicketPeer { key, addresses, name } in peers {
            let (source, foreign) = (SourceKind::Ticket, false);
            self.found(Found { peer: key, addresses, source, name, foreign });
        }
    }

    pub(super) fn found(&mut self, found: Found) {
        let Found { peer, addresses, source, name, foreign } = found;
        self.publisher.dirty(peer);
        self.input(Input::Found { peer, addresses, source, name, foreign });
    }

    pub(super) fn settings_changed(&mut self) -> Option<Exit> {
        let settings = self.session.setup.settings.borrow_and_update().mesh.clone();
        if !settings.enabled {
            return Some(Exit::Off);
        }
        self.command(Command::SetLanJoin(settings.lan_join));
        self.set_relays();
        None
    }

    /// What this node says of itself, with what only the mesh knows.
    pub(super) fn announcement(&self) -> Announcement {
        let mut said = self.session.setup.announcement.borrow().clone();
        said.seed = self.session.setup.seed.is_some();
        said.relay = self.sources.relay_urls().pop();
        said.dht_port = self.sources.dht_port();
        said
    }

    pub(super) fn announce(&mut self) {
        // Seen, so that the same change does not wake the driver again.
        self.session.setup.announcement.mark_unchanged();
        let said = self.announcement();
        self.input(Input::Announce(Box::new(said)));
        self.set_own();
        self.publisher.changed();
    }

    pub(super) fn address_changed(&mut self, address: &EndpointAddr) {
        let addresses = from_iroh(address);
        if addresses == self.own_addresses {
            return;
        }
        self.own_addresses = addresses.clone();
        self.input(Input::OwnAddresses(addresses));
        self.set_own();
        self.publisher.changed();
    }

    pub(super) fn relay_status(&mut self, status: &[RelayStatus]) {
        self.relay_connected = status.iter().any(RelayStatus::is_connected);
        self.publisher.changed();
    }

    pub(super) fn network_changed(&mut self, why: &str) {
        tracing::info!("{why}: connections are checked");
        let endpoint = self.endpoint.clone();
        self.context.tasks.spawn(async move { endpoint.network_change().await });
        self.input(Input::NetworkChanged);
    }

    pub(super) fn tick(&mut self) {
        self.ticks = self.ticks.wrapping_add(1);
        if self.sleep.slept(self.now()) {
            self.network_changed("the computer slept");
        }
        let conns: Vec<_> = self.links.keys().copied().collect();
        for conn in conns {
            self.measure(conn);
        }
        if self.ticks.is_multiple_of(SLOW_TICKS) {
            for link in self.links.values() {
                if let Some((_, rtt)) = link.told {
                    link.live.sample(rtt);
                }
            }
            self.forget_gone();
            self.set_directory();
            self.set_relays();
            self.look_at_all();
        }
    }

    /// Peers that begin or cease to be used for streams.
    pub(super) fn uses_changed(&mut self) {
        let used = self.context.uses.peers();
        let told = std::mem::replace(&mut self.used, used.clone());
        for peer in used.difference(&told) {
            self.input(Input::InUse { peer: *peer, in_use: true });
        }
        for peer in told.difference(&used) {
            self.input(Input::InUse { peer: *peer, in_use: false });
        }
    }

    /// The owner's relays, those of tickets, those of this mesh's seeds; others are left.
    pub(super) fn set_relays(&mut self) {
        let seeds = self.seed_relays();
        let settings = self.session.setup.settings.borrow().clone();
        let wanted = relay_urls(&settings, &self.session.ticket_relays(), &seeds);
        self.wanted.send_if_modified(|now| {
            let changed = now.relays != wanted;
            now.relays = wanted;
            changed
        });
    }

    pub(super) fn event(&mut self, event: MeshEvent) {
        match &event {
            MeshEvent::PeerUp { peer } => {
                self.set_members();
                self.answer_asked(*peer);
            }
            MeshEvent::PeerDown { .. } => self.set_members(),
            MeshEvent::Entered(card) => {
                let file = self.session.file.as_mut();
                let written = file.map_or(Ok(()), |file| {
                    file.change(|memory| memory.enter(card.clone(), Vec::new()))
                });
                if let Err(error) = written.map_err(write_error) {
                    // In the mesh all the same; the next start is in the old one and merges again.
                    tracing::error!("the new mesh cannot be written down: {error}");
                }
                // From here on sources look, and save, for the new mesh; its relays count.
                let moved = self.card.borrow().id != card.id;
                self.set_own();
                self.set_relays();
                if moved {
                    self.entered = Instant::now();
                } else {
                    // Only settled, as when its owner admits somebody: nobody needs to be told.
                    return self.publisher.all_dirty();
                }
            }
            MeshEvent::Save { peer, addresses, name } => {
                self.sources.save(*peer, addresses.clone(), name.clone());
            }
            _ => {}
        }
        self.publisher.event(event);
    }
}
