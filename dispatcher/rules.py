"""The settings that decisions depend on."""

from attrs import frozen


@frozen(kw_only=True)
class Rules:
    default_timeout_seconds: float = 3600
    default_max_retries: int = 3
    prompt_match_threshold: float = 0.8
    require_lease_token: bool = False
    restart_grace_seconds: float = 30
    max_concurrent_tasks: int = 0  # 0: no limit
    priority_aging_seconds: float = 0  # 0: never
