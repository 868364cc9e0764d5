//! What becomes of a lease after it was granted.

use super::*;
use serde_json::Value;

#[test]
fn a_lease_is_renewed_by_its_server() {
    let mut client = bound();
    let (now, output) = next(&mut client);
    near(now, 492_000, 8_000);
    let datagram = output.send.clone().unwrap();
    assert_eq!((datagram.source, datagram.destination, datagram.mac), (ADDRESS, SERVER, SERVER_MAC));
    let request = sent(&output);
    assert_eq!((request.kind(), request.client), (Some(kind::REQUEST), ADDRESS));
    let codes: Vec<_> = request.options.iter().map(|(code, _)| code).collect();
    assert_eq!(codes, [53, 55, 61]);
    // Not from anybody else.
    let mut ack = answer(kind::ACK, &request);
    ack.options.set(code::SERVER_ID, &[10, 1, 2, 2]);
    let told = "ACK of 10.1.2.77 from 10.1.2.2 passed over: server 10.1.2.1 was asked";
    assert_eq!(passed_over(&mut client, &ack), told);
    // Nor with another address.
    let mut ack = answer(kind::ACK, &request);
    ack.yours = Ipv4Addr::new(10, 1, 2, 78);
    assert_eq!(hear(&mut client, now, &ack).event, Some(Event::OtherAddress(ack.yours)));
    // The second try goes to whoever has the server's address.
    let (_, output) = next(&mut client);
    assert_eq!(output.send.as_ref().map(|send| (send.destination, send.mac)), Some((SERVER, BROADCAST_MAC)));
    assert_eq!(sent(&output).xid, request.xid);
    let output = hear(&mut client, 510_000, &answer(kind::ACK, &request));
    assert_eq!(output.event, Some(Event::Renewed));
    assert!(client.lease().unwrap().expires() > 1_490_000);
}

#[test]
fn without_its_server_a_lease_is_renewed_by_any() {
    let mut client = bound();
    let (mut renewing, mut rebinding) = (0, 0);
    let request = loop {
        let (now, output) = next(&mut client);
        let request = sent(&output);
        assert_eq!((request.client, request.options.get(code::SERVER_ID)), (ADDRESS, None));
        match output.send.unwrap().destination {
            SERVER => renewing += 1,
            _ => rebinding += 1,
        }
        if rebinding > 0 {
            // T2, and no more than a 32nd of the rest of the lease later.
            assert!((850_000..=854_688).contains(&now), "{now}");
            break request;
        }
    };
    assert!((2..=4).contains(&renewing), "{renewing}");
    let mut ack = answer(kind::ACK, &request);
    ack.options.set(code::SERVER_ID, &[10, 1, 2, 2]);
    assert_eq!(hear(&mut client, 855_000, &ack).event, Some(Event::Renewed));
    assert_eq!(client.lease().unwrap().server, Ipv4Addr::new(10, 1, 2, 2));
}

#[test]
fn a_lease_that_nobody_renews_expires() {
    let mut client = bound();
    let (sends, end, event) = silence(&mut client);
    assert_eq!((end, event), (1_000_000, Event::Expired));
    assert!((4..8).contains(&sends.len()), "{sends:?}");
    assert_eq!((client.release(end), client.lease(), client.deadline()), (None, None, None));
}

#[test]
fn a_lease_that_ended_while_the_machine_slept_is_asked_for_once_more() {
    let mut client = bound();
    let request = sent(&client.poll(5_000_000));
    assert_eq!(request.options.address(code::REQUESTED_ADDRESS), Some(ADDRESS));
    assert_eq!(hear(&mut client, 5_000_000, &answer(kind::ACK, &request)).event, Some(Event::Renewed));
    assert_eq!(client.lease().unwrap().expires(), 6_000_000);
    client.poll(9_000_000);
    let (_, end, event) = silence(&mut client);
    assert_eq!((end, event), (9_208_000, Event::Expired));
}

/// A client that got a lease of so many seconds at time 0.
fn bound_for(seconds: u32, seed: u64) -> Client {
    let mut client = Client::acquire(settings(), Timing::default(), 0, seed);
    let discover = sent(&client.poll(0));
    let request = sent(&hear(&mut client, 0, &answer(kind::OFFER, &discover)));
    let mut ack = answer(kind::ACK, &request);
    ack.options.set(code::LEASE_TIME, &seconds.to_be_bytes());
    hear(&mut client, 0, &ack);
    client
}

