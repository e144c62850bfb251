//! One network namespace: its interfaces, its firewall, and sockets inside it.

use std::{
    fs::File,
    io::Write as _,
    net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    os::fd::AsFd as _,
    process::{Command, Output, Stdio},
    thread,
};

use anyhow::{Context as _, Result};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::net::TcpStream;

use crate::node::Place;

/// A namespace by its name. It lives as long as the lab's process.
#[derive(Clone, Debug)]
pub struct Namespace {
    name: String,
}

/// Makes the folder of namespaces this lab's own and its loopback work.
pub(super) fn prepare() -> Result<()> {
    run(Command::new("mount").args(["-t", "tmpfs", "none", "/run"]), None)?;
    run(Command::new("ip").args(["link", "set", "lo", "up"]), None).map(|_| ())
}

/// Joins two namespaces with a cable that neither delays nor loses.
pub(super) fn join(a: (&Namespace, &str), b: (&Namespace, &str)) -> Result<()> {
    let (from, to) = (a.0.name.as_str(), b.0.name.as_str());
    let line = ["link", "add", a.1, "netns", from, "type", "veth", "peer", "name", b.1];
    run(Command::new("ip").args(line).args(["netns", to]), None)?;
    a.0.ip(&["link", "set", a.1, "up"])?;
    b.0.ip(&["link", "set", b.1, "up"]).map(|_| ())
}

impl Namespace {
    pub(super) fn new(name: &str) -> Result<Self> {
        run(Command::new("ip").args(["netns", "add", name]), None)?;
        let this = Self { name: name.to_owned() };
        // One family of addresses: a link-local path around a NAT would prove nothing.
        this.set("net/ipv6/conf/all/disable_ipv6")?;
        this.set("net/ipv6/conf/default/disable_ipv6")?;
        this.ip(&["link", "set", "lo", "up"])?;
        Ok(this)
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    fn file(&self) -> String {
        format!("/run/netns/{}", self.name)
    }

    /// `ip` inside; gives what it prints.
    pub fn ip(&self, arguments: &[&str]) -> Result<String> {
        let output = run(Command::new("ip").args(["-n", &self.name]).args(arguments), None)?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Firewall rules, in nft's own language.
    pub fn nft(&self, rules: &str) -> Result<()> {
        let net = format!("--net={}", self.file());
        run(Command::new("nsenter").args([&net, "nft", "-f", "-"]), Some(rules)).map(|_| ())
    }

    pub(super) fn forward_packets(&self) -> Result<()> {
        self.set("net/ipv4/ip_forward")
    }

    /// Turns a setting of the kernel on. IPv6 may be missing, which is as good as off.
    fn set(&self, setting: &str) -> Result<()> {
        let path = format!("/proc/sys/{setting}");
        self.inside(move || match std::fs::write(&path, "1") {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("writing {path}"))
            }
            _ => Ok(()),
        })
    }

    /// Does something in a thread inside. What it opens stays inside, wherever it is used.
    pub fn inside<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let file = self.file();
        let thread = thread::spawn(move || {
            enter(&file)?;
            work()
        });
        thread.join().map_err(|_| anyhow::anyhow!("a thread in {} panicked", self.name))?
    }

    /// A UDP socket inside, for a tokio runtime.
    pub fn udp(&self, address: Ipv4Addr, port: u16) -> Result<tokio::net::UdpSocket> {
        let socket = self.inside(move || Ok(UdpSocket::bind((address, port))?))?;
        socket.set_nonblocking(true)?;
        Ok(tokio::net::UdpSocket::from_std(socket)?)
    }
}

impl Place for Namespace {
    fn prefix(&self) -> Vec<String> {
        vec!["nsenter".into(), format!("--net={}", self.file())]
    }

    fn door(&self, inside: SocketAddr) -> Result<SocketAddr> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let outside = listener.local_addr()?;
        let file = self.file();
        thread::spawn(move || -> Result<()> {
            enter(&file)?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(pass_through(listener, inside))
        });
        Ok(outside)
    }
}

/// Carries connections to an address of the namespace in which this thread is.
async fn pass_through(listener: TcpListener, inside: SocketAddr) -> Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    loop {
        let (mut from, _) = listener.accept().await?;
        tokio::spawn(async move {
            // A node that is down is seen as a connection that closes.
            if let Ok(mut to) = TcpStream::connect(inside).await {
                let _ = tokio::io::copy_bidirectional(&mut from, &mut to).await;
            }
        });
    }
}

fn enter(file: &str) -> Result<()> {
    let namespace = File::open(file).with_context(|| format!("opening {file}"))?;
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
        .with_context(|| format!("entering {file}"))
}

/// Runs a program to its end; its own words are in the error.
pub(super) fn run(command: &mut Command, input: Option<&str>) -> Result<Output> {
    let stdin = if input.is_some() { Stdio::piped() } else { Stdio::null() };
    let mut child = command
        .stdin(stdin)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting {command:?}"))?;
    if let (Some(mut stdin), Some(input)) = (child.stdin.take(), input) {
        stdin.write_all(input.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "{command:?}: {}: {said}", output.status);
    Ok(output)
}
