"""Models of our own: GGUF files, each served by a llama-server that the gateway starts, watches over and ends."""
