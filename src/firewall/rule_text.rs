//! Rules as text, in iptables' words: for people.

use std::fmt;

use crate::firewall::rule::{Direction, Match, Rule, Side, Target};

impl fmt::Display for Rule {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for condition in &self.matches {
            write!(out, "{condition} ")?;
        }
        if let Some(comment) = &self.comment {
            write!(out, "-m comment --comment {comment:?} ")?;
        }
        match &self.target {
            Some(target) => write!(out, "-j {target}"),
            None => out.write_str("-j ?"),
        }
    }
}

impl fmt::Display for Match {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let not = |negated: &bool| if *negated { "! " } else { "" };
        match self {
            Match::Address { side, negated, network } => {
                let option = if *side == Side::Source { "-s" } else { "-d" };
                write!(out, "{}{option} {network}", not(negated))
            }
            Match::Interface { direction, negated, name } => {
                let option = if *direction == Direction::In { "-i" } else { "-o" };
                write!(out, "{}{option} {name}", not(negated))
            }
            Match::Protocol(protocol) => write!(out, "-p {}", protocol.name()),
            Match::DestinationPort(port) => write!(out, "--dport {port}"),
            Match::DestinationPorts(ports) => {
                let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
                write!(out, "-m multiport --dports {}", ports.join(","))
            }
            Match::LocalDestination => out.write_str("-m addrtype --dst-type LOCAL"),
            Match::Mark { negated, value, mask } => write!(out, "-m mark {}--mark {value:#x}/{mask:#x}", not(negated)),
            Match::ConnectionState(states) => write!(out, "-m conntrack --ctstate {states:#x}"),
            Match::DestinationTranslated => out.write_str("-m conntrack --ctstate DNAT"),
            Match::HardwareSource(address) => {
                let bytes: Vec<String> = address.iter().map(|byte| format!("{byte:02x}")).collect();
                write!(out, "-m mac --mac-source {}", bytes.join(":"))
            }
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Accept => out.write_str("ACCEPT"),
            Target::Drop => out.write_str("DROP"),
            Target::Return => out.write_str("RETURN"),
            Target::Jump(chain) => out.write_str(chain),
            Target::Goto(chain) => write!(out, "{chain} (goto)"),
            Target::Masquerade => out.write_str("MASQUERADE"),
            Target::DestinationNat(to) => write!(out, "DNAT --to-destination {}", to),
            Target::SetMark { value, mask } => write!(out, "MARK --set-xmark {value:#x}/{mask:#x}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::firewall::rule::Protocol;

    #[test]
    fn as_iptables_would_print_it() {
        let to = "[fd00::2]:80".parse().unwrap();
        let matches = vec![
            Match::not_destination("10.0.0.0/8".parse().unwrap()),
            Match::Protocol(Protocol::Udp),
            Match::DestinationPorts(vec![53, 54]),
        ];
        let rule = Rule::new(matches, Target::DestinationNat(to)).commented("a \"b\"");
        assert_eq!(
            rule.to_string(),
            r#"! -d 10.0.0.0/8 -p udp -m multiport --dports 53,54 -m comment --comment "a \"b\"" -j DNAT --to-destination [fd00::2]:80"#
        );
    }
}
