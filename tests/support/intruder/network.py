"""Attempts to reach something by a network. Done means that something answered."""

import errno
import os
import select
import socket
import struct

PATIENCE = 1.5
"""Seconds for an answer; everything that could give one is on this machine."""
AT_A_TIME = 400
MARK = b"the stand-in heard"
"""How stand_in.py begins what it says."""


def tcp(host, port, say):
    with socket.create_connection((host, int(port)), PATIENCE) as link:
        link.sendall(f"{say}\r\n".encode())
        return heard(link.recv(4096))


def udp(host, port, say):
    kind = socket.getaddrinfo(host, int(port), type=socket.SOCK_DGRAM)[0]
    with socket.socket(kind[0], socket.SOCK_DGRAM) as link:
        link.settimeout(PATIENCE)
        link.sendto(say.encode(), kind[4])
        return heard(link.recv(4096))


def icmp(host):
    """Echo request by a datagram socket, which needs no privilege (ICMP type 8, RFC 792)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP) as link:
        link.settimeout(PATIENCE)
        link.sendto(struct.pack("!BBHHH", 8, 0, 0, 0, 1), (host, 0))
        return heard(link.recv(4096))


def listen(port):
    """Take connections at a port that another request's tool may connect to."""
    with socket.create_server(("0.0.0.0", int(port))) as server:
        return f"listening at {server.getsockname()[1]}"


def resolve(name):
    return socket.getaddrinfo(name, 80)[0][4]


def ask_dns(server, name):
    """Ask a resolver oneself, for an address of type A (RFC 1035)."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    question = struct.pack("!6H", os.getpid() & 0xFFFF, 0x100, 1, 0, 0, 0) + labels + b"\0\0\1\0\1"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
        link.settimeout(PATIENCE)
        link.sendto(question, (server, 53))
        answer = link.recv(4096)
    code, answers = answer[3] & 15, struct.unpack("!H", answer[6:8])[0]
    if code or not answers:
        raise OSError(f"the resolver answers with code {code} and {answers} records")
    return socket.inet_ntoa(answer[-4:])


def request(host, port, *lines):
    """Send the head of an HTTP request; only a stand-in's own answer counts, not what stands in between."""
    with socket.create_connection((host, int(port)), PATIENCE) as link:
        link.sendall("".join(f"{line}\r\n" for line in (*lines, "")).encode())
        answer = heard(link.recv(4096))
        if lines[0].startswith("CONNECT ") and " 200 " in answer:
            link.sendall(f"{lines[0]}\r\n".encode())
            answer = heard(link.recv(4096))
    if MARK.decode() not in answer:
        raise OSError(f"answered by somebody else: {answer[:200]}")
    return answer


def open_ports(host, first, last):
    """Connect to every port of a range, some hundred at a time; fails if none is open."""
    address, ports = socket.gethostbyname(host), range(int(first), int(last) + 1)
    found = [port for start in ports[::AT_A_TIME] for port in answering(address, range(start, start + AT_A_TIME))]
    if not found:
        raise OSError("no port is open")
    return [port for port in found if port in ports]


def answering(address, ports):
    """The ports of a few that accept a connection before it takes too long."""
    links, found, poller = {}, [], select.poll()
    for port in ports:
        link = socket.socket()
        link.setblocking(False)
        if port < 65536 and link.connect_ex((address, port)) in (0, errno.EINPROGRESS):
            links[link.fileno()] = (link, port)
            poller.register(link, select.POLLOUT)
        else:
            link.close()
    while links and (ready := poller.poll(1000 * PATIENCE)):
        for number, _ in ready:
            link, port = links.pop(number)
            poller.unregister(number)
            found += [port] * (link.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0)
            link.close()
    for link, _ in links.values():
        link.close()
    return found


def heard(answer):
    if not answer:
        raise ConnectionResetError("closed without an answer")
    return answer.decode(errors="replace")


def socket_of_the_proxy(path):
    """Say to be a runner; done if that was believed."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.settimeout(10)
        connection.connect(path)
        connection.send(b'ready {"work": "/run/work", "memory": 1073741824, "disk": 1073741824}')
        try:
            connection.settimeout(2)
            said = connection.recv(4096)
        except TimeoutError:
            return "it waits for work"
        if not said:
            raise ConnectionResetError("the connection was closed")
        return said
