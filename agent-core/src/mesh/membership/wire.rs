//! Frames on the control stream: one byte that tells the kind, then the content.

use agent_api::mesh::LanJoin;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{broadcast::RecordId, io::FRAME_BYTES};
use crate::mesh::{MeshCard, record::RECORD_BYTES};

/// Lowest and highest version of what is inside frames that this node speaks.
pub(crate) const PROTOCOL: (u16, u16) = (3, 3);

const TALK: u8 = 0;
const OVERLAY: u8 = 1;
const RECORDS: u8 = 2;
const WAVE: u8 = 3;
/// The bit beside a broadcast record's hops.
const URGENT: u8 = 0x80;
/// Names in frames; longer ones are refused.
const NAME_BYTES: usize = 160;
/// Digests have 16 or 256 buckets.
pub(super) const MOST_BUCKETS: usize = 256;
/// Keys in one answer to a digest: a directory of 4,096 that shares nothing.
pub(super) const MOST_KEYS: usize = 4_096;
/// Ids of each kind in one wave.
pub(super) const MOST_IDS: usize = 512;
/// Records in one wave, in bytes: they and the ids fit into a frame.
pub(super) const WAVE_BYTES: usize = FRAME_BYTES - 2 * 16 * MOST_IDS - 64;

/// A frame that cannot be read. The peer is broken or hostile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BadFrame {
    TooLarge,
    Malformed,
}

#[derive(Debug, PartialEq)]
pub(super) enum Frame<'a> {
    Talk(Talk),
    /// A message of iroh-gossip's protocol; see [`super::mirror`].
    Overlay(&'a [u8]),
    Wave(Wave<'a>),
    /// Signed records, the answer to [`Talk::Want`] or [`Talk::Differ`].
    Records {
        more: bool,
        records: Vec<&'a [u8]>,
    },
}

/// Broadcast records, and words about them.
#[derive(Debug, PartialEq)]
pub(super) struct Wave<'a> {
    /// The sender has these and can be asked.
    pub(super) have: Vec<RecordId>,
    /// The sender asks for these.
    pub(super) want: Vec<RecordId>,
    pub(super) records: Vec<Passed<'a>>,
}

#[derive(Debug, PartialEq)]
pub(super) struct Passed<'a> {
    /// Nodes that passed it on before the sender.
    pub(super) hops: u8,
    /// It should be everywhere at once.
    pub(super) urgent: bool,
    pub(super) bytes: &'a [u8],
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Talk {
    Hello(Hello),
    Ping(u64),
    Pong(u64),
    Digest(Digest),
    Differ(Differ),
    /// First eight bytes of the keys whose records are wanted.
    Want(Vec<u64>),
    /// May this node join the mesh of the other? Its owner decides.
    Ask,
    /// Welcome: what it takes to be in this node's mesh.
    Card(MeshCard),
    /// No.
    Denied,
    /// Somebody was invited to this mesh: from now on nobody comes in unasked. Said between members,
    /// and passed on.
    Settled,
}

/// The first frame on a connection, from both ends.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Hello {
    pub(super) protocol: (u16, u16),
    /// Hash of the mesh's id.
    pub(super) mesh: [u8; 32],
    /// Random at each start: tells a restart, and two computers with one key.
    pub(super) instance: u64,
    /// Knowledge of the mesh's secret, bound to this connection.
    pub(super) proof: [u8; 32],
    /// What the node calls itself.
    pub(super) name: String,
    /// Its mesh's name; shown on the LAN only.
    pub(super) mesh_name: Option<String>,
    pub(super) settled: bool,
    pub(super) lan_join: LanJoin,
    /// What time it is, milliseconds since 1970: a node whose clock is wrong learns it at once, and
    /// its peers know why its records are refused.
    pub(super) at_ms: i64,
}

/// Sums over all records by the first bits of their authors' keys.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Digest {
    pub(super) sums: Vec<u64>,
}

/// The buckets in which the other end has something else, with what it has there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Differ {
    /// How many buckets the digest had.
    pub(super) buckets: u16,
    pub(super) which: Vec<u8>,
    pub(super) has: Vec<Holding>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Holding {
    /// First eight bytes of the author's key, big-endian.
    pub(super) prefix: u64,
    pub(super) at_ms: i64,
}

