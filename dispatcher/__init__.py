"""The domain: tasks, the board that decides about them, and the actor that owns it."""
