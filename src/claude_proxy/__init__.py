"""The Claude CLI as an OpenAI-compatible HTTP service: one real CLI process per request, in a folder of its own."""
