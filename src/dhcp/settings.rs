//! What a configuration wants said to the server: `provide`, `request`, CNI_ARGS, and the client id.
//!
//! | key of `ipam` | meaning |
//! |---|---|
//! | `provide` | list of `option` (name or number) with a `value`, or `fromArg`: the key of CNI_ARGS that has it |
//! | `request` | list of `option`s to ask for, besides 3 and 1 unless one of the entries has `skipDefault` |
//! | `dnsFromServer` | (not in the reference) ask for 6, 15 and 119 too, see [`crate::dhcp::result`] |
//! | `mtuFromServer` | (not in the reference) ask for 26 too |
//!
//! The texts of the errors are the reference's, upper case included.

use crate::cni::config::Object;
use crate::dhcp::packet::{Options, code};
use crate::dhcp::result::Wishes;
use crate::error::{Context, Error, Result};

/// What is the same in every packet of one client. The daemon makes one for each attachment and gives it to
/// [`crate::dhcp::client::Client`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// `chaddr`.
    pub hardware: [u8; 6],
    /// Ask servers to broadcast their answers (`-broadcast`).
    pub broadcast: bool,
    /// Options of every DISCOVER and REQUEST: 55, 57, 61 and what the configuration provides.
    pub options: Options,
}

/// Names that a configuration may use in place of numbers.
const NAMES: [(&str, u8); 6] = [
    ("dhcp-client-identifier", code::CLIENT_ID),
    ("subnet-mask", code::SUBNET_MASK),
    ("routers", code::ROUTERS),
    ("host-name", code::HOST_NAME),
    ("user-class", code::USER_CLASS),
    ("vendor-class-identifier", code::VENDOR_CLASS),
];
/// Always asked for, unless `skipDefault` says otherwise.
const REQUESTED: [u8; 2] = [code::ROUTERS, code::SUBNET_MASK];
/// What the reference's library asks for when it is told to ask for nothing.
const REQUESTED_AT_LEAST: [u8; 4] = [code::SUBNET_MASK, code::ROUTERS, code::DOMAIN_NAME, code::DNS_SERVERS];
const LARGEST_MESSAGE: u16 = 1500;
const LONGEST_VALUE: usize = 255;
const LONGEST_ID: usize = 254;

impl Settings {
    /// Decodes `provide` and `request` of the `ipam` object. `id` is from [`client_id`].
    pub fn decode(
        ipam: &Object<'_>,
        cni_args: &str,
        id: &[u8],
        hardware: [u8; 6],
        broadcast: bool,
    ) -> Result<Settings> {
        let mut options = Options::default();
        options.set(code::LARGEST_MESSAGE, &LARGEST_MESSAGE.to_be_bytes());
        // The first byte is the kind of id: not a hardware address.
        options.set(code::CLIENT_ID, &[&[0], id].concat());
        options.set(code::PARAMETER_LIST, &REQUESTED_AT_LEAST);
        for entry in ipam.objects("provide")? {
            provide(&mut options, &entry, cni_args)?;
        }
        let requested = requested(ipam)?;
        if !requested.is_empty() {
            options.set(code::PARAMETER_LIST, &requested);
        }
        options.shrink();
        Ok(Settings { hardware, broadcast, options })
    }
}

/// The reference's key of its lease table, and (after a zero byte) the client id on the wire: at most 254 bytes of
/// `CONTAINER/NETWORK/INTERFACE`. Bytes, because the cut may fall into a letter.
pub fn client_id(container: &str, network: &str, ifname: &str) -> Vec<u8> {
    let mut id = [container, network, ifname].join("/").into_bytes();
    id.truncate(LONGEST_ID);
    id
}

fn provide(options: &mut Options, entry: &Object<'_>, cni_args: &str) -> Result<()> {
    let (name, value, key) = (entry.string("option")?, entry.string("value")?, entry.string("fromArg")?);
    let code = parse_name(name)?;
    let too_long = |of: &str| Error::internal(format!("value too long for option {name:?}{of}: {value:?}"));
    if value.len() > LONGEST_VALUE {
        return Err(too_long(""));
    }
    if !value.is_empty() {
        options.set(code, value.as_bytes());
    }
    match argument(cni_args, key) {
        Some(argument) if argument.len() > LONGEST_VALUE => Err(too_long(&format!(" from CNI_ARGS {key:?}"))),
        Some(argument) => {
            options.set(code, argument.as_bytes());
            Ok(())
        }
        None => Ok(()),
    }
}

/// The codes to ask for, each once, in the configuration's order.
fn requested(ipam: &Object<'_>) -> Result<Vec<u8>> {
    let mut codes = Vec::new();
    let mut defaults = REQUESTED.as_slice();
    for entry in ipam.objects("request")? {
        if entry.boolean("skipDefault")? {
            defaults = &[];
        }
        match entry.string("option")? {
            "" => {}
            name => codes.push(parse_name(name)?),
        }
    }
    codes.extend(defaults);
    codes.extend(Wishes::decode(ipam)?.options());
    let mut once = Vec::new();
    for code in codes {
        if !once.contains(&code) {
            once.push(code);
        }
    }
    Ok(once)
}