/// RFC 2131, 4.4.5: half of what is left until T2, then of what is left of the lease, and no less than a minute.
#[test]
fn extensions_are_requested_at_half_of_the_time_left() {
    let (sends, ..) = silence(&mut bound_for(7200, 3));
    let at: Vec<Moment> = sends.iter().map(|(at, _)| *at).collect();
    near(at[0], 3_600_000 - 56_000, 57_000);
    let t2 = at.iter().position(|at| *at >= 6_120_000).unwrap();
    let ends = [(&at[..t2], 6_120_000), (&at[t2..], 7_200_000)];
    for (asked, end) in ends {
        assert!(asked.len() >= 4, "{at:?}");
        for pair in asked.windows(2) {
            assert_eq!(pair[1] - pair[0], ((end - pair[0]) / 2).max(60_000), "{at:?}");
        }
    }
}

/// A socket is open meanwhile, and keeps the namespace alive.
#[test]
fn the_answer_to_an_extension_is_not_awaited_for_hours() {
    let mut client = bound_for(86_400, 1);
    let (now, output) = next(&mut client);
    let request = sent(&output);
    assert!(client.listening());
    assert_eq!((client.deadline(), client.poll(now + 4_000)), (Some(now + 4_000), Output::default()));
    assert!(!client.listening());
    assert_eq!(hear(&mut client, now + 5_000, &answer(kind::ACK, &request)), Output::default());
    assert!(client.deadline().unwrap() > now + 10_000_000, "{client:?}");
    let (now, output) = next(&mut client);
    assert!(client.listening());
    let event = hear(&mut client, now + 3_999, &answer(kind::ACK, &sent(&output))).event;
    assert_eq!((event, client.listening()), (Some(Event::Renewed), false));
}

#[test]
fn leases_that_were_granted_together_are_not_asked_for_together() {
    for phase in [0, 3_060_000] {
        let moment = |seed| silence(&mut bound_for(3600, seed)).0.iter().find(|(at, _)| *at >= phase).unwrap().0;
        let moments: std::collections::BTreeSet<Moment> = (0..20).map(moment).collect();
        assert!(moments.len() > 15 && moments.last().unwrap() - moments.first().unwrap() > 5_000, "{moments:?}");
    }
    // Nor when no server has confirmed them after a restart.
    let map = record(&bound(), 0);
    let renewed = |seed| {
        let clock = Clock { now: 0, kept: 1_700_000_000_000 };
        let mut client = Client::restore(&Object::top(&map), Timing::default(), clock, seed).unwrap();
        silence(&mut client);
        client.deadline().unwrap()
    };
    assert!((0..20).map(renewed).collect::<std::collections::BTreeSet<_>>().len() > 15);
}

#[test]
fn even_a_short_lease_is_asked_for_more_than_once() {
    let mut client = bound_for(10, 1);
    let (sends, end, _) = silence(&mut client);
    assert_eq!(end, 10_000);
    assert!((3..8).contains(&sends.len()), "{sends:?}");
    assert!(sends.windows(2).all(|pair| pair[1].0 - pair[0].0 >= 500), "{sends:?}");
}

#[test]
fn a_lease_without_end_is_left_alone() {
    let mut client = client();
    let discover = sent(&client.poll(0));
    let request = sent(&hear(&mut client, 0, &answer(kind::OFFER, &discover)));
    let mut ack = answer(kind::ACK, &request);
    ack.options.set(code::LEASE_TIME, &[255; 4]);
    assert_eq!(hear(&mut client, 0, &ack).event, Some(Event::Bound));
    assert_eq!((client.deadline(), client.listening()), (None, false));
    assert!(client.release(1 << 40).is_some());
}

