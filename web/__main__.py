"""`python -m web` is `task-orchestrator serve`."""

from web.serve import app

app()
