use super::*;
use crate::error::Error;
use serde_json::Map;

mod keeping;

const BROADCAST_MAC: [u8; 6] = [0xff; 6];
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const SERVER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xfe];
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 1, 2, 1);
const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 1, 2, 77);
const NOBODY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

fn settings() -> Settings {
    let mut options = Options::default();
    options.set(code::PARAMETER_LIST, &[3, 1]);
    options.set(code::CLIENT_ID, b"\0c/n/eth0");
    Settings { hardware: MAC, broadcast: false, options }
}

fn client() -> Client {
    Client::acquire(settings(), Timing::default(), 0, 1)
}

/// What was sent, read as a server would.
fn sent(output: &Output) -> Packet {
    Packet::decode(&output.send.as_ref().expect("something is sent").payload).unwrap()
}

/// The server's answer to a message.
fn answer(kind: u8, to: &Packet) -> Packet {
    let mut answer = Packet { op: packet::REPLY, yours: ADDRESS, options: Options::default(), ..to.clone() };
    answer.options.set(code::MESSAGE_TYPE, &[kind]);
    answer.options.set(code::SERVER_ID, &SERVER.octets());
    if kind == kind::NAK {
        answer.yours = NOBODY;
        return answer;
    }
    answer.options.set(code::LEASE_TIME, &1000_u32.to_be_bytes());
    answer.options.set(code::SUBNET_MASK, &[255, 255, 255, 0]);
    answer
}

fn hear(client: &mut Client, now: Moment, packet: &Packet) -> Output {
    client.receive(now, packet, Some(SERVER_MAC))
}

/// A client that got its lease of 1000 seconds at time 0.
fn bound() -> Client {
    let mut client = client();
    let discover = sent(&client.poll(0));
    let request = sent(&hear(&mut client, 0, &answer(kind::OFFER, &discover)));
    let event = hear(&mut client, 0, &answer(kind::ACK, &request)).event;
    assert_eq!(event, Some(Event::Bound));
    client
}

/// Lets time pass until something happens.
fn next(client: &mut Client) -> (Moment, Output) {
    loop {
        let deadline = client.deadline().expect("there is something to do");
        assert_eq!(client.poll(deadline - 1), Output::default());
        let output = client.poll(deadline);
        if output != Output::default() {
            return (deadline, output);
        }
    }
}

fn near(moment: Moment, wanted: Moment, by: Moment) {
    assert!((moment - wanted).abs() <= by, "{moment} is not {wanted} +-{by}");
}

/// Everything that happens until the client ends, nobody answering: sends with their times, and the last event.
fn silence(client: &mut Client) -> (Vec<(Moment, u8)>, Moment, Event) {
    let mut sends = Vec::new();
    loop {
        let (now, output) = next(client);
        if output.send.is_some() {
            sends.push((now, sent(&output).kind().unwrap()));
        }
        if let Some(event) = output.event {
            return (sends, now, event);
        }
    }
}

/// What the reference (1.9.1) says to dnsmasq: headers of IP and UDP, the message up to the hardware address, and from the
/// cookie to the end option; in between, and behind, are zeros. tcpdump has seen it.
const REFERENCE: [(&str, &str, &str); 2] = [
    (
        "4500014800000000401179a600000000ffffffff004400430134f5b0",
        "0101060010df45f00000000000000000000000000000000000000000020000000001",
        "6382536335010137020301390205dc3d0c0063312f6e65742f65746830ff",
    ),
    (
        "4500014800000000401179a600000000ffffffff004400430134af2a",
        "0101060010df45f00000000000000000000000000000000000000000020000000001",
        "6382536332040a01023f35010336040a01020137020301390205dc3d0c0063312f6e65742f65746830ff",
    ),
];

#[test]
fn the_first_messages_are_the_references_to_the_byte() {
    let ipam = Map::new();
    let id = crate::dhcp::settings::client_id("c1", "net", "eth0");
    let settings = Settings::decode(&Object::top(&ipam), "", &id, MAC, false).unwrap();
    let mut client = Client::acquire(settings, Timing::default(), 0, 1);
    client.xid = 0x10df_45f0;
    let discover = client.poll(0);
    let mut offer = answer(kind::OFFER, &sent(&discover));
    offer.yours = Ipv4Addr::new(10, 1, 2, 63);
    let request = hear(&mut client, 0, &offer);
    for (output, (headers, begin, options)) in [discover, request].into_iter().zip(REFERENCE) {
        let datagram = output.send.unwrap();
        let frame = crate::dhcp::frame::encode(datagram.source, datagram.destination, &datagram.payload);
        assert_eq!(hexadecimal::write(&frame[..28]), headers);
        assert_eq!(hexadecimal::write(&frame[28..62]), begin);
        assert!(frame[62..264].iter().all(|byte| *byte == 0));
        assert_eq!(hexadecimal::write(&frame[264..]).trim_end_matches('0'), options);
        assert_eq!(frame.len(), 328);
    }
}