#[test]
fn after_a_refusal_the_same_address_is_asked_for_again() {
    let mut client = bound();
    let (now, output) = next(&mut client);
    let output = hear(&mut client, now, &answer(kind::NAK, &sent(&output)));
    assert_eq!(output.event, Some(Event::Refused(String::new())));
    let discover = sent(&output);
    assert_eq!(discover.options.address(code::REQUESTED_ADDRESS), Some(ADDRESS));
    let mut other = answer(kind::OFFER, &discover);
    other.yours = Ipv4Addr::new(10, 1, 2, 78);
    let output = hear(&mut client, now, &other);
    assert_eq!((output.send, output.event), (None, Some(Event::OtherAddress(other.yours))));
    let request = sent(&hear(&mut client, now, &answer(kind::OFFER, &discover)));
    assert_eq!(hear(&mut client, now, &answer(kind::ACK, &request)).event, Some(Event::Renewed));
    // Or it is not to be had again.
    let (now, output) = next(&mut client);
    hear(&mut client, now, &answer(kind::NAK, &sent(&output)));
    let (_, end, event) = silence(&mut client);
    assert_eq!(event, Event::Expired);
    near(end, 1_490_000, 20_000);
}

#[test]
fn a_lease_is_released_to_its_server() {
    let mut client = bound();
    let datagram = client.release(1000).unwrap();
    assert_eq!((datagram.source, datagram.destination, datagram.mac), (ADDRESS, SERVER, SERVER_MAC));
    let packet = Packet::decode(&datagram.payload).unwrap();
    let codes: Vec<_> = packet.options.iter().map(|(code, _)| code).collect();
    assert_eq!((packet.kind(), packet.client, codes), (Some(kind::RELEASE), ADDRESS, vec![53, 54, 61]));
    assert_eq!((client.release(1000), client.deadline(), client.lease()), (None, None, None));
    assert_eq!(bound().release(1_000_000), None, "it has expired");
    // What may have been granted a moment ago.
    let mut client = self::client();
    let discover = sent(&client.poll(0));
    assert_eq!(self::client().release(0), None);
    hear(&mut client, 0, &answer(kind::OFFER, &discover));
    assert_eq!(client.release(1).map(|datagram| (datagram.source, datagram.mac)), Some((ADDRESS, BROADCAST_MAC)));
}

#[test]
fn a_link_that_comes_up_is_used_at_once() {
    for at in [0, 700, 2_900, 16_000] {
        let mut client = client();
        let mut sends = vec![(0, kind::DISCOVER)];
        let discover = sent(&client.poll(0));
        while client.deadline().unwrap() < at {
            let (now, _) = next(&mut client);
            sends.push((now, kind::DISCOVER));
        }
        client.link_is_up(at);
        assert_eq!((client.deadline(), sent(&client.poll(at))), (Some(at), discover));
        sends.push((at, kind::DISCOVER));
        // It takes the place of the first repetition.
        near(client.deadline().unwrap(), at + 8_000, 1_000);
        sends.extend(silence(&mut client).0);
        assert!(most_in_five_seconds(&sends) <= 2, "{sends:?}");
    }
}

#[test]
fn a_link_that_flaps_is_used_at_once_only_once() {
    let mut client = client();
    client.link_is_up(0);
    assert_eq!(client.deadline(), Some(0), "nothing has been sent yet");
    client.poll(0);
    client.link_is_up(10);
    sent(&client.poll(10));
    for now in 11..5_000 {
        client.link_is_up(now);
        assert_eq!(client.poll(now), Output::default());
    }
    near(client.deadline().unwrap(), 8_010, 1_000);
}

/// Only a DISCOVER that was lost for certain is worth it.
#[test]
fn a_link_that_comes_up_hurries_nothing_else() {
    let mut requesting = client();
    let discover = sent(&requesting.poll(0));
    hear(&mut requesting, 0, &answer(kind::OFFER, &discover));
    let mut refused = requesting;
    let request = |client: &Client| Packet::decode(&client.message().payload).unwrap();
    let nak = answer(kind::NAK, &request(&refused));
    let again = sent(&hear(&mut refused, 0, &nak));
    let asked = sent(&hear(&mut refused, 0, &answer(kind::OFFER, &again)));
    hear(&mut refused, 0, &answer(kind::NAK, &asked));
    let mut requesting = client();
    let discover = sent(&requesting.poll(0));
    hear(&mut requesting, 0, &answer(kind::OFFER, &discover));
    let mut renewing = bound();
    next(&mut renewing);
    for mut client in [requesting, refused, bound(), renewing, restored(&record(&bound(), 0), 0)] {
        let before = client.deadline();
        client.link_is_up(700);
        assert_eq!(client.deadline(), before, "{client:?}");
    }
}

