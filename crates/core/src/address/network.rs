//! Which network addresses belong to this host, to the network around it, or to nobody.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Whether an address is anything but a public one, in whatever notation it came.
pub(super) fn is_internal(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_internal_v4(v4),
        IpAddr::V6(v6) => is_internal_v6(v6),
    }
}

fn is_internal_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    address.is_loopback()
        || address.is_private()
        || address.is_link_local()
        || address.is_multicast()
        || address.is_documentation()
        || a == 0
        || a >= 240
        // Shared by carriers; 100.100.100.200 answers with a cloud's credentials.
        || (a == 100 && (64..128).contains(&b))
        || (a, b, c) == (192, 0, 0)
        || (a == 198 && (b == 18 || b == 19))
        // A cloud's own, although it looks public.
        || address == Ipv4Addr::new(168, 63, 129, 16)
}

fn is_internal_v6(address: Ipv6Addr) -> bool {
    let [a, b, c, d, e, f, g, h] = address.segments();
    let inner = |high: u16, low: u16| {
        let ([w, x], [y, z]) = (high.to_be_bytes(), low.to_be_bytes());
        is_internal_v4(Ipv4Addr::new(w, x, y, z))
    };
    match (a, b) {
        // Mapped, compatible, translated: what counts is the address inside. `::` and `::1` are here too.
        (0, 0) if (c, d, e) == (0, 0, 0) && (f == 0 || f == 0xffff) => inner(g, h),
        (0x64, 0xff9b) => (c, d, e, f) != (0, 0, 0, 0) || inner(g, h),
        (0x2002, _) => inner(b, c),
        // Teredo and documentation.
        (0x2001, 0 | 0xdb8) => true,
        // Public addresses begin with 001; everything else is local, multicast or nobody's.
        _ => a & 0xe000 != 0x2000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_h023_no_internal_address_passes_in_any_notation() {
        for internal in [
            "127.0.0.1",
            "127.9.9.9",
            "0.0.0.0",
            "10.0.0.1",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.100.100.200",
            "168.63.129.16",
            "192.0.0.192",
            "198.18.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::127.0.0.1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::1",
            "2002:7f00:1::",
            "2001:0:1::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(is_internal(internal.parse().unwrap()), "{internal}");
        }
        for public in [
            "140.82.121.3",
            "100.63.0.1",
            "172.32.0.1",
            "::ffff:140.82.121.3",
            "64:ff9b::8c52:7903",
            "2606:50c0:8000::153",
        ] {
            assert!(!is_internal(public.parse().unwrap()), "{public}");
        }
    }
}
