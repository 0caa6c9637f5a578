"""Who is let in, and how much of all there is they see."""
