//! What can be typed after `edgecoder-node mesh`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::model::args::Json;

#[derive(Debug, Parser)]
#[command(after_help = "Examples:
  edgecoder-node mesh status                which mesh this node is in, and who is there
  edgecoder-node mesh invite                a ticket for another computer
  edgecoder-node mesh join TICKET           join with it, on that computer
  edgecoder-node mesh peers                 peers, how each is reached and what it offers

NODE is a peer's name, its id, or the first digits of its id.")]
pub(crate) struct Mesh {
    /// Where the node keeps its data [default: EdgeCoder's folder among your application data]
    #[arg(long, value_name = "FOLDER", env = "EDGECODER_DATA_DIR", global = true)]
    pub(crate) data_dir: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) command: MeshCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum MeshCommand {
    /// Show which mesh this node is in and how many peers there are
    Status(Json),
    /// Show the peers: connected ones first, by round-trip time
    #[command(visible_alias = "ls")]
    Peers(Peers),
    /// Show everything known about one peer
    Peer(Named),
    /// Make a ticket with which another computer joins
    Invite(Invite),
    /// Leave the current mesh and join another by its ticket
    Join(Join),
    /// Leave the mesh; the node goes on in a new private one of its own
    Leave(Sure),
    /// Leave the mesh and make another
    Create(Create),
    /// Take nothing from a node and send it nothing
    Block(Marked),
    /// Stop blocking a node
    Unblock(Marked),
    /// Mark a node as one that you trust, or as your own: privacy modes of tasks go by it
    Trust(Trusted),
    /// Take that mark away
    Untrust(Marked),
    /// Let a node on this network, which asks for it, into the mesh
    Admit(Marked),
    /// Do not let it in
    Refuse(Marked),
    /// Show the ways of finding peers, each with its state and the reason
    Sources(Sources),
    /// Show what a ticket leads to; changes nothing
    Ticket(Ticket),
}

#[derive(Debug, Args)]
pub(crate) struct Peers {
    /// Only those with a connection
    #[arg(long)]
    pub(crate) connected: bool,
    /// At most so many
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) limit: Option<u32>,
    #[command(flatten)]
    pub(crate) output: Json,
}

#[derive(Debug, Args)]
pub(crate) struct Named {
    /// The peer
    #[arg(value_name = "NODE")]
    pub(crate) node: String,
    #[command(flatten)]
    pub(crate) output: Json,
}

#[derive(Debug, Args)]
pub(crate) struct Trusted {
    /// The node
    #[arg(value_name = "NODE")]
    pub(crate) node: String,
    /// It is yours, not only one that you trust
    #[arg(long)]
    pub(crate) own: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Marked {
    /// The node
    #[arg(value_name = "NODE")]
    pub(crate) node: String,
}

#[derive(Debug, Args)]
pub(crate) struct Invite {
    /// How long the ticket is good for: 30min, 12h, 7d; at most 30d [default: 7d]
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    pub(crate) expires: Option<u64>,
    /// Do not draw the ticket as QR code on the terminal
    #[arg(long)]
    pub(crate) no_qr: bool,
    #[command(flatten)]
    pub(crate) output: Json,
}

#[derive(Debug, Args)]
pub(crate) struct Join {
    /// The ticket; "-" reads it from stdin, where others on this computer do not see it
    pub(crate) ticket: String,
    #[command(flatten)]
    pub(crate) sure: Sure,
}

#[derive(Debug, Args)]
pub(crate) struct Sure {
    /// Do not ask, even if there is no way back to the current mesh
    #[arg(long, short)]
    pub(crate) yes: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Create {
    /// Its name for people, 1 to 40 characters
    pub(crate) name: String,
    /// Tickets without a secret: whoever learns its id can make one and join
    #[arg(long)]
    pub(crate) public: bool,
    #[command(flatten)]
    pub(crate) sure: Sure,
}

#[derive(Debug, Args)]
pub(crate) struct Sources {
    /// First ask every source for peers
    #[arg(long)]
    pub(crate) refresh: bool,
    #[command(flatten)]
    pub(crate) output: Json,
}

#[derive(Debug, Args)]
pub(crate) struct Ticket {
    /// The ticket; "-" reads it from stdin
    pub(crate) ticket: String,
    #[command(flatten)]
    pub(crate) output: Json,
}

/// `90s`, `30min`, `12h`, `7d`.
pub(crate) fn seconds(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let unit = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (count, unit) = text.split_at(unit);
    let one = match unit.trim() {
        "s" => 1,
        "min" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err("a time is a number and s, min, h or d: 30min, 12h, 7d".to_owned()),
    };
    let count: u64 = count.parse().map_err(|_| "a time begins with a number: 7d".to_owned())?;
    count.checked_mul(one).ok_or_else(|| "that is too long".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_with_their_unit() {
        for (text, expected) in [("90s", 90), ("30min", 1_800), ("12 h", 43_200), ("7d", 604_800)] {
            assert_eq!(seconds(text), Ok(expected), "{text}");
        }
        for bad in ["", "7", "d", "7 weeks", "-1d", "99999999999999999999d"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }
}
