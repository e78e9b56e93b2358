"""What both services share: settings, keys, errors, logs, health, the server and its hot reload."""
