"""HTTP, server-sent events and settings: everything that faces the network."""
