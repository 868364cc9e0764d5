//! Messages to DHCP servers, as they pass a link.

use super::{Background, Call, Lab, wait_for};

/// Writes a line for each: when the kernel saw it in milliseconds, its kind, and the client's hardware address.
const SNIFFER: &str = r#"
import socket, struct, sys
KINDS = {1: "DISCOVER", 3: "REQUEST", 4: "DECLINE", 7: "RELEASE"}
SO_TIMESTAMPNS = 35
link, path = sys.argv[1:]
raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
raw.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
raw.bind((link, 0))
with open(path, "w", buffering=1) as out:
    while True:
        frame, stamps, _, _ = raw.recvmsg(2000, 100)
        if frame[12:14] != b"\x08\0" or frame[23] != 17 or frame[36:38] != b"\0\x43": continue
        seconds, nanoseconds = struct.unpack("qq", stamps[0][2][:16])
        message, at = frame[42:], 240
        while message[at] != 53: at += 2 + message[at + 1]
        mac = ":".join("%02x" % byte for byte in message[28:34])
        out.write("%d %s %s\n" % (seconds * 1000 + nanoseconds // 1000000, KINDS[message[at + 2]], mac))
"#;

/// A message that was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Milliseconds of the time of day.
    pub at: i64,
    /// `DISCOVER`, `REQUEST`, `DECLINE`, `RELEASE`.
    pub kind: String,
    /// Hardware address of the client.
    pub client: String,
}

/// Watches a link until it is dropped.
pub struct Sniffer<'a> {
    lab: &'a Lab,
    path: String,
    _running: Background,
}

impl<'a> Sniffer<'a> {
    /// Watches `link` in a namespace, or, if `netns` is empty, on the host.
    pub fn on(lab: &'a Lab, netns: &str, link: &str) -> Sniffer<'a> {
        let path = format!("/run/lab/frames-{link}");
        let enter: &[&str] = if netns.is_empty() { &[] } else { &["ip", "netns", "exec", netns] };
        let words = [enter, &["python3", "-c", SNIFFER, link, &path]].concat();
        let running = Call::new(lab, words[0]).args_list(&words[1..]).spawn();
        wait_for("the sniffer", || lab.exists(&path));
        Sniffer { lab, path, _running: running }
    }

    /// The messages that have passed so far.
    pub fn frames(&self) -> Vec<Frame> {
        let text = self.lab.read(&self.path);
        let whole = text.rsplit_once('\n').map_or("", |(lines, _)| lines);
        whole.lines().map(frame).collect()
    }

    /// How many messages of a kind have passed.
    pub fn count(&self, kind: &str) -> usize {
        self.frames().iter().filter(|frame| frame.kind == kind).count()
    }
}

fn frame(line: &str) -> Frame {
    let [at, kind, client] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line:?}") };
    Frame { at: at.parse().unwrap(), kind: kind.to_string(), client: client.to_string() }
}

/// The most of these that passed within any such time in milliseconds.
pub fn most_within(time: i64, frames: &[Frame]) -> usize {
    let within = |first: &Frame| frames.iter().filter(|frame| (first.at..=first.at + time).contains(&frame.at)).count();
    frames.iter().map(within).max().unwrap_or(0)
}
