//! A long line between two network namespaces, for kernels without `netem`: what the kernel sends into one
//! TUN device comes out of the other after its time on the wire and a fixed delay. Real TCP runs across it,
//! with its window growth, its bandwidth-delay product and a queue that drops at its tail.
//!
//! Opening a TUN device takes an `ioctl`, which safe Rust does not have. A few lines of Perl, which every
//! Debian has, open both devices and become this program, with the devices as standard input and output.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::fault::Fault;

/// Length of `struct virtio_net_hdr`, which precedes each packet under `IFF_VNET_HDR`.
const HEADER: usize = 10;
/// A segment of 64 KiB and the header. The kernel hands over unsplit segments (TSO), as a network card
/// would be given them; at one packet per 1,500 bytes two cores could not keep up with 1 Gbit/s.
const LARGEST: usize = 65_536 + HEADER;
/// IP and TCP headers with timestamps, repeated for each segment the packet stands for.
const REPEATED: usize = 52;
/// Ethernet header, checksum, preamble and gap of each segment.
const FRAMING: usize = 38;
/// Packets under way in one direction: 75 ms at 1 Gbit/s with 200-byte packets, and a bound on memory.
const UNDER_WAY: usize = 48 * 1024;

/// Opens the TUN devices named by the first two arguments and becomes the rest of them.
/// 0x5001: `IFF_TUN | IFF_NO_PI | IFF_VNET_HDR`; 0x400454ca: `TUNSETIFF`; 0x400454d0: `TUNSETOFFLOAD` with
/// 0x7: `TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6`.
const OPENER: &str = r#"
my @devices;
for my $name (splice @ARGV, 0, 2) {
    open(my $device, "+<", "/dev/net/tun") or die "/dev/net/tun: $!\n";
    my $request = pack("a16 s x22", $name, 0x5001);
    ioctl($device, 0x400454ca, $request) or die "device $name: $!\n";
    ioctl($device, 0x400454d0, 0x7) or die "offload of $name: $!\n";
    push @devices, $device;
}
open(STDIN, "+<&", $devices[0]) or die "standard input: $!\n";
open(STDOUT, "+<&", $devices[1]) or die "standard output: $!\n";
exec { $ARGV[0] } @ARGV or die "$ARGV[0]: $!\n";
"#;

/// What the line is like.
#[derive(Clone, Copy, Debug)]
pub struct Quality {
    /// From one end to the other.
    pub one_way: Duration,
    /// Bits per second, in each direction.
    pub bits_per_second: f64,
    /// Waiting time at which the queue in front of the line is full.
    pub queue: Duration,
}

/// The command that opens both devices and runs `bench line` on them.
pub fn command(bench: &Path, devices: [&str; 2], quality: &Quality, life: Duration) -> Command {
    let mut command = Command::new("perl");
    command.arg("-e").arg(OPENER).args(devices).arg(bench).arg("line");
    command.args(["--one-way-ms", &(quality.one_way.as_secs_f64() * 1e3).to_string()]);
    command.args(["--mbit", &(quality.bits_per_second / 1e6).to_string()]);
    command.args(["--queue-ms", &(quality.queue.as_secs_f64() * 1e3).to_string()]);
    command.args(["--life", &life.as_secs().to_string()]);
    command
}

/// The line itself, in one direction, without its packets: when what arrives now comes out.
#[derive(Debug)]
struct Pace {
    quality: Quality,
    /// When the last packet accepted has left the sender.
    free_at: Instant,
}

impl Pace {
    /// When a packet of `bytes` on the wire comes out, or `None` if the queue is full.
    fn admit(&mut self, now: Instant, bytes: usize) -> Option<Instant> {
        let begin = self.free_at.max(now);
        if begin - now > self.quality.queue {
            return None;
        }
        self.free_at = begin + Duration::from_secs_f64(bytes as f64 * 8.0 / self.quality.bits_per_second);
        Some(self.free_at + self.quality.one_way)
    }
}

/// Bytes a packet from the device takes on the wire, after the kernel's or the card's segmentation.
fn on_the_wire(packet: &[u8]) -> usize {
    let length = packet.len().saturating_sub(HEADER);
    // gso_size, in the header at byte 4: payload of each segment, 0 for an unsegmented packet.
    let segment = packet.get(4..6).map_or(0, |size| usize::from(u16::from_ne_bytes([size[0], size[1]])));
    let segments = if segment > 0 { length.div_ceil(segment) } else { 1 };
    length + (segments - 1) * REPEATED + segments * FRAMING
}

