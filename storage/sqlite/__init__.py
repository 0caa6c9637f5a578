"""The record in a file of SQLite, which one server owns."""