#[test]
fn a_lease_is_acquired_in_four_messages() {
    let mut client = client();
    assert_eq!((client.deadline(), client.lease()), (Some(0), None));
    let output = client.poll(0);
    let datagram = output.send.clone().unwrap();
    assert_eq!((datagram.source, datagram.destination, datagram.mac), (NOBODY, Ipv4Addr::BROADCAST, BROADCAST_MAC));
    let discover = sent(&output);
    assert_eq!((discover.op, discover.flags, discover.client, discover.hardware), (packet::REQUEST, 0, NOBODY, MAC));
    let codes: Vec<_> = discover.options.iter().map(|(code, _)| code).collect();
    assert_eq!((discover.kind(), codes), (Some(kind::DISCOVER), vec![53, 55, 61]));
    let output = hear(&mut client, 3, &answer(kind::OFFER, &discover));
    let request = sent(&output);
    assert_eq!((request.kind(), request.xid, request.client), (Some(kind::REQUEST), discover.xid, NOBODY));
    assert_eq!(request.options.address(code::REQUESTED_ADDRESS), Some(ADDRESS));
    assert_eq!(request.options.address(code::SERVER_ID), Some(SERVER));
    let output = hear(&mut client, 5, &answer(kind::ACK, &request));
    assert_eq!((output.send, output.event), (None, Some(Event::Bound)));
    let lease = client.lease().unwrap();
    assert_eq!((lease.address, lease.server, lease.server_mac), (ADDRESS, SERVER, Some(SERVER_MAC)));
    assert_eq!((lease.obtained, lease.expires(), client.listening()), (3, 1_000_003, false));
    near(client.deadline().unwrap(), 500_003 - 8_000, 8_000);
}

#[test]
fn the_broadcast_flag_is_for_those_without_an_address() {
    let mut client = Client::acquire(Settings { broadcast: true, ..settings() }, Timing::default(), 0, 1);
    let discover = sent(&client.poll(0));
    let request = sent(&hear(&mut client, 0, &answer(kind::OFFER, &discover)));
    assert_eq!((discover.flags, request.flags), (packet::BROADCAST, packet::BROADCAST));
    hear(&mut client, 0, &answer(kind::ACK, &request));
    assert_eq!(sent(&next(&mut client).1).flags, 0);
}

#[test]
fn what_is_provided_does_not_break_the_protocol() {
    let mut settings = settings();
    settings.options.set(code::MESSAGE_TYPE, &[9]);
    settings.options.set(code::REQUESTED_ADDRESS, &[10, 1, 2, 90]);
    settings.options.set(code::SERVER_ID, &[10, 1, 2, 9]);
    settings.options.set(code::CLIENT_ID, b"me");
    let mut client = Client::acquire(settings, Timing::default(), 0, 1);
    let discover = sent(&client.poll(0));
    // A wish for an address is none of the protocol's matters.
    assert_eq!(discover.options.address(code::REQUESTED_ADDRESS), Some(Ipv4Addr::new(10, 1, 2, 90)));
    let request = sent(&hear(&mut client, 0, &answer(kind::OFFER, &discover)));
    let named = (request.options.address(code::REQUESTED_ADDRESS), request.options.address(code::SERVER_ID));
    assert_eq!((request.kind(), named), (Some(kind::REQUEST), (Some(ADDRESS), Some(SERVER))));
    hear(&mut client, 0, &answer(kind::ACK, &request));
    let renewal = sent(&next(&mut client).1).options;
    assert_eq!((renewal.get(code::REQUESTED_ADDRESS), renewal.get(code::SERVER_ID)), (None, None));
    let release = Packet::decode(&client.release(0).unwrap().payload).unwrap();
    assert_eq!(
        (release.options.get(code::CLIENT_ID), release.options.get(code::REQUESTED_ADDRESS)),
        (Some(&b"me"[..]), None)
    );
}

