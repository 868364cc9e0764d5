//! The DHCP client (`src/dhcp`) against real servers, through its real socket, without the daemon around it: a test lets
//! the client's time pass as it likes.

use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use cni_box::cni::config::Object;
use cni_box::cni::json::{Node, compact};
use cni_box::dhcp::client::{Client, Datagram, Event, Output, Timing};
use cni_box::dhcp::result::{Wishes, of_lease};
use cni_box::dhcp::settings::{Settings, client_id};
use cni_box::dhcp::socket::{Received, Socket};
use cni_box::dhcp::{Clock, Moment};
use cni_box::net::Netns;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::{Value, json};

use crate::lab::dhcp::{DNSMASQ_LEASES, KEA_LEASES, dnsmasq, dnsmasq_with_range, kea, server_bridge};
use crate::lab::{Lab, wait_for};

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const MAC_TEXT: &str = "02:00:00:00:00:01";
const WALL: i64 = 1_700_000_000_000;

/// A client on `eth0` of `ns1`, with a clock that can be set forward.
struct Station {
    netns: Netns,
    index: u32,
    client: Client,
    socket: Option<Socket>,
    began: Instant,
    ahead: Moment,
}

fn index(lab: &Lab) -> u32 {
    u32::try_from(lab.link_in("ns1", "eth0")["ifindex"].as_u64().unwrap()).unwrap()
}

fn settings(ipam: &Value, broadcast: bool) -> Settings {
    let id = client_id("c1", "net", "eth0");
    Settings::decode(&Object::top(ipam.as_object().unwrap()), "", &id, MAC, broadcast).unwrap()
}

fn timing() -> Timing {
    Timing { timeout: 2_000, resend_timeout: 20_000, ..Timing::default() }
}

impl Station {
    fn new(lab: &Lab, client: Client) -> Station {
        let netns = Netns::open(lab.path("/run/netns/ns1").to_str().unwrap()).unwrap();
        Station { netns, index: index(lab), client, socket: None, began: Instant::now(), ahead: 0 }
    }

    /// With a lease.
    fn bound(lab: &Lab, ipam: &Value, broadcast: bool) -> Station {
        let client = Client::acquire(settings(ipam, broadcast), timing(), 0, std::process::id().into());
        let mut station = Station::new(lab, client);
        assert_eq!(station.event(), Event::Bound);
        station
    }

    fn now(&self) -> Moment {
        i64::try_from(self.began.elapsed().as_millis()).unwrap() + self.ahead
    }

    fn clock(&self) -> Clock {
        Clock { now: self.now(), kept: WALL + self.now() }
    }

    fn send(&mut self, datagram: &Datagram) {
        let open = || Socket::open(&self.netns, self.index, MAC).unwrap();
        self.socket.get_or_insert_with(open).send(datagram).unwrap();
    }

    /// Does what the client wants; its event.
    fn act(&mut self, output: Output) -> Option<Event> {
        if let Some(datagram) = &output.send {
            self.send(datagram);
        }
        if !self.client.listening() {
            self.socket = None;
        }
        output.event
    }

    /// Goes on until something has happened. What a bound client waits for comes at once.
    fn event(&mut self) -> Event {
        let limit = Instant::now() + Duration::from_secs(30);
        loop {
            assert!(Instant::now() < limit, "nothing happens: {:?}", self.client);
            if !self.client.listening() {
                self.ahead += (self.client.deadline().unwrap() - self.now()).max(0);
            }
            let output = self.client.poll(self.now());
            if let Some(event) = self.act(output) {
                return event;
            }
            if let Some(event) = self.hear() {
                return event;
            }
        }
    }

    fn hear(&mut self) -> Option<Event> {
        let socket = self.socket.as_ref()?;
        poll(&mut [PollFd::new(socket.as_fd(), PollFlags::POLLIN)], PollTimeout::from(20_u8)).unwrap();
        let Received::Packet(packet, from) = socket.receive().unwrap()? else { panic!("damaged") };
        let now = self.now();
        let output = self.client.receive(now, &packet, from);
        self.act(output)
    }

    fn address(&self) -> Ipv4Addr {
        self.client.lease().unwrap().address
    }

    /// Gives the container its address, as the plugin above would.
    fn configure(&self, lab: &Lab) {
        lab.ok(&format!("ip -n ns1 address add {}/24 dev eth0", self.address()));
    }

    /// Sets the clock forward to this part of the lease, in hundredths.
    fn skip(&mut self, hundredths: i64) {
        let lease = self.client.lease().unwrap();
        self.ahead += lease.obtained + i64::from(lease.seconds) * 10 * hundredths - self.now();
    }

    fn release(&mut self) {
        let now = self.now();
        let datagram = self.client.release(now).unwrap();
        self.send(&datagram);
    }

    fn result(&self, wishes: Wishes) -> String {
        compact(&of_lease(self.client.lease().unwrap(), wishes).unwrap().to_json("1.1.0").unwrap())
    }

