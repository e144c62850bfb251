//! Networks made of namespaces: hosts with their own addresses, routers with NATs of several kinds,
//! links with delay and loss, and an internet between them.
//!
//! ```text
//!  host 192.168.1.10 ── router (nftables NAT) ──wire── internet (routes) ──── public host 45.0.1.2
//!  host 192.168.1.11 ──┘  45.0.2.2                        │
//!  host 192.168.1.10 ── router 45.0.3.2 ──────────────────┘
//! ```
//!
//! Every home has the same private network, as in life. A test that needs a lab runs itself again
//! below `unshare` ([`test`]): all namespaces belong to that process, so nothing is left behind,
//! however it ends, and labs of concurrent tests never meet. Root is not needed where the kernel
//! lets users make namespaces of their own.

mod enter;
mod namespace;
mod nat;
mod wire;

use std::{cell::Cell, net::Ipv4Addr, sync::Arc};

use anyhow::Result;

pub use self::{
    enter::{Needs, command, is_possible, run_inside, test},
    namespace::Namespace,
    nat::Nat,
    wire::Link,
};
use crate::node::Place;
use wire::Wires;

/// Prefix of the lab's internet. Public addresses that belong to somebody else out there: nodes
/// treat them as they treat any, which they would not do with those kept for documentation, and no
/// packet leaves the namespaces.
const INTERNET: [u8; 2] = [45, 0];
/// First two bytes of a home's network.
const HOME: [u8; 3] = [192, 168, 1];
/// Last byte of a home's first host.
const FIRST_HOST: u8 = 10;

/// An internet and what is attached to it.
#[derive(Debug)]
pub struct Lab {
    internet: Namespace,
    wires: Wires,
    attached: Cell<u8>,
}

impl Lab {
    /// An internet without anybody.
    ///
    /// # Errors
    /// This process is not inside [`test`], or a tool is missing.
    pub fn new() -> Result<Self> {
        namespace::prepare()?;
        let internet = Namespace::new("internet")?;
        internet.forward_packets()?;
        internet.nft(
            "table ip lab {
                set cut { type ifname . ifname; }
                chain forward {
                    type filter hook forward priority 0; policy accept;
                    iifname . oifname @cut drop
                }
            }",
        )?;
        Ok(Self { internet, wires: Wires::start()?, attached: Cell::new(0) })
    }

    /// A host with a public address and no router before it.
    pub fn public_host(&self, name: &str, link: Link) -> Result<Host> {
        let namespace = Namespace::new(name)?;
        let uplink = self.attach(&namespace, "eth0", link)?;
        namespace.ip(&["addr", "add", &format!("{}/24", uplink.address), "dev", "eth0"])?;
        namespace.ip(&["route", "add", "default", "via", &uplink.gateway.to_string()])?;
        Ok(Host { namespace, address: uplink.address, uplink: Some(uplink.interface) })
    }

    /// A router with a network behind it.
    pub fn site(&self, name: &str, nat: Nat, link: Link) -> Result<Site> {
        let router = Namespace::new(name)?;
        router.forward_packets()?;
        let uplink = self.attach(&router, "wan", link)?;
        let number = uplink.address.octets()[2];
        let [a, b] = INTERNET;
        // With addresses of the internet behind it, the router needs no NAT; half of the network.
        let (inside, bits, wan_bits) = match nat {
            Nat::FirewallOnly => (Ipv4Addr::new(a, b, number, 129), 25, 25),
            _ => (Ipv4Addr::new(HOME[0], HOME[1], HOME[2], 1), 24, 24),
        };
        router.ip(&["addr", "add", &format!("{}/{wan_bits}", uplink.address), "dev", "wan"])?;
        router.ip(&["route", "add", "default", "via", &uplink.gateway.to_string()])?;
        router.ip(&["link", "add", "lan", "type", "bridge"])?;
        router.ip(&["addr", "add", &format!("{inside}/{bits}"), "dev", "lan"])?;
        router.ip(&["link", "set", "lan", "up"])?;
        if nat == Nat::FirewallOnly {
            let behind = format!("{a}.{b}.{number}.128/25");
            self.internet.ip(&["route", "add", &behind, "via", &uplink.address.to_string()])?;
        }
        router.nft(nat.rules())?;
        Ok(Site {
            router,
            public: uplink.address,
            inside,
            bits,
            uplink: uplink.interface,
            hosts: Cell::new(0),
        })
    }

    /// Stops everything between these and those; what was cut before stays cut.
    pub fn cut(&self, these: &[&dyn Attached], those: &[&dyn Attached]) -> Result<()> {
        for this in these {
            for that in those {
                let (a, b) = (this.uplink(), that.uplink());
                self.internet.nft(&format!("add element ip lab cut {{ {a} . {b}, {b} . {a} }}"))?;
            }
        }
        Ok(())
    }

    /// Joins again what was cut.
    pub fn heal(&self) -> Result<()> {
        self.internet.nft("flush set ip lab cut")
    }

    fn attach(&self, namespace: &Namespace, name: &str, link: Link) -> Result<Uplink> {
        let number = self.attached.get() + 1;
        self.attached.set(number);
        let interface = format!("to{number}");
        if link.is_plain() {
            namespace::join((namespace, name), (&self.internet, &interface))?;
        } else {
            self.wires.join((namespace, name), (&self.internet, &interface), link)?;
        }
        let [a, b] = INTERNET;
        let gateway = Ipv4Addr::new(a, b, number, 1);
        // A firewall's other half of the network has a route of its own, which is more specific.
        self.internet.ip(&["addr", "add", &format!("{gateway}/24"), "dev", &interface])?;
        let address = Ipv4Addr::new(a, b, number, 2);
        Ok(Uplink { interface, gateway, address })
    }
}

