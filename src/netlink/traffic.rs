//! Numbers of traffic control (`linux/rtnetlink.h`, `linux/pkt_sched.h`, `linux/pkt_cls.h`, `linux/tc_act/tc_mirred.h`), named
//! as the kernel names them.
#![allow(missing_docs)] // The kernel's headers are the documentation.

pub const RTM_NEWQDISC: u16 = 36;
pub const RTM_DELQDISC: u16 = 37;
pub const RTM_GETQDISC: u16 = 38;
pub const RTM_NEWTCLASS: u16 = 40;
pub const RTM_GETTCLASS: u16 = 42;
pub const RTM_NEWTFILTER: u16 = 44;
pub const RTM_DELTFILTER: u16 = 45;
pub const RTM_GETTFILTER: u16 = 46;
pub const RTM_GETCHAIN: u16 = 102;

pub const TC_H_ROOT: u32 = 0xffff_ffff;
pub const TC_H_INGRESS: u32 = 0xffff_fff1;
/// Parent of the filters for what comes in, of `ingress` and `clsact` (`TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS)`).
pub const TC_H_MIN_INGRESS: u32 = 0xffff_fff2;

pub const TCA_KIND: u16 = 1;
pub const TCA_OPTIONS: u16 = 2;
pub const TCA_CHAIN: u16 = 11;

pub const TCA_TBF_PARMS: u16 = 1;
pub const TCA_TBF_RATE64: u16 = 4;

pub const TCA_HTB_PARMS: u16 = 1;
pub const TCA_HTB_INIT: u16 = 2;
pub const TCA_HTB_DIRECT_QLEN: u16 = 5;
pub const TCA_HTB_RATE64: u16 = 6;
pub const TCA_HTB_CEIL64: u16 = 7;

pub const TCA_U32_CLASSID: u16 = 1;
pub const TCA_U32_SEL: u16 = 5;
pub const TCA_U32_ACT: u16 = 7;
/// Whatever matches goes to the class (`TC_U32_TERMINAL`).
pub const TC_U32_TERMINAL: u8 = 1;

pub const TCA_ACT_KIND: u16 = 1;
pub const TCA_ACT_OPTIONS: u16 = 2;
pub const TCA_MIRRED_PARMS: u16 = 2;
/// `TCA_EGRESS_REDIR`
pub const TCA_EGRESS_REDIR: u32 = 1;
pub const TC_ACT_OK: u32 = 0;
pub const TC_ACT_STOLEN: u32 = 4;

pub const ETH_P_ALL: u16 = 3;
pub const ETH_P_IP: u16 = 0x800;
pub const ETH_P_IPV6: u16 = 0x86dd;