    /// The same lease in the hands of a new process.
    fn restarted(&self, lab: &Lab) -> Station {
        let Value::Object(record) = Node::Object(self.client.record(self.clock()).unwrap()).into_value() else {
            panic!("no object")
        };
        let clock = Clock { now: 0, kept: self.clock().kept + 1000 };
        Station::new(lab, Client::restore(&Object::top(&record), timing(), clock, 5).unwrap())
    }
}

/// A host with `br0`, and `ns1` behind it.
fn lab() -> Lab {
    let lab = Lab::bare();
    server_bridge(&lab);
    lab.netns("ns1");
    lab.ok(&format!("ip link add veth1 type veth peer name eth0 address {MAC_TEXT} netns ns1"));
    lab.ok("ip link set veth1 master br0 up");
    lab.ok("ip -n ns1 link set eth0 up");
    lab
}

fn dnsmasq_leases(lab: &Lab) -> String {
    lab.read(DNSMASQ_LEASES)
}

/// Acquired, renewed by unicast, rebound by broadcast, confirmed after a restart, given back.
fn a_life(lab: &Lab, broadcast: bool) -> Ipv4Addr {
    let mut station = Station::bound(lab, &json!({}), broadcast);
    let address = station.address();
    station.configure(lab);
    assert_eq!(station.event(), Event::Renewed);
    station.skip(86);
    assert_eq!((station.event(), station.address()), (Event::Renewed, address));
    let mut again = station.restarted(lab);
    assert_eq!((again.event(), again.address()), (Event::Renewed, address));
    again.release();
    address
}

#[test]
fn dnsmasq_grants_renews_confirms_and_takes_back() {
    for broadcast in [false, true] {
        let lab = lab();
        let _server = dnsmasq(&lab, &[]);
        let address = a_life(&lab, broadcast);
        let log = lab.read("/run/dnsmasq.log");
        assert_eq!(log.matches("DHCPREQUEST(br0)").count(), 4, "{log}");
        assert_eq!(log.contains("broadcast response"), broadcast, "{log}");
        wait_for("the lease is given back", || !dnsmasq_leases(&lab).contains(&address.to_string()));
        assert!(lab.read("/run/dnsmasq.log").contains(&format!("DHCPRELEASE(br0) {address}")));
    }
}

#[test]
fn kea_grants_renews_confirms_and_takes_back() {
    let lab = lab();
    let _server = kea(&lab, 60);
    let address = a_life(&lab, false);
    // A line of a lease that was given back has no lifetime.
    let given_back = format!("{address},{MAC_TEXT},00:63:31:2f:6e:65:74:2f:65:74:68:30,0,");
    wait_for("the lease is given back", || lab.read(KEA_LEASES).contains(&given_back));
}

#[test]
fn a_client_behind_macvlan_gets_its_lease() {
    let lab = lab();
    lab.ok("ip -n ns1 link delete eth0");
    lab.ok("ip link add up0 type veth peer name up1");
    lab.ok("ip link set up1 master br0 up");
    lab.ok("ip link set up0 up");
    lab.ok(&format!("ip link add link up0 name eth0 netns ns1 address {MAC_TEXT} type macvlan mode bridge"));
    lab.ok("ip -n ns1 link set eth0 up");
    let _server = dnsmasq(&lab, &[]);
    let address = a_life(&lab, false);
    wait_for("the lease is given back", || !dnsmasq_leases(&lab).contains(&address.to_string()));
}

#[test]
fn options_of_the_server_are_in_the_result() {
    let lab = lab();
    let options =
        ["3,10.1.2.1,10.1.2.2", "6,10.1.2.1,1.1.1.1", "15,example.org", "119,a.example.org,b.example.org", "26,1400"];
    let options: Vec<_> = options.iter().map(|option| format!("--dhcp-option={option}")).collect();
    let _server = dnsmasq(&lab, &options.iter().map(String::as_str).collect::<Vec<_>>());
    let ipam = json!({"dnsFromServer": true, "mtuFromServer": true, "priority": 7});
    let station = Station::bound(&lab, &ipam, false);
    let address = station.address();
    assert_eq!(
        station.result(Wishes::decode(&Object::top(ipam.as_object().unwrap())).unwrap()),
        format!(
            r#"{{"cniVersion":"1.1.0","dns":{{"domain":"example.org","nameservers":["10.1.2.1","1.1.1.1"],"search":["a.example.org","b.example.org"]}},"ips":[{{"address":"{address}/24","gateway":"10.1.2.1"}}],"routes":[{{"dst":"0.0.0.0/0","gw":"10.1.2.1","mtu":1400,"priority":7}}]}}"#
        )
    );
}

