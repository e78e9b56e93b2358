"""What the policy of production says, as tables: keys of Compose's configuration, services and networks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

#: The only service whose port a production stack publishes, the entrance of the API, and the port inside it.
PUBLISHED, ENTRANCE = "balancer", 8001
#: What a person looks at in a browser may be published besides, on this machine's own addresses.
LOCAL, LOOPBACK = "prometheus", ("127.0.0.1", "::1")
#: Where the CLIs of claude-proxy run, one in each.
RUNNERS = tuple(f"claude-runner-{number}" for number in range(1, 10))
#: The services that --gpu gives a device, by the end that their image's name must have for it.
ACCELERATED: Mapping[str, str] = {"ollama": "", "llm-call-api": "-cuda", **dict.fromkeys(RUNNERS, "-cuda")}
#: What it is: an NVIDIA GPU, and nothing else that a device driver of the engine has to give; CDI gives anything. The two drivers
#: that have one, and what they call it: by an index, a UUID, "all" or whatever name a CDI specification has for it.
CAPABILITY, CDI_KIND, GPU_NAME = "gpu", "nvidia.com/gpu", r"[A-Za-z0-9](?:[A-Za-z0-9_.:-]*[A-Za-z0-9])?"
DEVICES = {"nvidia": re.compile(GPU_NAME), "cdi": re.compile(f"{re.escape(CDI_KIND)}={GPU_NAME}")}
#: Networks that have neither a way out nor one to the host.
CLOSED = ("agent", "data", "runners")
#: The network of other projects: the only one that is not made by this stack.
SHARED = "granger-network"
#: The engine's own networks: being on one of them is being on the host, or beside whatever else runs there.
ENGINES = ("host", "bridge", "none")
#: Every service of production, and the networks it may be on.
NETWORKS: Mapping[str, tuple[str, ...]] = {
    "balancer": ("llm-call-network",),
    "granger": ("llm-call-network", SHARED),
    "llm-call-api": ("llm-call-network", "data", "agent", "outbound"),
    "claude-proxy": ("agent", "runners"),
    **dict.fromkeys(RUNNERS, ("runners",)),
    "egress": ("agent", "outbound"),
    "redis": ("data",),
    "redis-exporter": ("data",),
    "prometheus": ("data", "llm-call-network"),
    "ollama": ("outbound",),
}
#: Variables that switch a protection, and what production needs them to be.
SWITCHES: Mapping[str, Mapping[str, str]] = {
    "claude-proxy": {"CLAUDE_PROXY_SANDBOX": "required", "CLAUDE_PROXY_RUNNERS": "/run/runners"}
}

#: Keys that have to be there with exactly this value.
EXACT: Mapping[str, tuple[Any, str]] = {
    "read_only": (True, "the root file system is writable"),
    "init": (True, "nothing reaps orphans"),
    "cap_drop": (["ALL"], "capabilities are not dropped"),
    "security_opt": (["no-new-privileges:true"], "not exactly what keeps a setuid program from gaining privileges"),
    "ipc": ("private", "shared memory may be shared with others"),
}
#: Keys that have to be numbers above zero; -1 and 0 stand for "no limit".
LIMITS: Mapping[str, str] = {
    "mem_limit": "memory has no limit",
    "memswap_limit": "swap has no limit",
    "cpus": "processors have no limit",
    "pids_limit": "processes have no limit",
}
#: Keys that must not be there at all, by what is wrong with them.
FORBIDDEN: Mapping[str, str] = {
    **dict.fromkeys(("network_mode", "pid", "userns_mode", "uts", "cgroup"), "shares or chooses a namespace"),
    **dict.fromkeys(("devices", "device_cgroup_rules", "gpus"), "reaches devices of the host"),
    **dict.fromkeys(("post_start", "pre_stop"), "runs a command beside the service's own"),
    **dict.fromkeys(("env_file", "label_file", "credential_spec"), "takes values from a file that is not checked"),
    "privileged": "the container is the host",
    "cap_add": "has more capabilities than none",
    "user": "runs as another user than the image's",
    "volumes_from": "has the volumes of another container",
    "sysctls": "changes the kernel's settings",
    "extra_hosts": "gives names other addresses",
    "cgroup_parent": "leaves the cgroup that the engine gives it",
    "runtime": "runs in another runtime than the engine's",
    "use_api_socket": "the engine's socket is the host's root",
}
#: How the logs of a container stay bounded.
LOGGING: Mapping[str, re.Pattern[str]] = {
    "max-size": re.compile(r"0*[1-9]\d*[kmg]?", re.IGNORECASE),
    "max-file": re.compile(r"0*[1-9]\d*"),
}
#: What looks like a key of a provider or of this API, in the middle of a URL or a command, too. "sk-" is the end of words
#: such as "task-", hence not after a letter, unless that is the end of a %3D.
KEY = re.compile(r"(?:(?:(?<![A-Za-z0-9])|(?<=%[0-9A-Fa-f]{2}))sk-(?:ant-)?|AIza|pplx-|llmc-)[A-Za-z0-9_-]{16,}")
