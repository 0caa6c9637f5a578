"""The record in a PostgreSQL, which any number of servers share."""
