//! The appliance's settings, and what each may be. A wrong value is refused with what to write instead.

use std::net::IpAddr;

/// All keys.
pub const KEYS: [&str; 9] = ["token", "master", "address", "gateway", "dns", "ssh_key", "name", "tier", "advertise"];
/// Longest value.
const VALUE_BYTES_MAX: usize = 8_192;

/// The value as it is kept, or why it cannot be.
pub fn check(key: &str, value: &str) -> Result<String, String> {
    if !KEYS.contains(&key) {
        return Err(format!("the appliance knows no setting '{key}': there are {}", KEYS.join(", ")));
    }
    if value.len() > VALUE_BYTES_MAX || value.chars().any(char::is_control) {
        return Err(format!("{key}: it is longer than 8 KB or holds control characters"));
    }
    let list = || value.split([',', ' ']).filter(|part| !part.is_empty());
    let why = match key {
        "address" => address(value).err(),
        "gateway" => value.parse::<IpAddr>().err().map(|_error| "write an address such as 192.0.2.1".to_owned()),
        "dns" => list()
            .find(|part| part.parse::<IpAddr>().is_err())
            .map(|_| "write addresses such as 192.0.2.53, more than one behind commas".to_owned()),
        "master" | "advertise" => list().find_map(|part| endpoint(part).err()),
        "token" if value.contains(char::is_whitespace) => Some("a token has no spaces: copy all of it".to_owned()),
        "ssh_key" => ssh_key(value).err(),
        "name" => name(value).err(),
        "tier" if !crate::plan::tiers().iter().any(|tier| tier.name == value) && value != "auto" => {
            let names: Vec<String> = crate::plan::tiers().into_iter().map(|tier| tier.name).collect();
            Some(format!("write {} or auto", names.join(", ")))
        }
        _ => None,
    };
    match why {
        Some(why) => Err(format!("{key} '{}' cannot be used: {why}", short(value))),
        None => Ok(value.to_owned()),
    }
}

/// Settings that are right each and wrong together.
pub fn together(address_text: Option<&str>, gateway: Option<&str>) -> Option<String> {
    let gateway = gateway?.parse::<IpAddr>().ok()?;
    let Some((address, prefix)) = address_text.and_then(|text| address(text).ok()) else {
        return Some(
            "gateway: it counts for nothing without an address (by DHCP the network names its own)".to_owned(),
        );
    };
    if network(address, prefix) == network(gateway, prefix) {
        return None;
    }
    Some(format!("gateway {gateway} is outside the network of {address}/{prefix}: nothing beyond it can be reached"))
}

fn address(text: &str) -> Result<(IpAddr, u8), String> {
    let wrong = || "write it with its prefix, such as 192.0.2.10/24".to_owned();
    let (address, prefix) = text.split_once('/').ok_or_else(wrong)?;
    let address: IpAddr = address.parse().map_err(|_error| wrong())?;
    let prefix: u8 = prefix.parse().map_err(|_error| wrong())?;
    let longest = if address.is_ipv4() { 32 } else { 128 };
    if prefix == 0 || prefix > longest { Err(format!("a prefix is 1 to {longest}")) } else { Ok((address, prefix)) }
}

fn network(address: IpAddr, prefix: u8) -> (bool, u128) {
    let (bits, width) = match address {
        IpAddr::V4(four) => (u128::from(four.to_bits()), 32),
        IpAddr::V6(six) => (six.to_bits(), 128),
    };
    (address.is_ipv4(), bits.checked_shr(width - u32::from(prefix).min(width)).unwrap_or(0))
}

fn endpoint(text: &str) -> Result<(), String> {
    let wrong = || "write HOST:PORT, such as 192.0.2.1:443".to_owned();
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let good = match bare {
        Some(six) => six.parse::<std::net::Ipv6Addr>().is_ok(),
        None => name(host).is_ok(),
    };
    if good && port.parse::<u16>().is_ok_and(|port| port > 0) { Ok(()) } else { Err(wrong()) }
}

fn name(text: &str) -> Result<(), String> {
    let label = |part: &str| {
        (1..=63).contains(&part.len())
            && !part.starts_with('-')
            && !part.ends_with('-')
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    let good = text.len() <= 253 && text.split('.').all(label);
    if good { Ok(()) } else { Err("a name has letters, digits, '-' and '.'".to_owned()) }
}

fn ssh_key(text: &str) -> Result<(), String> {
    let mut parts = text.split_whitespace();
    let (kind, body) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let known =
        ["ssh-ed25519", "ssh-rsa", "ecdsa-sha2-", "sk-ssh-", "sk-ecdsa-"].iter().any(|each| kind.starts_with(each));
    let base64 = body.len() > 40 && body.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte));
    if text.contains("PRIVATE") {
        return Err("that is the private half: give the line of the .pub file".to_owned());
    }
    if known && base64 { Ok(()) } else { Err("give the one line of an OpenSSH .pub file".to_owned()) }
}

fn short(value: &str) -> String {
    let cut: String = value.chars().take(40).collect();
    if cut.len() < value.len() { format!("{cut}…") } else { cut }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_cannot_work_is_refused_with_what_to_write_instead() {
        for (key, value, says) in [
            ("address", "192.0.2.10", "/24"),
            ("address", "192.0.2.300/24", "/24"),
            ("address", "192.0.2.1/33", "1 to 32"),
            ("gateway", "router", "192.0.2.1"),
            ("dns", "192.0.2.53, nine", "behind commas"),
            ("master", "192.0.2.1", "HOST:PORT"),
            ("master", "bad host:443", "HOST:PORT"),
            ("token", "abc def", "no spaces"),
            ("ssh_key", "ssh-ed25519", ".pub"),
            ("ssh_key", "-----BEGIN OPENSSH PRIVATE KEY-----", "private half"),
            ("name", "under_score", "letters"),
            ("tier", "huge", "small, medium, large or auto"),
            ("password", "x", "no setting"),
            ("name", "a\nb", "control"),
        ] {
            let said = check(key, value).unwrap_err();
            assert!(said.contains(says) && said.contains(key), "{key}={value}: {said}");
        }
    }

    #[test]
    fn what_works_is_kept_as_it_is() {
        let key = format!("ssh-ed25519 {} me@here", "A".repeat(68));
        for (key, value) in [
            ("address", "192.0.2.10/24"),
            ("address", "2001:db8::1/64"),
            ("gateway", "192.0.2.1"),
            ("dns", "192.0.2.53,2001:db8::53"),
            ("master", "master.example:443"),
            ("advertise", "[2001:db8::1]:443,198.51.100.7:8443"),
            ("token", "thymus-abc_def=="),
            ("ssh_key", key.as_str()),
            ("name", "span-1.example"),
            ("tier", "medium"),
            ("tier", "auto"),
        ] {
            assert_eq!(check(key, value).as_deref(), Ok(value), "{key}");
        }
    }

    #[test]
    fn a_gateway_in_another_network_is_named() {
        assert_eq!(together(Some("192.0.2.10/24"), Some("192.0.2.1")), None);
        assert!(together(Some("192.0.2.10/24"), Some("198.51.100.1")).unwrap().contains("outside the network"));
        assert!(together(None, Some("192.0.2.1")).unwrap().contains("without an address"));
        assert_eq!(together(Some("192.0.2.10/24"), None), None);
    }

    proptest! {
        #[test]
        fn any_text_is_kept_or_refused_in_a_line(at in 0usize..9, value in "\\PC{0,200}") {
            if let Err(said) = check(KEYS[at], &value) {
                prop_assert!(!said.contains('\n') && said.len() < 400);
            }
        }
    }
}
