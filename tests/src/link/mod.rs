//! A link in userspace: two TUN devices, one per namespace, and threads that carry packets between them with a
//! delay, a rate, and faults on purpose. It stands in for netem where the kernel has none.

mod carry;
mod overlap;
mod segments;
mod tun;

use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};

use crate::netns::{Netns, ip};

pub const NEAR: Ipv4Addr = Ipv4Addr::new(10, 201, 0, 1);
pub const FAR: Ipv4Addr = Ipv4Addr::new(10, 201, 0, 2);

/// What the link does to packets, the same each way.
#[derive(Debug, Clone)]
pub struct Nature {
    pub delay: Duration,
    /// Bits per second.
    pub rate: u64,
    pub mtu: u32,
    /// One packet in so many is lost.
    pub lose_one_in: Option<u64>,
    /// One packet in so many arrives a millisecond late, behind others.
    pub delay_one_in: Option<u64>,
    /// One data segment in so many arrives as a retransmission would: together with the one before it, which
    /// has arrived already.
    pub overlap_one_in: Option<u64>,
}

impl Nature {
    /// Without faults segments cross as the kernel's offload makes them, up to 64 KiB in one piece, or the link's
    /// own work takes the machine that is to be measured. Faults want single segments.
    fn offloads(&self) -> bool {
        [self.lose_one_in, self.delay_one_in, self.overlap_one_in].iter().all(Option::is_none)
    }

    pub fn clean(delay: Duration, rate: u64) -> Nature {
        Nature { delay, rate, mtu: 1500, lose_one_in: None, delay_one_in: None, overlap_one_in: None }
    }
}

/// What happened so far, in packets as a wire has them: an offloaded piece counts as the segments it stands for.
#[derive(Debug, Default)]
pub struct Counts {
    pub carried: AtomicU64,
    pub lost: AtomicU64,
    pub late: AtomicU64,
    pub overlapped: AtomicU64,
    /// Dropped because the link's queue was full, as on any router.
    pub overrun: AtomicU64,
}

/// Two namespaces and the link between them: [`NEAR`] in the one, [`FAR`] in the other.
pub struct Link {
    pub near: Netns,
    pub far: Netns,
    pub counts: Arc<Counts>,
    cut: Arc<AtomicBool>,
    stop: Arc<OwnedFd>,
    threads: Vec<JoinHandle<()>>,
}

impl Link {
    pub fn new(nature: &Nature) -> anyhow::Result<Link> {
        let (near, far) = (Netns::new()?, Netns::new()?);
        let near_tun = near.run(|| device(NEAR, FAR, nature))?;
        let far_tun = far.run(|| device(FAR, NEAR, nature))?;
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let (counts, cut) = (Arc::new(Counts::default()), Arc::new(AtomicBool::new(false)));
        let (near_tun, far_tun) = (Arc::new(near_tun), Arc::new(far_tun));
        let threads = [(near_tun.clone(), far_tun.clone(), 1), (far_tun, near_tun, 2)]
            .into_iter()
            .map(|(from, to, seed)| {
                let (counts, cut) = (counts.clone(), cut.clone());
                let way = carry::Way::new(from, to, nature.clone(), counts, cut, stop.clone(), seed);
                std::thread::Builder::new().name(format!("link-{seed}")).spawn(move || way.run())
            })
            .collect::<std::io::Result<_>>()?;
        Ok(Link { near, far, counts, cut, stop, threads })
    }

    /// From here on nothing crosses, either way, and nobody is told.
    pub fn cut(&self) {
        self.cut.store(true, Ordering::Relaxed);
    }

    pub fn mend(&self) {
        self.cut.store(false, Ordering::Relaxed);
    }

    pub fn in_words(&self) -> String {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        format!(
            "{} packets carried, {} lost, {} late, {} overlapped, {} overrun",
            read(&self.counts.carried),
            read(&self.counts.lost),
            read(&self.counts.late),
            read(&self.counts.overlapped),
            read(&self.counts.overrun)
        )
    }
}

/// Runs `work` on the link's far side, or here where there is no link.
pub fn on_far_side<T: Send>(
    link: Option<&Link>,
    work: impl FnOnce() -> anyhow::Result<T> + Send,
) -> anyhow::Result<T> {
    match link {
        Some(link) => link.far.run(work),
        None => work(),
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        let _ = rustix::io::write(&*self.stop, &1u64.to_ne_bytes());
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn device(own: Ipv4Addr, peer: Ipv4Addr, nature: &Nature) -> anyhow::Result<OwnedFd> {
    let tun = tun::open("link0", nature.offloads())?;
    ip(&["addr", "add", &own.to_string(), "peer", &peer.to_string(), "dev", "link0"])?;
    ip(&["link", "set", "link0", "mtu", &nature.mtu.to_string(), "txqueuelen", "5000", "up"])?;
    Ok(tun)
}
