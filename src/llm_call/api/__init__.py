"""The gateway's HTTP service: OpenAI's wire in, configured upstreams out."""
