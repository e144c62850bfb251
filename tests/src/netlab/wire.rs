//! Links with delay, jitter and loss, in user space: two TAP devices and a forwarder between them.
//! (The kernel's own way, netem, is a module that many machines lack.)

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::{
    runtime::Runtime,
    sync::mpsc,
    time::{Instant, sleep_until},
};
use tun_rs::{AsyncDevice, DeviceBuilder, Layer};

use super::namespace::{Namespace, run};

/// Frames on the way in one direction; more are lost, as in a router's queue. At 1,500 bytes and
/// 50 ms this carries 240 Mbit/s.
const ON_THE_WAY: usize = 1_024;
/// Longest Ethernet frame here: the usual 1,500 bytes, addresses and type.
const FRAME: usize = 1_514;

/// What a link does to packets, in each direction.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Link {
    pub delay: Duration,
    /// Added at random, up to this; packets stay in order.
    pub jitter: Duration,
    /// Share of packets that are lost, 0 to 1.
    pub loss: f64,
    /// Of the random numbers.
    pub seed: u64,
}

impl Link {
    /// A cable.
    pub const PLAIN: Self =
        Self { delay: Duration::ZERO, jitter: Duration::ZERO, loss: 0.0, seed: 0 };

    /// A delay in each direction and nothing else.
    pub const fn delayed(milliseconds: u64) -> Self {
        Self { delay: Duration::from_millis(milliseconds), ..Self::PLAIN }
    }

    pub(super) fn is_plain(&self) -> bool {
        self.delay.is_zero() && self.jitter.is_zero() && self.loss == 0.0
    }
}

/// The forwarders of a lab, on a thread of their own so that a busy test does not delay packets.
#[derive(Debug)]
pub(super) struct Wires {
    runtime: tokio::runtime::Handle,
    made: AtomicU32,
}

impl Wires {
    pub(super) fn start() -> Result<Self> {
        let runtime: Runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        // Ends with the process, as the lab does.
        thread::spawn(move || runtime.block_on(std::future::pending::<()>()));
        Ok(Self { runtime: handle, made: AtomicU32::new(0) })
    }

    /// Joins two namespaces by a link.
    pub(super) fn join(
        &self,
        a: (&Namespace, &str),
        b: (&Namespace, &str),
        link: Link,
    ) -> Result<()> {
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        let near = Arc::new(self.device(&format!("wire{number}a"), a)?);
        let far = Arc::new(self.device(&format!("wire{number}b"), b)?);
        let seeds = [link.seed.wrapping_mul(2), link.seed.wrapping_mul(2).wrapping_add(1)];
        self.runtime.spawn(carry(Arc::clone(&near), Arc::clone(&far), link, seeds[0]));
        self.runtime.spawn(carry(far, near, link, seeds[1]));
        Ok(())
    }

    /// A TAP device whose end for packets is in the namespace and whose end for us is here.
    fn device(
        &self,
        name: &str,
        (namespace, interface): (&Namespace, &str),
    ) -> Result<AsyncDevice> {
        let _runtime = self.runtime.enter();
        let device = DeviceBuilder::new()
            .name(name)
            .layer(Layer::L2)
            .enable(false)
            .build_async()
            .with_context(|| format!("making TAP device {name} with /dev/net/tun"))?;
        run(
            std::process::Command::new("ip").args([
                "link",
                "set",
                name,
                "netns",
                namespace.name(),
                "name",
                interface,
            ]),
            None,
        )?;
        namespace.ip(&["link", "set", interface, "up"])?;
        Ok(device)
    }
}

/// One direction of a link. Ends when a device is gone.
async fn carry(from: Arc<AsyncDevice>, to: Arc<AsyncDevice>, link: Link, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let (sender, mut receiver) = mpsc::channel::<(Instant, Vec<u8>)>(ON_THE_WAY);
    tokio::spawn(async move {
        while let Some((at, frame)) = receiver.recv().await {
            sleep_until(at).await;
            // Not delivered is lost.
            let _ = to.send(&frame).await;
        }
    });
    let mut frame = [0; FRAME];
    let mut last = Instant::now();
    while let Ok(length) = from.recv(&mut frame).await {
        if random.random_bool(link.loss) {
            continue;
        }
        last = last.max(Instant::now() + link.delay + link.jitter.mul_f64(random.random()));
        let _ = sender.try_send((last, frame[..length].to_vec()));
    }
}
