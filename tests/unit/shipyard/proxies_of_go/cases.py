"""Environments and URLs for the table of what Go's own rules say of proxies.

table.json was made by net/http of Go 1.26.8, with main.go: `python cases.py | go run main.go | python cases.py table >table.json`.
Of each environment it has the proxy, and a letter for each URL: `p` for that proxy, `-` for none, `!` where Go refuses. (The
module golang.org/x/net prefers variables in lower case from v0.62 on; net/http and with it cosign and docker do not.)
"""

from __future__ import annotations

import json
import sys

PROXY = "http://proxy.invalid:3128"

#: Values of NO_PROXY.
EXCEPTIONS = (
    *("", "*", "*,a.example", "a.example,*", "**", "*.", "*:443", ".", "..", ",", " , ,", "a.example", "A.EXAMPLE"),
    *(
        "example",
        ".example",
        "*.example",
        "a.*",
        "a*.example",
        "*a.example",
        "*.a.example",
        ".a.example",
        "..a.example",
    ),
    *("a.example.", ".a.example.", "a.example:443", "a.example:80", "a.example:8443", "a.example:https", "a.example:"),
    *(":443", "a.example:443:443", "*.example:443", ".example:443", "*.example:80", "[a.example]", "[a.example]:443"),
    *("  a.example  ", "b.example , a.example", "b.example a.example", "b.example;a.example", "\ta.example\t"),
    *("https://a.example", "a.example/", "a.example/v2", "user@a.example", "xn--bcher-kva.example", "bücher.example"),
    *(
        "BÜCHER.example",
        "*.bücher.example",
        ".bücher.example",
        "bücher.example:443",
        "10.1.2.3",
        "10.1.2.3:443",
        "10.1.2.3:80",
    ),
    *(
        "10.1.2.3:8443",
        "10.0.0.0/8",
        "10.1.2.3/8",
        "10.1.2.3/32",
        "10.1.2.3/0",
        "0.0.0.0/0",
        "10.0.0.0/8:443",
        "10.0.0.0/33",
    ),
    *(
        "10.0.0.0/255.0.0.0",
        "10.0.0.0/",
        "10.0.0.0/08",
        "010.1.2.3",
        "10.1.2",
        "10.1",
        "10.*",
        "10.1.2.*",
        ".2.3",
        "10.1.2.3.",
        "3",
    ),
    *("2001:db8::5", "[2001:db8::5]", "[2001:db8::5]:443", "[2001:db8::5]:80", "[2001:db8::5]:8443", "2001:db8::/32"),
    *(
        "[2001:db8::/32]",
        "[2001:db8::]/32",
        "2001:DB8::5",
        "2001:db8:0:0:0:0:0:5",
        "2001:db8::5/128",
        "::/0",
        "2001:db8::5:443",
    ),
    *(
        "::ffff:10.1.2.3",
        "::ffff:10.0.0.0/104",
        "::ffff:a01:203",
        "[::ffff:10.1.2.3]:443",
        "fe80::1%eth0",
        "[fe80::1%eth0]",
    ),
    *(
        "fe80::/10",
        "localhost",
        "127.0.0.1",
        "::1",
        "127.0.0.0/8",
        "x",
        "a.example,10.0.0.0/8,2001:db8::/32",
        "2001:db8::/129",
    ),
    *(
        "10.1.2.3-10.1.2.9",
        "a_b.example",
        "[",
        "]",
        "[]",
        "[]:443",
        ":",
        "::",
        "[::]:443",
        "0.0.0.0",
        "faß.example",
        "a.example,,",
    ),
)
#: Other environments: what names a proxy.
OTHERS: tuple[dict[str, str], ...] = (
    {},
    {"HTTPS_PROXY": "http://upper.invalid:1", "https_proxy": "http://lower.invalid:2"},
    {"https_proxy": "http://lower.invalid:2"},
    {"HTTPS_PROXY": "", "https_proxy": "http://lower.invalid:2"},
    {"HTTP_PROXY": "http://upper.invalid:1", "http_proxy": "http://lower.invalid:2"},
    {"http_proxy": "http://lower.invalid:2"},
    {"Https_Proxy": "http://mixed.invalid:3"},
    {"ALL_PROXY": "http://all.invalid:4", "all_proxy": "http://all.invalid:4"},
    {"ALL_PROXY": "http://all.invalid:4", "HTTP_PROXY": "http://upper.invalid:1"},
    {"HTTP_PROXY": "http://upper.invalid:1", "REQUEST_METHOD": "GET"},
    {"http_proxy": "http://lower.invalid:2", "REQUEST_METHOD": "GET"},
    {"HTTPS_PROXY": "http://upper.invalid:1", "REQUEST_METHOD": "GET"},
    {"HTTPS_PROXY": "http://upper.invalid:1", "HTTP_PROXY": "http://upper.invalid:1", "REQUEST_METHOD": ""},
    {"HTTPS_PROXY": PROXY, "NO_PROXY": "a.example", "no_proxy": "b.example"},
    {"HTTPS_PROXY": PROXY, "NO_PROXY": "", "no_proxy": "b.example"},
    {"HTTPS_PROXY": PROXY, "no_proxy": "a.example"},
    {"https_proxy": PROXY, "NO_PROXY": "a.example"},
    *(
        {"HTTPS_PROXY": value, "HTTP_PROXY": value}
        for value in (
            *(
                "proxy.invalid",
                "proxy.invalid:3128",
                "10.9.9.9:3128",
                "10.9.9.9",
                "[2001:db8::9]:3128",
                "localhost:3128",
            ),
            *(
                "somebody:pass@proxy.invalid:3128",
                "http://somebody:p%40ss@proxy.invalid:3128",
                "http://somebody:p@ss@proxy.invalid:3128",
                "somebody:p@ss@proxy.invalid",
                "http://some%zzbody:x@proxy.invalid",
                "http://some body:x@proxy.invalid",
                "http://proxy.invalid",
            ),
            *(
                "https://proxy.invalid:3129",
                "socks5://proxy.invalid:1080",
                "socks5h://proxy.invalid",
                "ftp://proxy.invalid",
            ),
            *(
                "http://proxy.invalid:3128/",
                "http://proxy.invalid:3128/path",
                "//proxy.invalid:3128",
                "http:proxy.invalid",
            ),
            *("http://", "http:///path", ":3128", "http://:3128", "PROXY.invalid:3128", "HTTP://proxy.invalid:3128"),
            *(
                "http://proxy.invalid:port",
                "proxy.invalid:port",
                "http://[2001:db8::9",
                "%zz",
                " proxy.invalid:3128",
                "/path",
            ),
        )
    ),
)
ENVIRONMENTS = (*({"HTTPS_PROXY": PROXY, "HTTP_PROXY": PROXY, "NO_PROXY": each} for each in EXCEPTIONS), *OTHERS)
PLACES = (
    *(
        "a.example",
        "A.example",
        "a.example:443",
        "a.example:80",
        "a.example:8443",
        "b.a.example",
        "c.b.a.example:8443",
    ),
    *("xa.example", "a.example.", "b.example", "example", "example.com", "bücher.example", "xn--bcher-kva.example"),
    *(
        "x.bücher.example",
        "BÜCHER.example",
        "faß.example",
        "a_b.example",
        "10.1.2.3",
        "10.1.2.3:443",
        "10.1.2.3:8443",
    ),
    *(
        "10.1.2.3.",
        "11.1.2.3",
        "10.1",
        "x",
        "[2001:db8::5]",
        "[2001:db8::5]:443",
        "[2001:db8::5]:8443",
        "[2001:DB8:0::5]",
    ),
    *("[2001:db9::5]", "[::ffff:10.1.2.3]", "[::ffff:a01:203]:443", "[fe80::1%25eth0]", "[fe80::1%25a.example]"),
    *(
        "localhost",
        "localhost:5000",
        "LOCALHOST",
        "localhost.",
        "x.localhost",
        "127.0.0.1",
        "127.0.0.1:5000",
        "127.9.9.9",
    ),
    *(
        "127.1",
        "[::1]",
        "[::1]:5000",
        "[0:0:0:0:0:0:0:1]",
        "[::ffff:127.0.0.1]",
        "0.0.0.0",
        "[::]",
        "somebody@a.example:443",
    ),
    *("somebody:pass@a.example", "a.example:"),
)
PLAIN = (
    "http://a.example/",
    "http://a.example:443/",
    "http://a.example:8080/",
    "http://10.1.2.3/",
    "http://localhost/",
    "http://127.0.0.1/",
)
URLS = (*(f"https://{place}/v2/" for place in PLACES), *PLAIN)


def table(answers: list[list[str]]) -> list[list[str]]:
    """Shorter: the proxy of each environment, and a letter for each URL."""
    found = []
    for row in answers:
        proxies = {each for each in row if each not in ("", "!")}
        assert len(proxies) <= 1
        found.append([*(proxies or {""}), "".join({"": "-", "!": "!"}.get(each, "p") for each in row)])
    return found


if __name__ == "__main__":
    if sys.argv[1:]:
        rows = ",\n ".join(json.dumps(each, ensure_ascii=False) for each in table(json.load(sys.stdin)))
        print(f"[{rows}]")
    else:
        print(json.dumps({"environments": ENVIRONMENTS, "urls": URLS}))
