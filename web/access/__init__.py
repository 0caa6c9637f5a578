"""Who is let in, how often, and how much of all there is they see."""