fn parse_name(name: &str) -> Result<u8> {
    if let Some((_, code)) = NAMES.iter().find(|(known, _)| *known == name) {
        return Ok(*code);
    }
    let digits = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit());
    let cause = if digits { "value out of range" } else { "invalid syntax" };
    let parsed = name.parse().ok().filter(|_| digits);
    let parsed = parsed.ok_or_else(|| Error::internal(format!("strconv.ParseUint: parsing {name:?}: {cause}")));
    parsed.context("Can not parse option").with_context(|| format!("Can not parse option {name:?}"))
}

/// A value of CNI_ARGS. Other than where plugins read their own, a value may hold `=`, and what has none is passed over.
fn argument<'a>(cni_args: &'a str, key: &str) -> Option<&'a str> {
    let pairs = cni_args.rsplit(';').filter_map(|pair| pair.split_once('='));
    pairs.into_iter().find(|(name, _)| *name == key).map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn decode(ipam: &Value, cni_args: &str) -> Result<Options> {
        let settings = Settings::decode(&Object::top(ipam.as_object().unwrap()), cni_args, b"c/n/i", [2; 6], false);
        settings.map(|settings| settings.options)
    }

    fn value(ipam: &Value, cni_args: &str, code: u8) -> String {
        let options = decode(ipam, cni_args).unwrap();
        options.get(code).map_or("-".to_string(), |value| String::from_utf8_lossy(value).to_string())
    }

    fn asked(request: &Value) -> Vec<u8> {
        decode(&json!({ "request": request }), "").unwrap().get(code::PARAMETER_LIST).unwrap().to_vec()
    }

    #[test]
    fn without_any_wish_the_packets_are_the_references() {
        let options = decode(&json!({}), "").unwrap();
        let all: Vec<_> = options.iter().collect();
        assert_eq!(all, [(55, &[3, 1][..]), (57, &[5, 220]), (61, b"\0c/n/i")]);
    }

    #[test]
    fn options_are_asked_for_in_order_and_once() {
        assert_eq!(asked(&json!([{"option": "121"}, {"option": "routers"}, {"option": "121"}])), [121, 3, 1]);
        assert_eq!(asked(&json!([{"option": "33"}, {"skipDefault": true}])), [33]);
        assert_eq!(asked(&json!([{"skipDefault": true, "option": ""}])), [1, 3, 15, 6]);
        assert_eq!(asked(&json!([{"option": "007"}, null])), [7, 3, 1]);
        let wishes = json!({"dnsFromServer": true, "mtuFromServer": true, "request": [{"option": "6"}]});
        assert_eq!(decode(&wishes, "").unwrap().get(55).unwrap(), [6, 3, 1, 15, 119, 26]);
        let provided = json!({"provide": [{"option": "55", "value": "A"}], "request": [{"skipDefault": true}]});
        assert_eq!(value(&provided, "", 55), "A");
    }

    #[test]
    fn values_come_from_the_configuration_or_from_the_arguments() {
        let provide = |entries: &Value| json!({ "provide": entries });
        let both = provide(&json!([{"option": "host-name", "value": "a", "fromArg": "K8S_POD_NAME"}]));
        assert_eq!(value(&both, "", 12), "a");
        assert_eq!(value(&both, "X;K8S_POD_NAME=b=c;Y=", 12), "b=c");
        assert_eq!(value(&both, "K8S_POD_NAME=1;K8S_POD_NAME=2", 12), "2");
        assert_eq!(value(&both, "K8S_POD_NAME=", 12), "");
        let last = provide(&json!([{"option": "12", "value": "a"}, {"option": "host-name", "value": "b"}]));
        assert_eq!(value(&last, "", 12), "b");
        let nothing =
            provide(&json!([{"option": "12"}, {"option": "0", "value": "x"}, {"option": "255", "value": "x"}]));
        assert_eq!(value(&nothing, "", 12), "-");
        let id = provide(&json!([{"option": "dhcp-client-identifier", "value": "me"}]));
        assert_eq!(value(&id, "", 61), "me");
    }

    #[test]
    fn errors_are_the_references() {
        let text = |ipam: &Value| decode(ipam, &format!("L={}", "x".repeat(256))).unwrap_err().msg.clone();
        let bad = |name: &str| text(&json!({"request": [{ "option": name }]}));
        let parsing = |name: &str, cause: &str| {
            format!(
                r#"Can not parse option "{name}": Can not parse option: strconv.ParseUint: parsing "{name}": {cause}"#
            )
        };
        assert_eq!(bad("nope"), parsing("nope", "invalid syntax"));
        assert_eq!(bad("+1"), parsing("+1", "invalid syntax"));
        assert_eq!(bad("256"), parsing("256", "value out of range"));
        assert_eq!(text(&json!({"provide": [{"value": "x"}]})), parsing("", "invalid syntax"));
        let long = "y".repeat(256);
        let provided = json!({"provide": [{"option": "12", "value": long}]});
        assert_eq!(text(&provided), format!(r#"value too long for option "12": "{long}""#));
        let provided = json!({"provide": [{"option": "12", "value": "v", "fromArg": "L"}]});
        assert_eq!(text(&provided), r#"value too long for option "12" from CNI_ARGS "L": "v""#);
    }

    #[test]
    fn the_client_id_is_cut() {
        assert_eq!(client_id("c", "n", "eth0"), b"c/n/eth0");
        assert_eq!(client_id(&"c".repeat(250), "net", "eth0"), [&[b'c'; 250][..], b"/net"].concat());
    }
}
