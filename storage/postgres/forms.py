"""How the tables of a record lie in PostgreSQL, against how they are moved."""

from attrs import field, frozen

from storage.contents import TABLES, Key

PART_ROWS = 500


@frozen
class Form:
    """`key`: what its rows are ordered by; it has an index, and where it can be it is the order in which SQLite keeps
    them, which otherwise had to put each of them between others. `columns`: those that bear another name. `part_rows`:
    so many are fetched at a time, as each of them may be long."""

    source: str
    key: tuple[str, ...]
    columns: dict[str, str] = field(factory=dict)
    part_rows: int = PART_ROWS

    def select(self, table: str, after: Key | None) -> str:
        key, marks = ", ".join(self.key), ", ".join(f"${number}" for number in range(1, len(self.key) + 1))
        columns = ", ".join(self.columns.get(name, name) for name in TABLES[table])
        behind = f"where ({key}) > ({marks})" if after else ""
        return f"select {key}, {columns} from {self.source} {behind} order by {key}"


LOGS = "task_logs as log left join tasks using (work_directory, arrival)"
FORMS = {
    "config_versions": Form("config_versions", ("version",)),
    "keys": Form("keys", ("digest",)),
    "audit": Form("audit", ("number",)),
    "work_directories": Form("work_directories", ("work_directory",)),
    "tasks": Form("tasks", ("arrival",), part_rows=50),
    "idempotency_keys": Form("idempotency_keys", ("key",)),
    "ready_tags": Form("ready_tags", ("work_directory", "tag", "priority", "arrival")),
    "task_tags": Form("task_tags", ("tag", "arrival")),
    "dependencies": Form("dependencies", ("parent_id", "arrival", "work_directory")),
    "history": Form("history", ("seq", "work_directory")),
    "task_logs": Form(
        LOGS,
        ("log.work_directory", "log.arrival", "log.number"),
        {"work_directory": "case when task_id is null then '' else log.work_directory end", "attempt": "log.attempt"},
    ),
    "logs_left": Form("logs_left", ("work_directory", "arrival"), {"work_directory": "''"}),
    "rollups": Form("rollups", ("work_directory", "span", "at"), part_rows=50),
    "additions": Form("additions", ("number",), part_rows=50),
    "webhook": Form("webhook", ("seq",)),
    "last_numbers": Form(
        "last_numbers", ("only_row",), {"arrival": "(select last_value - (not is_called)::int from arrivals)"}
    ),
}
