#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::indexing_slicing,
    clippy::exit,
    clippy::print_stderr
)]
use cni_box::firewall::flavour::{Flavour, Preference, choose};
use cni_box::firewall::masquerade::Masquerade;
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let forced = std::env::var("F").ok().map(|f| Flavour::parse(&f).unwrap());
    let path = std::env::var("PATH").unwrap();
    let p = Preference { forced, path: &path };
    if a[1] == "choose" {
        println!("{:?}", choose(&p));
        return;
    }
    let m = Masquerade { network: &a[2], container: &a[3] };
    let r = match a[1].as_str() {
        "add" => {
            let x: Vec<_> = a[4..].iter().map(|s| s.parse().unwrap()).collect();
            m.add(&x, &p).map(drop)
        }
        "addundo" => {
            let x: Vec<_> = a[4..].iter().map(|s| s.parse().unwrap()).collect();
            m.add(&x, &p).and_then(|a| a.undo())
        }
        "del" => {
            let x: Vec<_> = a[4..].iter().map(|s| s.parse().unwrap()).collect();
            m.del(Some(&x))
        }
        "delall" => m.del(None),
        _ => panic!(),
    };
    if let Err(e) = r {
        eprintln!("ERROR {} {:?} {e}", e.code, e.errno);
        std::process::exit(1)
    }
}