impl Talk {
    pub(super) fn encode(&self) -> Bytes {
        // Writing to a vector cannot fail for these types.
        postcard::to_extend(self, vec![TALK]).unwrap_or_default().into()
    }

    fn is_within_bounds(&self) -> bool {
        match self {
            Self::Hello(hello) => {
                is_name(&hello.name) && hello.mesh_name.as_deref().is_none_or(is_name)
            }
            Self::Digest(digest) => matches!(digest.sums.len(), 16 | MOST_BUCKETS),
            Self::Differ(differ) => {
                matches!(usize::from(differ.buckets), 16 | MOST_BUCKETS)
                    && differ.which.len() <= usize::from(differ.buckets)
                    && differ.which.iter().all(|&at| u16::from(at) < differ.buckets)
                    && differ.has.len() <= MOST_KEYS
            }
            Self::Want(prefixes) => prefixes.len() <= MOST_KEYS,
            Self::Card(card) => is_name(&card.name),
            Self::Ping(_) | Self::Pong(_) | Self::Ask | Self::Denied | Self::Settled => true,
        }
    }
}

/// A name to be shown in one line, and to be put into a ticket, which takes no others.
fn is_name(text: &str) -> bool {
    text.len() <= NAME_BYTES && !text.chars().any(char::is_control)
}

/// Puts the kind before an overlay message; `write` appends the message.
pub(super) fn overlay_frame(write: impl FnOnce(Vec<u8>) -> Option<Vec<u8>>) -> Option<Bytes> {
    write(vec![OVERLAY]).map(Bytes::from)
}

/// How many of each id, the ids, then records to the end: hops, length, bytes.
pub(super) fn wave_frame(wave: &Wave<'_>) -> Bytes {
    let records: usize = wave.records.iter().map(|record| record.bytes.len() + 3).sum();
    let ids = 16 * (wave.have.len() + wave.want.len());
    let mut frame = Vec::with_capacity(5 + ids + records);
    frame.push(WAVE);
    for ids in [&wave.have, &wave.want] {
        frame.extend_from_slice(&u16::try_from(ids.len()).unwrap_or(u16::MAX).to_le_bytes());
    }
    for id in wave.have.iter().chain(&wave.want) {
        frame.extend_from_slice(&id.0);
    }
    for record in &wave.records {
        frame.push(record.hops.min(!URGENT) | if record.urgent { URGENT } else { 0 });
        let length = u16::try_from(record.bytes.len()).unwrap_or(u16::MAX);
        frame.extend_from_slice(&length.to_le_bytes());
        frame.extend_from_slice(record.bytes);
    }
    frame.into()
}

fn decode_wave(content: &[u8]) -> Result<Frame<'_>, BadFrame> {
    let ([a, b, c, d], rest) = content.split_first_chunk::<4>().ok_or(BadFrame::Malformed)?;
    let have = usize::from(u16::from_le_bytes([*a, *b]));
    let want = usize::from(u16::from_le_bytes([*c, *d]));
    if have > MOST_IDS || want > MOST_IDS {
        return Err(BadFrame::Malformed);
    }
    let (ids, mut rest) = rest.split_at_checked(16 * (have + want)).ok_or(BadFrame::Malformed)?;
    let mut ids = ids.as_chunks::<16>().0.iter().map(|id| RecordId(*id));
    let (have, want) = (ids.by_ref().take(have).collect(), ids.collect());
    let mut records = Vec::new();
    while !rest.is_empty() {
        let ([way, a, b], after) = rest.split_first_chunk::<3>().ok_or(BadFrame::Malformed)?;
        let length = usize::from(u16::from_le_bytes([*a, *b]));
        if length > RECORD_BYTES {
            return Err(BadFrame::TooLarge);
        }
        let (bytes, after) = after.split_at_checked(length).ok_or(BadFrame::Malformed)?;
        let (hops, urgent) = (way & !URGENT, way & URGENT != 0);
        records.push(Passed { hops, urgent, bytes });
        rest = after;
    }
    Ok(Frame::Wave(Wave { have, want, records }))
}