#[test]
fn routes_of_the_server_are_in_the_result() {
    let lab = lab();
    let many: Vec<_> = (0..20).map(|net| format!("172.16.{net}.0/24,10.1.2.9")).collect();
    let classless = format!("--dhcp-option=121,0.0.0.0/0,10.1.2.8,192.168.7.0/24,0.0.0.0,{}", many.join(","));
    let _server = dnsmasq(&lab, &[&classless]);
    let station = Station::bound(&lab, &json!({"request": [{"option": "121"}]}), false);
    let result: Value = serde_json::from_str(&station.result(Wishes::default())).unwrap();
    let routes = result["routes"].as_array().unwrap();
    assert_eq!(routes.len(), 22);
    assert_eq!(routes[0], json!({"dst": "0.0.0.0/0", "gw": "10.1.2.8"}));
    assert_eq!(routes[1], json!({"dst": "192.168.7.0/24", "gw": "0.0.0.0", "scope": 253}));
    assert_eq!(routes[21], json!({"dst": "172.16.19.0/24", "gw": "10.1.2.9"}));
}

#[test]
fn a_server_that_has_forgotten_the_lease_gives_the_same_address_again() {
    let lab = lab();
    let server = dnsmasq(&lab, &["--dhcp-authoritative"]);
    let mut station = Station::bound(&lab, &json!({}), false);
    let address = station.address();
    station.configure(&lab);
    server.kill();
    lab.ok(&format!("rm {DNSMASQ_LEASES}"));
    let _server = dnsmasq(&lab, &["--dhcp-authoritative"]);
    assert_eq!((station.event(), station.address()), (Event::Renewed, address));
}

#[test]
fn another_address_is_not_taken() {
    let lab = lab();
    let server = dnsmasq(&lab, &["--dhcp-authoritative"]);
    let mut station = Station::bound(&lab, &json!({}), false);
    station.configure(&lab);
    server.kill();
    lab.ok(&format!("rm {DNSMASQ_LEASES}"));
    let _server = dnsmasq_with_range(&lab, "10.1.2.150,10.1.2.199,255.255.255.0,2m", &["--dhcp-authoritative"]);
    let Event::Refused(message) = station.event() else { panic!("no NAK") };
    assert!(!message.is_empty());
    let Event::OtherAddress(other) = station.event() else { panic!("no offer") };
    assert!((150..200).contains(&other.octets()[3]), "{other}");
    // Until the lease is over.
    station.ahead += 120_000;
    assert_eq!(station.event(), Event::Expired);
    assert!(!dnsmasq_leases(&lab).contains("10.1.2.1"), "the offer was taken");
}

#[test]
fn nobody_hears_what_is_for_others() {
    let lab = lab();
    let netns = Netns::open(lab.path("/run/netns/ns1").to_str().unwrap()).unwrap();
    let other = Socket::open(&netns, index(&lab), [2, 0, 0, 0, 0, 2]).unwrap();
    let own = Socket::open(&netns, index(&lab), MAC).unwrap();
    let _server = dnsmasq(&lab, &[]);
    Station::bound(&lab, &json!({}), true);
    assert!(other.receive().unwrap().is_none());
    assert!(own.receive().unwrap().is_some());
}

/// The kernel makes whoever closes a packet socket wait for some 10 ms: with many leases the daemon would do nothing else.
#[test]
fn nobody_waits_for_the_closing_of_sockets() {
    let lab = lab();
    let netns = Netns::open(lab.path("/run/netns/ns1").to_str().unwrap()).unwrap();
    let sockets: Vec<_> = (0..100).map(|_| Socket::open(&netns, index(&lab), MAC).unwrap()).collect();
    let open = || lab.ok("nsenter --net=/run/netns/ns1 cat /proc/net/packet").lines().count() - 1;
    assert_eq!(open(), 100);
    let began = Instant::now();
    drop(sockets);
    assert!(began.elapsed() < Duration::from_millis(200), "{:?}", began.elapsed());
    wait_for("the sockets are closed", || open() == 0);
}

#[test]
fn a_link_that_goes_down_and_up_is_an_error_once() {
    let lab = lab();
    let netns = Netns::open(lab.path("/run/netns/ns1").to_str().unwrap()).unwrap();
    let socket = Socket::open(&netns, index(&lab), MAC).unwrap();
    let mut client = Client::acquire(settings(&json!({}), false), timing(), 0, 1);
    let discover = client.poll(0).send.unwrap();
    lab.ok("ip -n ns1 link set eth0 down");
    assert_eq!(socket.send(&discover).unwrap_err().msg, "network is down");
    assert_eq!(socket.receive().unwrap_err().msg, "network is down");
    assert!(socket.receive().unwrap().is_none());
    lab.ok("ip -n ns1 link set eth0 up");
    let _server = dnsmasq(&lab, &[]);
    let forwards = || lab.link("veth1")["linkinfo"]["info_slave_data"]["state"] == "forwarding";
    wait_for("the bridge port", forwards);
    socket.send(&discover).unwrap();
    wait_for("the offer", || socket.receive().unwrap().is_some());
    lab.ok("ip -n ns1 link delete eth0");
    assert_eq!(socket.send(&discover).unwrap_err().msg, "no such device or address");
}
