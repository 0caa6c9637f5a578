"""The durable record: implements the dispatcher's ports on SQLite, and on PostgreSQL."""