#[derive(Debug)]
struct Uplink {
    /// Its name in the internet's namespace.
    interface: String,
    gateway: Ipv4Addr,
    address: Ipv4Addr,
}

/// Something with a link of its own to the internet.
pub trait Attached {
    /// The link's name in the internet's namespace.
    fn uplink(&self) -> &str;
}

/// A network behind a router.
#[derive(Debug)]
pub struct Site {
    router: Namespace,
    /// The router's address on the internet.
    pub public: Ipv4Addr,
    inside: Ipv4Addr,
    bits: u8,
    uplink: String,
    hosts: Cell<u8>,
}

impl Attached for Site {
    fn uplink(&self) -> &str {
        &self.uplink
    }
}

impl Site {
    pub fn host(&self, name: &str) -> Result<Host> {
        let namespace = Namespace::new(name)?;
        let address = self.plug(&namespace)?;
        Ok(Host { namespace, address, uplink: None })
    }

    /// Takes a host out of its network and into this one, under another address: a laptop that is
    /// carried to another place.
    pub fn take(&self, host: &mut Host) -> Result<()> {
        host.namespace.ip(&["link", "del", "eth0"])?;
        host.address = self.plug(&host.namespace)?;
        Ok(())
    }

    fn plug(&self, namespace: &Namespace) -> Result<Ipv4Addr> {
        let number = self.hosts.get();
        self.hosts.set(number + 1);
        let [a, b, c, router] = self.inside.octets();
        let first = if self.bits == 25 { router + 1 } else { FIRST_HOST };
        let address = Ipv4Addr::new(a, b, c, first + number);
        let port = format!("port{number}");
        namespace::join((namespace, "eth0"), (&self.router, &port))?;
        self.router.ip(&["link", "set", &port, "master", "lan"])?;
        namespace.ip(&["addr", "add", &format!("{address}/{}", self.bits), "dev", "eth0"])?;
        namespace.ip(&["route", "add", "default", "via", &self.inside.to_string()])?;
        Ok(address)
    }
}

/// Something that runs programs.
#[derive(Debug)]
pub struct Host {
    pub namespace: Namespace,
    pub address: Ipv4Addr,
    uplink: Option<String>,
}

impl Attached for Host {
    fn uplink(&self) -> &str {
        // A host behind a router has none; nothing is called so.
        self.uplink.as_deref().unwrap_or("none")
    }
}

impl Host {
    /// Where a node has to run to be on this host.
    pub fn place(&self) -> Arc<dyn Place> {
        Arc::new(self.namespace.clone())
    }

    /// Gives the host another address in the same network.
    pub fn readdress(&mut self, last_byte: u8) -> Result<()> {
        let [a, b, c, _] = self.address.octets();
        let address = Ipv4Addr::new(a, b, c, last_byte);
        let route = self.namespace.ip(&["-o", "route", "show", "default"])?;
        let via: Vec<&str> = route.split_whitespace().collect();
        self.namespace.ip(&["addr", "flush", "dev", "eth0"])?;
        self.namespace.ip(&["addr", "add", &format!("{address}/24"), "dev", "eth0"])?;
        self.namespace.ip(&[&["route", "add"], via.as_slice()].concat())?;
        self.address = address;
        Ok(())
    }
}