fn record(client: &Client, now: Moment) -> Map<String, Value> {
    let members = client.record(Clock { now, kept: 1_700_000_000_000 + now }).unwrap();
    let Value::Object(map) = Node::Object(members).into_value() else { panic!("no object") };
    map
}

/// After a restart, at this time of the old clock; the new one begins with 0.
fn restored(map: &Map<String, Value>, kept: Moment) -> Client {
    let clock = Clock { now: 0, kept: 1_700_000_000_000 + kept };
    Client::restore(&Object::top(map), Timing::default(), clock, 2_000).unwrap()
}

#[test]
fn a_recorded_lease_is_confirmed() {
    let client = bound();
    let mut again = restored(&record(&client, 5_000), 60_000);
    assert_eq!((again.settings(), again.deadline()), (client.settings(), Some(0)));
    let output = again.poll(0);
    let request = sent(&output);
    assert_eq!((request.kind(), request.client), (Some(kind::REQUEST), NOBODY));
    let codes: Vec<_> = request.options.iter().map(|(code, _)| code).collect();
    assert_eq!((codes, output.send.unwrap().source), (vec![50, 53, 55, 61], NOBODY));
    assert_eq!(hear(&mut again, 0, &answer(kind::ACK, &request)).event, Some(Event::Renewed));
    assert_eq!(again.lease().unwrap().expires(), 1_000_000);
    assert_eq!(self::client().record(Clock { now: 0, kept: 0 }), None);
    for key in ["dhcpHardware", "dhcpOptions", "dhcpAddress"] {
        let mut map = record(&client, 0);
        map.insert(key.to_string(), "00".into());
        let text = format!("recorded lease has an unreadable {key:?}");
        let clock = Clock { now: 0, kept: 0 };
        assert_eq!(Client::restore(&Object::top(&map), Timing::default(), clock, 2).unwrap_err().msg, text);
    }
}

#[test]
fn a_recorded_lease_that_nobody_confirms_lasts_as_long_as_it_was_granted() {
    let map = record(&bound(), 0);
    let mut again = restored(&map, 60_000);
    let (sends, now, event) = silence(&mut again);
    backs_off(&times(&sends, kind::REQUEST));
    assert_eq!((sends.len(), event), (4, Event::Unconfirmed));
    near(now, 60_000, 4_000);
    near(again.deadline().unwrap(), 440_000 - 8_000, 8_000);
    assert_eq!(silence(&mut again).1, 940_000);
    // Past T2 any server is asked.
    let mut again = restored(&map, 860_000);
    silence(&mut again);
    assert_eq!(
        next(&mut again).1.send.map(|send| (send.source, send.destination)),
        Some((ADDRESS, Ipv4Addr::BROADCAST))
    );
}

/// It ends with the lease, although asking for one that has expired would go on for longer.
#[test]
fn a_recorded_lease_that_is_soon_over_ends_in_time() {
    let mut again = restored(&record(&bound(), 0), 860_000);
    assert_eq!(silence(&mut again).2, Event::Unconfirmed);
    let (sends, end, event) = silence(&mut again);
    assert_eq!((end, event), (140_000, Event::Expired));
    assert!(sends.len() < 6, "{sends:?}");
}

#[test]
fn a_recorded_lease_that_has_expired_is_asked_for_once_more() {
    let map = record(&bound(), 0);
    let mut again = restored(&map, 5_000_000);
    let (sends, end, event) = silence(&mut again);
    assert_eq!((end, event), (208_000, Event::Expired));
    assert_eq!((sends[0].1, sends[3].1, sends[4].1), (kind::REQUEST, kind::REQUEST, kind::DISCOVER));
    let mut again = restored(&map, 5_000_000);
    let request = sent(&again.poll(0));
    assert_eq!(hear(&mut again, 0, &answer(kind::ACK, &request)).event, Some(Event::Renewed));
}
