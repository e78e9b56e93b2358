"""Command lines that turn Debian packages into folders and tar files, compared as a whole."""

from pathlib import Path

from shipyard.commands import debian

SLIM = [
    "--dpkgopt=path-exclude=/usr/share/doc/*",
    "--dpkgopt=path-include=/usr/share/doc/*/copyright",
    "--dpkgopt=path-exclude=/usr/share/groff/*",
    "--dpkgopt=path-exclude=/usr/share/info/*",
    "--dpkgopt=path-exclude=/usr/share/linda/*",
    "--dpkgopt=path-exclude=/usr/share/lintian/*",
    "--dpkgopt=path-exclude=/usr/share/locale/*",
    "--dpkgopt=path-exclude=/usr/share/man/*",
]


def test_unpack() -> None:
    argv = ["/usr/bin/mmdebstrap", "--quiet", "--mode=root", "--variant=extract", "--skip=check/canwork"]
    options = ['--aptopt=Acquire::Check-Valid-Until "false"', '--aptopt=APT::Install-Recommends "false"']
    found = debian.unpack("/usr/bin/mmdebstrap", "forky", ("docker.io", "tini"), Path("/x/root"), keyring=None)
    assert found == [*argv, "--include=docker.io,tini", *options, "forky", "/x/root"]
    found = debian.unpack("/usr/bin/mmdebstrap", "forky", ["tini"], Path("/x/root"), keyring=Path("/k.gpg"))
    assert found == [*argv, "--include=tini", *options, "--keyring=/k.gpg", "forky", "/x/root"]


def test_bootstrap() -> None:
    argv = ["mmdebstrap", "--quiet", "--mode=root", "--variant=apt", "--include=ca-certificates", *SLIM]
    found = debian.bootstrap("mmdebstrap", "trixie", Path("/x/base.tar"), keyring=None)
    assert found == [*argv, "trixie", "/x/base.tar"]
    found = debian.bootstrap("mmdebstrap", "trixie", Path("/x/base.tar"), keyring=Path("/k.gpg"))
    assert found == [*argv, "--keyring=/k.gpg", "trixie", "/x/base.tar"]


def test_the_environment_of_a_reproducible_bootstrap() -> None:
    assert debian.epoch({"PATH": "/bin", "LC_ALL": "de_DE", "TZ": "CET"}) == {
        "PATH": "/bin",
        "SOURCE_DATE_EPOCH": "1767225600",
        "LC_ALL": "C.UTF-8",
        "TZ": "UTC",
    }


def test_apt_keeps_to_its_own_folder() -> None:
    assert debian.private_apt(Path("/x")) == [
        "-oDir::State::Lists=/x/lists",
        "-oDir::Cache=/x/cache",
        "-oAPT::Sandbox::User=root",
        "-oAcquire::Languages=none",
    ]


def test_the_wrapper_brings_its_own_c_library() -> None:
    assert debian.loader_wrapper(
        Path("/x/root"), "x86_64-linux-gnu", "usr/lib64/ld-linux-x86-64.so.2", "usr/sbin/xtables-nft-multi", "iptables"
    ) == (
        "#!/bin/sh\n"
        'export XTABLES_LIBDIR="/x/root/usr/lib/x86_64-linux-gnu/xtables"\n'
        'exec "/x/root/usr/lib64/ld-linux-x86-64.so.2" --library-path "/x/root/usr/lib/x86_64-linux-gnu"'
        ' --argv0 iptables "/x/root/usr/sbin/xtables-nft-multi" "$@"\n'
    )
