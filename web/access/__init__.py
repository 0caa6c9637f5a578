"""Who is let in, from where, and how often."""
