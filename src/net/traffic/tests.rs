use super::*;

/// What follows `struct tcmsg` in the reference's requests (plugins 1.9.1, `strace`); `tc` says the same, with tables of rates
/// and without the second action.
#[test]
fn a_bucket() {
    #[rustfmt::skip]
    let golden = [
        0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 1, 0, 255, 255, 255, 255, 0, 0, 0, 0, // tcmsg: link 7, handle 1:, root
        8, 0, 1, 0, b't', b'b', b'f', 0,                                    // TCA_KIND
        44, 0, 2, 0,                                                        // TCA_OPTIONS
        40, 0, 1, 0,                                                        //   TCA_TBF_PARMS
        0, 0, 0, 0, 0, 0, 0, 0, 0x48, 0xe8, 1, 0,                           //     rate 125,000
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,                                 //     no peak rate
        0x55, 0x5a, 0, 0, 0xa0, 0x25, 0x26, 0, 0, 0, 0, 0,                  //     limit, buffer, MTU
    ];
    let tbf = Tbf::new(125_000, 20_000);
    assert_eq!(tbf, Tbf { rate: 125_000, limit: 23_125, buffer: 2_500_000 });
    assert_eq!(tbf_message(7, EXCL, &tbf).body(), golden);
    assert_eq!(read_root(&golden).unwrap(), Found::Known(Root::Tbf(tbf)));
    let other = Tbf::new(250_000, 10_000);
    assert_eq!((other.buffer, other.limit), (625_000, 16_250));
}

#[test]
fn a_rate_beyond_32_bits_has_an_attribute_of_its_own() {
    let tbf = Tbf::new(1 << 33, 20_000);
    let message = tbf_message(7, EXCL, &tbf);
    let body = message.body();
    assert_eq!(body[44..48], [255; 4], "the old field");
    assert_eq!(body[72..], [12, 0, 4, 0, 0, 0, 0, 0, 2, 0, 0, 0], "TCA_TBF_RATE64");
    assert_eq!(read_root(body).unwrap(), Found::Known(Root::Tbf(tbf)));
}

#[test]
fn numbers_that_are_too_great_are_the_greatest() {
    assert_eq!(Tbf::new(1, 20_000).buffer, u32::MAX);
    assert_eq!(Tbf::new(u64::MAX / 8, 1).buffer, 1, "nor too small");
    assert_eq!(Tbf::new(u64::MAX / 8, 1).limit, u32::MAX);
    assert_eq!(Tbf::new(1000, u32::MAX - 1).limit, u32::MAX);
}

#[test]
fn an_ifb() {
    #[rustfmt::skip]
    let golden = [
        0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0,     // ifinfomsg: IFF_UP of IFF_UP
        9, 0, 3, 0, b'b', b'w', b'p', b'1', 0, 0, 0, 0,     // IFLA_IFNAME
        8, 0, 4, 0, 0xdc, 5, 0, 0,                          // IFLA_MTU 1500
        8, 0, 13, 0, 0, 0, 0, 0,                            // IFLA_TXQLEN
        12, 0, 18, 0, 8, 0, 1, 0, b'i', b'f', b'b', 0,      // IFLA_LINKINFO: IFLA_INFO_KIND
    ];
    assert_eq!(ifb_message("bwp1", 1500, None).body(), golden);
}