/// Hears a packet and changes nothing; what is told of that.
fn passed_over(client: &mut Client, packet: &Packet) -> String {
    let output = hear(client, 1, packet);
    assert_eq!(output.send, None, "{packet:?}");
    match output.event {
        None => String::new(),
        Some(Event::PassedOver(text)) => text,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_not_for_us_is_passed_over() {
    let mut client = client();
    let discover = sent(&client.poll(0));
    let offer = answer(kind::OFFER, &discover);
    let mut told = |change: &dyn Fn(&mut Packet)| {
        let mut packet = offer.clone();
        change(&mut packet);
        passed_over(&mut client, &packet)
    };
    // Other clients' answers are nothing to speak of.
    assert_eq!(told(&|packet| packet.hardware = SERVER_MAC), "");
    assert_eq!(told(&|packet| packet.op = packet::REQUEST), "");
    let told = [
        told(&|packet| packet.xid ^= 1),
        told(&|packet| packet.yours = NOBODY),
        told(&|packet| packet.options.remove(code::SERVER_ID)),
        told(&|packet| packet.options.remove(code::MESSAGE_TYPE)),
        told(&|packet| packet.options.set(code::LEASE_TIME, &[0; 4])),
        told(&|packet| packet.options.set(code::MESSAGE_TYPE, &[kind::ACK])),
        told(&|packet| packet.options.set(code::MESSAGE_TYPE, &[kind::NAK])),
    ];
    let expected = [
        "offer of 10.1.2.77 from 10.1.2.1 passed over: it answers another message (xid)",
        "offer from 10.1.2.1 passed over: no host can have the address 0.0.0.0",
        "offer of 10.1.2.77 passed over: it names no server (server id)",
        "answer of 10.1.2.77 from 10.1.2.1 passed over: it has no type of message that a server sends",
        "offer of 10.1.2.77 from 10.1.2.1 passed over: lease of 0 s",
        "ACK of 10.1.2.77 from 10.1.2.1 passed over: no address was requested",
        "NAK of 10.1.2.77 from 10.1.2.1 passed over: no address was requested",
    ];
    assert_eq!(told, expected);
    let request = sent(&hear(&mut client, 1, &offer));
    // The second offer, an answer of a server that was not asked, and nonsense of the one that was.
    let mut ack = answer(kind::ACK, &request);
    ack.options.set(code::SERVER_ID, &[10, 1, 2, 2]);
    let mut nak = answer(kind::NAK, &request);
    nak.options.set(code::SERVER_ID, &[10, 1, 2, 2]);
    let mut short = answer(kind::ACK, &request);
    short.options.set(code::LEASE_TIME, &[0, 0, 1]);
    let told = [offer, ack, nak, short].map(|packet| passed_over(&mut client, &packet));
    assert_eq!(told, ["", "ACK of 10.1.2.77 from 10.1.2.2 passed over: server 10.1.2.1 was asked", "", ""]);
    assert_eq!(client.lease(), None);
}

#[test]
fn an_error_tells_of_the_answer_that_was_passed_over() {
    let mut client = client();
    let discover = sent(&client.poll(0));
    let mut offer = answer(kind::OFFER, &discover);
    offer.options.remove(code::SERVER_ID);
    let text = passed_over(&mut client, &offer);
    assert_eq!(passed_over(&mut client, &offer), "", "once is enough");
    // Late answers to earlier messages are told, but say less.
    offer.xid ^= 1;
    assert_ne!(passed_over(&mut client, &offer), "");
    let (_, _, event) = silence(&mut client);
    let cause = format!("no matching response packet received for DISCOVER; {text}");
    assert_eq!(event, Event::Failed(no_more_tries(cause)));
    assert_eq!(client.unreadable("it is cut short"), Output::default(), "nothing is awaited");
}

/// Everything that is sent, with the times, until the client ends. `server` is its answer to a kind of message.
fn against(client: &mut Client, server: impl Fn(u8) -> Option<u8>) -> Vec<(Moment, u8)> {
    let mut sends = Vec::new();
    while let Some(now) = client.deadline() {
        let mut output = client.poll(now);
        while output.send.is_some() {
            let message = sent(&output);
            sends.push((now, message.kind().unwrap()));
            let Some(kind) = server(message.kind().unwrap()) else { break };
            output = hear(client, now, &answer(kind, &message));
        }
    }
    sends
}

/// The times of RFC 2131, 4.1, each from the one before: 4, 8, 16, 32, 64 seconds, give or take one.
fn backs_off(times: &[Moment]) {
    for (pair, wanted) in times.windows(2).zip([4, 8, 16, 32, 64, 64, 64]) {
        near(pair[1] - pair[0], wanted * 1000, 1_000);
    }
}

fn times(sends: &[(Moment, u8)], wanted: u8) -> Vec<Moment> {
    sends.iter().filter(|(_, kind)| *kind == wanted).map(|(at, _)| *at).collect()
}

/// The most messages of any five seconds.
fn most_in_five_seconds(sends: &[(Moment, u8)]) -> usize {
    let within = |from: Moment| sends.iter().filter(|(at, _)| (from..=from + 5_000).contains(at)).count();
    sends.iter().map(|(at, _)| within(*at)).max().unwrap_or(0)
}

#[test]
fn a_discover_is_sent_again_as_rfc_2131_has_it() {
    for seed in 0..100 {
        let mut client = Client::acquire(settings(), Timing::default(), 0, seed);
        let (sends, end, event) = silence(&mut client);
        assert_eq!(times(&sends, kind::DISCOVER).len(), sends.len());
        assert_eq!((sends.len(), sends[0].0), (7, 0), "{sends:?}");
        backs_off(&times(&sends, kind::DISCOVER));
        assert!(most_in_five_seconds(&sends) <= 2, "{sends:?}");
        let details = "no matching response packet received for DISCOVER";
        assert_eq!((end, event), (208_000, Event::Failed(Error::internal("no more tries").with_details(details))));
        assert_eq!((client.deadline(), client.listening(), client.release(end)), (None, false, None));
    }
}

#[test]
fn clients_that_begin_together_do_not_go_on_together() {
    let second = |seed| silence(&mut Client::acquire(settings(), Timing::default(), 0, seed)).0[1].0;
    let moments: std::collections::BTreeSet<Moment> = (0..20).map(second).collect();
    assert!(moments.len() > 15 && moments.last().unwrap() - moments.first().unwrap() > 1_000, "{moments:?}");
}

#[test]
fn the_flags_say_how_long_to_wait() {
    let waits = |timeout, resend_max| {
        let timing = Timing { timeout, resend_max, resend_timeout: 0 };
        (1..7).map(|sends| timing.wait(sends)).collect::<Vec<_>>()
    };
    assert_eq!(waits(4_000, 62_000), [4_000, 8_000, 16_000, 32_000, 64_000, 64_000]);
    assert_eq!(waits(10_000, 62_000), [10_000, 20_000, 40_000, 64_000, 64_000, 64_000]);
    assert_eq!(waits(100, 62_000), [100, 200, 400, 800, 1_600, 3_200]);
    assert_eq!(waits(2_000, 8_000), [2_000, 4_000, 8_000, 8_000, 8_000, 8_000]);
    assert_eq!(waits(4_000, 120_000), [4_000, 8_000, 16_000, 32_000, 64_000, 120_000]);
    assert_eq!(waits(100_000, 62_000), [100_000; 6]);
    let client = Client::acquire(settings(), Timing { timeout: 1_000, ..Timing::default() }, 0, 1);
    near(silence(&mut { client }).0[1].0, 1_000, 250);
}

#[test]
fn a_server_that_offers_and_never_acknowledges_is_not_hurried() {
    let mut client = client();
    let sends = against(&mut client, |kind| (kind == kind::DISCOVER).then_some(kind::OFFER));
    let requests = times(&sends, kind::REQUEST);
    assert_eq!(times(&sends, kind::DISCOVER)[0], requests[0]);
    backs_off(&requests[..4]);
    near(times(&sends, kind::DISCOVER)[1], 60_000, 4_000);
    near(requests[4], 60_000, 4_000);
    assert!(sends.len() <= 20 && most_in_five_seconds(&sends) <= 4, "{sends:?}");
}

#[test]
fn a_server_that_offers_and_then_says_nothing_is_named() {
    let timing = Timing { resend_timeout: 75_000, ..Timing::default() };
    let mut client = Client::acquire(settings(), timing, 0, 1);
    let discover = sent(&client.poll(0));
    hear(&mut client, 0, &answer(kind::OFFER, &discover));
    let (_, _, event) = silence(&mut client);
    let details = "no matching response packet received for REQUEST of 10.1.2.77 to server 10.1.2.1";
    assert_eq!(event, Event::Failed(Error::internal("no more tries").with_details(details)));
}

#[test]
fn a_first_refusal_begins_another_attempt_at_once() {
    let timing = Timing { resend_timeout: 1_500, ..Timing::default() };
    let mut client = Client::acquire(settings(), timing, 0, 1);
    let discover = sent(&client.poll(0));
    let mut refuse = |discover: &Packet| {
        let request = sent(&hear(&mut client, 0, &answer(kind::OFFER, discover)));
        let mut nak = answer(kind::NAK, &request);
        nak.options.set(code::MESSAGE, b"address\nin use\0");
        let output = hear(&mut client, 10, &nak);
        assert_eq!(output.event, Some(Event::Refused("addressin use".to_string())));
        output
    };
    let again = sent(&refuse(&discover));
    assert!(again.kind() == Some(kind::DISCOVER) && again.xid != discover.xid);
    assert_eq!(refuse(&again).send, None);
    assert!(!client.listening());
    let (_, end, event) = silence(&mut client);
    let details = "server 10.1.2.1 rejected request with Nak (msg: addressin use)";
    assert_eq!((end, event), (1_500, Event::Failed(Error::internal("no more tries").with_details(details))));
}

#[test]
fn a_server_that_refuses_everything_is_asked_less_and_less() {
    for seed in 0..50 {
        let mut client = Client::acquire(settings(), Timing::default(), 0, seed);
        let refuses = |kind| Some(if kind == kind::DISCOVER { kind::OFFER } else { kind::NAK });
        let sends = against(&mut client, refuses);
        let discovers = times(&sends, kind::DISCOVER);
        assert_eq!((discovers[0], discovers[1]), (0, 0));
        for (pair, pause) in discovers[1..].windows(2).zip([2, 4, 8, 16, 32, 64, 64]) {
            near(pair[1] - pair[0], pause * 1000, 1_000);
        }
        // A DISCOVER and a REQUEST each time.
        assert!(discovers.len() <= 9 && sends.len() == 2 * discovers.len(), "{sends:?}");
    }
}

#[test]
fn no_order_of_events_does_harm() {
    for seed in 0..300 {
        let timing = Timing { timeout: 3_000, resend_max: 10_000, resend_timeout: 30_000 };
        let mut dice = Client::acquire(settings(), timing, 0, seed);
        let mut client = Client::acquire(settings(), timing, 0, seed);
        let (mut now, mut last, mut sends) = (0, Packet::to_server(kind::DISCOVER, 0, MAC), 0);
        for _ in 0..400 {
            let kind = [kind::OFFER, kind::ACK, kind::NAK, kind::OFFER, kind::ACK, 77][dice.random() as usize % 6];
            let mut packet = answer(kind, &last);
            match dice.random() % 12 {
                0 => packet.yours = Ipv4Addr::from(dice.random() as u32),
                1 => packet.options.set(code::LEASE_TIME, &(dice.random() as u32).to_be_bytes()),
                2 => packet.options.set(code::LEASE_TIME, &(dice.random() as u32 % 60).to_be_bytes()),
                3 => packet.options.set(code::RENEWAL_TIME, &(dice.random() as u32 % 1000).to_be_bytes()),
                4 => packet.options.set(code::SERVER_ID, &(dice.random() as u32).to_be_bytes()),
                5 => client.link_is_up(now),
                6 => packet.options.set(dice.random() as u8, &dice.random().to_be_bytes()),
                7 => packet.options.set(code::MESSAGE, &[dice.random() as u8; 200]),
                _ => {}
            }
            let output = match dice.random() % 3 {
                0 => hear(&mut client, now, &packet),
                _ => {
                    now = now.max(client.deadline().unwrap_or(now));
                    client.poll(now)
                }
            };
            if output.send.is_some() {
                (last, sends) = (sent(&output), sends + 1);
            }
            assert!(client.lease().is_none_or(|lease| lease.expires() >= now - 1 || client.deadline() == Some(now)));
            assert!(client.deadline().is_some() || !client.listening());
        }
        assert!(sends <= 400);
    }
}

#[test]
fn a_lease_takes_little_memory() {
    assert!(size_of::<Client>() <= 320, "{}", size_of::<Client>());
}
