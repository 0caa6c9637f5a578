"""The schema of a record, as the SQL that leads to it version by version."""

from importlib.resources.abc import Traversable


def steps(package: Traversable) -> list[str]:
    """The SQL of every version in order: schema.sql is version 1, migrations/NNNN_*.sql is version NNNN."""
    later = package / "migrations"
    numbered = sorted((file for file in later.iterdir() if file.name.endswith(".sql")), key=lambda file: file.name)
    for version, file in enumerate(numbered, start=2):
        assert int(file.name.split("_")[0]) == version, f"{file.name} should be number {version:04}"
    return [(package / "schema.sql").read_text()] + [file.read_text() for file in numbered]
