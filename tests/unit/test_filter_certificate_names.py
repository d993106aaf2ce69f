"""The certificate_names filter."""

import pytest
from ansible_collections.frameworks.database.plugins.filter.certificate_names import FilterModule

certificate_names = FilterModule().filters()["certificate_names"]


@pytest.mark.parametrize("names, expected", [
    (["DB1.example", "DNS:db1.example"], ["DNS:db1.example"]),
    (["2001:DB8:0:0:0:0:0:1", "IP:2001:db8::1", "2001:db8:0::1"], ["IP:2001:db8::1"]),
    (["192.0.2.1", "db", "::1"], ["DNS:db", "IP:192.0.2.1", "IP:::1"]),
    (["fe80::1%eth0"], ["IP:fe80::1"]),
    (["München.example", "*.example"], ["DNS:*.example", "DNS:xn--mnchen-3ya.example"]),
    (["ü..example"], ["DNS:ü..example"]),  # none at all: whoever makes the certificate says so
    # No addresses, though they look like some.
    (["1.2.3", "10.0.0.300"], ["DNS:1.2.3", "DNS:10.0.0.300"]),
    (None, []),
])
def test_a_name_has_one_form(names, expected):
    assert certificate_names(names) == expected == certificate_names(expected)
