"""The gate: a process between the CLIs and the way to the provider, which lets each run have what its request may use.

`link` is the proxy's side of it. All else runs in the gate's own process and event loop, so that no flood of a tool's
requests takes time from the proxy.
"""
