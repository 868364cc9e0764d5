use crate::lab::*;
#[test]
fn smoke(){
    let lab=Lab::new(); lab.netns("ns1");
    let r=lab.plugin("bridge").config(&bridge_config(&serde_json::json!({"isGateway":true,"ipMasq":true}))).run().result();
    eprintln!("{r:#} {:?} {:?} {:?}", lab.snapshot().lines(), lab.reserved("net"), lab.addresses("ns1","eth0"));
    panic!();
}
