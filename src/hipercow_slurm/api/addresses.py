"""What counts as one address: of connections, and of failed logins."""

from __future__ import annotations

import ipaddress


def network_of(address: str) -> str:
    """What counts as one address: an IPv4 address, or an IPv6 /64 (one customer has 2**64 of those)."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return str(parsed)