/// Runs both directions over standard input and output for at most `life`.
pub fn run(quality: Quality, life: Duration) -> Result<(), Fault> {
    let own = |fd: io::Result<std::os::fd::OwnedFd>| fd.map(File::from).map_err(Fault::io("tun device"));
    let left = own(io::stdin().as_fd().try_clone_to_owned())?;
    let right = own(io::stdout().as_fd().try_clone_to_owned())?;
    let (failed, failure) = mpsc::channel();
    for (from, to) in [(&left, &right), (&right, &left)] {
        let from = from.try_clone().map_err(Fault::io("tun device"))?;
        let to = to.try_clone().map_err(Fault::io("tun device"))?;
        direction(from, to, quality, failed.clone())?;
    }
    // The threads end with the process: a read from a TUN device cannot be interrupted otherwise.
    match failure.recv_timeout(life) {
        Ok(error) => Err(Fault::io("line")(error)),
        Err(mpsc::RecvTimeoutError::Timeout | mpsc::RecvTimeoutError::Disconnected) => Ok(()),
    }
}

fn direction(
    mut from: File,
    mut to: File,
    quality: Quality,
    failed: mpsc::Sender<io::Error>,
) -> Result<(), Fault> {
    let (send, receive) = mpsc::sync_channel::<(Instant, Vec<u8>)>(UNDER_WAY);
    let reader = move || -> io::Result<()> {
        let mut pace = Pace { quality, free_at: Instant::now() };
        let mut scratch = vec![0; LARGEST];
        loop {
            let length = match from.read(&mut scratch) {
                Ok(length) => length,
                // EIO: the device is not up yet; there is no event that would tell.
                Err(error) if error.raw_os_error() == Some(5) => {
                    thread::sleep(Duration::from_millis(10));
                    continue;
                }
                Err(error) => return Err(error),
            };
            let packet = &scratch[..length];
            let Some(at) = pace.admit(Instant::now(), on_the_wire(packet)) else { continue };
            // A full channel drops at the tail as well, like a router out of buffers.
            match send.try_send((at, packet.to_vec())) {
                Ok(()) | Err(mpsc::TrySendError::Full(_)) => {}
                Err(mpsc::TrySendError::Disconnected(_)) => return Ok(()),
            }
        }
    };
    let writer = move || -> io::Result<()> {
        for (at, packet) in receive {
            let now = Instant::now();
            if at > now {
                thread::sleep(at - now);
            }
            match to.write(&packet) {
                // A packet the kernel finds fault with is lost, as it would be on a real line.
                Ok(_) => {}
                Err(error) if matches!(error.raw_os_error(), Some(5 | 22)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    };
    let report = failed.clone();
    for (name, work) in [
        ("line-read", Box::new(reader) as Box<dyn FnOnce() -> io::Result<()> + Send>),
        ("line-write", Box::new(writer)),
    ] {
        let report = report.clone();
        let run = move || {
            if let Err(error) = work() {
                // Nobody hears it only when the process is ending anyway.
                drop(report.send(error));
            }
        };
        thread::Builder::new().name(name.to_owned()).spawn(run).map_err(Fault::io("start a thread"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_leave_at_the_rate_and_arrive_after_the_delay() {
        let quality = Quality {
            one_way: Duration::from_millis(25),
            bits_per_second: 8e6,
            queue: Duration::from_millis(3),
        };
        let now = Instant::now();
        let mut pace = Pace { quality, free_at: now };
        let ms = Duration::from_millis;
        // 1,000 bytes at 8 Mbit/s take a millisecond each.
        assert_eq!(pace.admit(now, 1000), Some(now + ms(26)));
        assert_eq!(pace.admit(now, 1000), Some(now + ms(27)));
        assert_eq!(pace.admit(now, 2000), Some(now + ms(29)));
        assert_eq!(pace.admit(now, 1000), None, "the queue is four milliseconds long already");
        assert_eq!(pace.admit(now + ms(4), 1000), Some(now + ms(30)), "and drains");
        assert_eq!(pace.admit(now + ms(100), 1000), Some(now + ms(126)), "an idle line is free at once");
    }

    #[test]
    fn an_unsplit_segment_costs_what_its_packets_would() {
        let mut packet = vec![0; HEADER + 100];
        assert_eq!(on_the_wire(&packet), 100 + FRAMING);
        packet.resize(HEADER + 3000, 0);
        packet[4..6].copy_from_slice(&1000u16.to_ne_bytes());
        assert_eq!(on_the_wire(&packet), 3000 + 2 * REPEATED + 3 * FRAMING);
        assert_eq!(on_the_wire(&[]), FRAMING);
    }
}