/// Cuts records into frames.
pub(super) fn record_frames<'a>(records: impl Iterator<Item = &'a Bytes>) -> Vec<Bytes> {
    let mut frames = Vec::new();
    let mut frame = vec![RECORDS, 0];
    for record in records {
        if frame.len() + 2 + record.len() > FRAME_BYTES {
            frame[1] = 1;
            frames.push(std::mem::replace(&mut frame, vec![RECORDS, 0]).into());
        }
        let length = u16::try_from(record.len()).unwrap_or(u16::MAX);
        frame.extend_from_slice(&length.to_le_bytes());
        frame.extend_from_slice(record);
    }
    frames.push(frame.into());
    frames
}

pub(super) fn decode(bytes: &[u8]) -> Result<Frame<'_>, BadFrame> {
    if bytes.len() > FRAME_BYTES {
        return Err(BadFrame::TooLarge);
    }
    let (&kind, content) = bytes.split_first().ok_or(BadFrame::Malformed)?;
    match kind {
        TALK => {
            let (talk, rest) =
                postcard::take_from_bytes::<Talk>(content).map_err(|_| BadFrame::Malformed)?;
            let fine = rest.is_empty() && talk.is_within_bounds();
            if fine { Ok(Frame::Talk(talk)) } else { Err(BadFrame::Malformed) }
        }
        OVERLAY => Ok(Frame::Overlay(content)),
        WAVE => decode_wave(content),
        RECORDS => decode_records(content),
        _ => Err(BadFrame::Malformed),
    }
}

fn decode_records(content: &[u8]) -> Result<Frame<'_>, BadFrame> {
    let (&more, mut rest) = content.split_first().ok_or(BadFrame::Malformed)?;
    if more > 1 {
        return Err(BadFrame::Malformed);
    }
    let mut records = Vec::new();
    while !rest.is_empty() {
        let (length, after) = rest.split_first_chunk::<2>().ok_or(BadFrame::Malformed)?;
        let length = usize::from(u16::from_le_bytes(*length));
        if length > RECORD_BYTES {
            return Err(BadFrame::TooLarge);
        }
        let (record, after) = after.split_at_checked(length).ok_or(BadFrame::Malformed)?;
        records.push(record);
        rest = after;
    }
    Ok(Frame::Records { more: more == 1, records })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hello() -> Bytes {
        Talk::Hello(Hello {
            protocol: PROTOCOL,
            mesh: [1; 32],
            instance: 7,
            proof: [2; 32],
            name: "desk".to_owned(),
            mesh_name: None,
            settled: true,
            lan_join: LanJoin::Automatic,
            at_ms: 1_800_000_000_000,
        })
        .encode()
    }

    #[test]
    fn many_records_are_cut_into_frames_and_none_is_lost() {
        let record = Bytes::from(vec![5; 3_000]);
        let frames = record_frames(std::iter::repeat_n(&record, 100));
        let mut count = 0;
        for (at, frame) in frames.iter().enumerate() {
            let Ok(Frame::Records { more, records }) = decode(frame) else {
                panic!("frame {at} cannot be read")
            };
            assert_eq!(more, at + 1 < frames.len());
            count += records.len();
        }
        assert_eq!(count, 100);
    }

    #[test]
    fn names_with_control_characters_are_refused() {
        let card = |name: &str| {
            let id = crate::mesh::MeshId([7; 32]);
            let card = MeshCard { id, name: name.to_owned(), secret: None, settled: true };
            Talk::Card(card).encode()
        };
        assert!(decode(&card("Büro 2")).is_ok());
        for name in ["two\nlines", "\u{1b}[2J", "\u{0}"] {
            assert_eq!(decode(&card(name)), Err(BadFrame::Malformed), "{name:?}");
        }
    }

    #[test]
    fn a_frame_that_is_too_large_is_refused_before_it_is_read() {
        assert_eq!(decode(&vec![TALK; FRAME_BYTES + 1]), Err(BadFrame::TooLarge));
        assert_eq!(decode(&[]), Err(BadFrame::Malformed));
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode(&bytes);
        }

        #[test]
        fn a_changed_frame_never_panics(at in 0usize..100, byte in any::<u8>(), cut in 0usize..100) {
            let mut bytes = hello().to_vec();
            let at = at % bytes.len();
            bytes[at] = byte;
            bytes.truncate(bytes.len() - cut % bytes.len());
            let _ = decode(&bytes);
        }
    }
}
