//! `--advertise auto`: the names under which this host is reached, found at each start.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs, UdpSocket};

/// Addresses that nobody has (documentation prefixes): only the route to them is asked for, and no packet is sent.
const ANYWHERE: [&str; 2] = ["192.0.2.1:9", "[2001:db8::1]:9"];

/// What `--advertise` says, with `auto` put into words: the addresses that this host's packets leave with, then its
/// name where it is a full one that means one of them. On a host without a route it is `localhost`, for programs on it.
pub fn expand(given: &[String], listen: SocketAddr) -> Vec<String> {
    let mut names = Vec::new();
    for each in given {
        if each == "auto" { names.extend(auto(listen)) } else { names.push(each.clone()) }
    }
    names.dedup();
    names
}

fn auto(listen: SocketAddr) -> Vec<String> {
    let port = listen.port();
    if !listen.ip().is_unspecified() {
        return vec![listen.to_string()];
    }
    // Listening on 0.0.0.0 takes IPv4 alone; on [::] both.
    let own: Vec<IpAddr> = ANYWHERE
        .iter()
        .filter_map(|target| leaves_with(target))
        .filter(|own| listen.is_ipv6() || own.is_ipv4())
        .collect();
    let mut names: Vec<String> = own.iter().map(|own| SocketAddr::new(*own, port).to_string()).collect();
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = host.trim();
    if host.contains('.') && means(host, port, &own) {
        names.push(format!("{host}:{port}"));
    }
    if names.is_empty() {
        tracing::warn!(
            "this host has no route to others, so only programs on it reach the master; start it again when it has one"
        );
        names.push(format!("localhost:{port}"));
    }
    tracing::info!("reached at {} (chosen by itself; --advertise HOST:PORT chooses otherwise)", names.join(", "));
    names
}

/// The address that packets to a target leave with.
fn leaves_with(target: &str) -> Option<IpAddr> {
    let target: SocketAddr = target.parse().ok()?;
    let any = if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect(target).ok()?;
    let own = socket.local_addr().ok()?.ip();
    (!own.is_unspecified() && !own.is_loopback()).then_some(own)
}

fn means(host: &str, port: u16, own: &[IpAddr]) -> bool {
    (host, port).to_socket_addrs().is_ok_and(|mut found| found.any(|found| own.contains(&found.ip())))
}

#[cfg(test)]
mod tests {
    #[test]
    fn auto_is_a_name_with_the_port_and_what_is_given_stays() {
        let expand = |given: &[&str], listen: &str| {
            super::expand(&given.iter().map(ToString::to_string).collect::<Vec<_>>(), listen.parse().unwrap())
        };
        assert_eq!(expand(&["m.example:443"], "0.0.0.0:443"), ["m.example:443"]);
        assert_eq!(expand(&["auto"], "192.0.2.7:8443"), ["192.0.2.7:8443"]);
        assert!(expand(&[], "0.0.0.0:443").is_empty());
        let found = expand(&["m.example:443", "auto"], "0.0.0.0:8443");
        assert_eq!(found[0], "m.example:443");
        assert!(found.len() > 1 && found[1..].iter().all(|name| name.ends_with(":8443")), "{found:?}");
        assert!(found.iter().all(|name| !name.starts_with("0.0.0.0") && !name.starts_with("127.")), "{found:?}");
    }
}
