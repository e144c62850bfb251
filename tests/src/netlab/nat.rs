//! What home routers do to UDP, as rules of nftables. Terms of RFC 4787.

/// How a router maps inner addresses to outer ports, and what it lets in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nat {
    /// One outer port per inner port, whoever is spoken to (endpoint-independent mapping), and open
    /// to everyone (endpoint-independent filtering): "full cone".
    FullCone,
    /// The same mapping; lets in who was spoken to, from any port (address-dependent filtering).
    AddressRestricted,
    /// The same mapping; lets in who was spoken to, from the same port (address- and port-dependent
    /// filtering). What Linux's `masquerade` is, and most homes have.
    PortRestricted,
    /// Another outer port for everyone spoken to (address- and port-dependent mapping); filters like
    /// `PortRestricted`. Large companies and phone networks.
    Symmetric,
    /// No translation; lets in who was spoken to.
    FirewallOnly,
}

impl Nat {
    pub const ALL: [Self; 5] = [
        Self::FullCone,
        Self::AddressRestricted,
        Self::PortRestricted,
        Self::Symmetric,
        Self::FirewallOnly,
    ];

    /// Whether the outer address is the same for everyone spoken to, which is what hole punching
    /// needs of at least one side.
    pub fn maps_independently(self) -> bool {
        self != Self::Symmetric
    }

    /// Rules for a router with its uplink at `wan`.
    ///
    /// New packets from outside are dropped before the router's own connection tracking keeps them:
    /// else the first of a peer's hole-punching packets would take the very mapping that the answer
    /// needs, and every hole would be closed by the attempt to open it.
    pub(super) fn rules(self) -> &'static str {
        match self {
            Self::FullCone => {
                "table ip home {
                    map cone { type inet_service : ipv4_addr; flags timeout; timeout 2m; size 1024; }
                    chain pre {
                        type nat hook prerouting priority -100;
                        iifname wan meta l4proto udp dnat to udp dport map @cone
                    }
                    chain post {
                        type nat hook postrouting priority 100;
                        oifname wan meta l4proto udp update @cone { udp sport : ip saddr }
                        oifname wan masquerade
                    }
                    chain input {
                        type filter hook input priority 0;
                        iifname wan ct state new drop
                    }
                    chain forward {
                        type filter hook forward priority 0;
                        iifname wan ct state new ct status ! dnat drop
                    }
                }"
            }
            Self::AddressRestricted => {
                "table ip home {
                    map cone { type inet_service : ipv4_addr; flags timeout; timeout 2m; size 1024; }
                    set spoken { type ipv4_addr . inet_service; flags timeout; timeout 2m; size 4096; }
                    chain pre {
                        type nat hook prerouting priority -100;
                        iifname wan ip saddr . udp dport @spoken dnat to udp dport map @cone
                    }
                    chain post {
                        type nat hook postrouting priority 100;
                        oifname wan meta l4proto udp update @cone { udp sport : ip saddr }
                        oifname wan meta l4proto udp update @spoken { ip daddr . udp sport }
                        oifname wan masquerade
                    }
                    chain input {
                        type filter hook input priority 0;
                        iifname wan ct state new drop
                    }
                    chain forward {
                        type filter hook forward priority 0;
                        iifname wan ct state new ct status ! dnat drop
                    }
                }"
            }
            Self::PortRestricted => {
                "table ip home {
                    chain post {
                        type nat hook postrouting priority 100;
                        oifname wan masquerade
                    }
                    chain input {
                        type filter hook input priority 0;
                        iifname wan ct state new drop
                    }
                    chain forward {
                        type filter hook forward priority 0;
                        iifname wan ct state new drop
                    }
                }"
            }
            Self::Symmetric => {
                "table ip home {
                    chain post {
                        type nat hook postrouting priority 100;
                        oifname wan masquerade fully-random
                    }
                    chain input {
                        type filter hook input priority 0;
                        iifname wan ct state new drop
                    }
                    chain forward {
                        type filter hook forward priority 0;
                        iifname wan ct state new drop
                    }
                }"
            }
            Self::FirewallOnly => {
                "table ip home {
                    chain input {
                        type filter hook input priority 0;
                        iifname wan ct state new drop
                    }
                    chain forward {
                        type filter hook forward priority 0;
                        iifname wan ct state new drop
                    }
                }"
            }
        }
    }
}
