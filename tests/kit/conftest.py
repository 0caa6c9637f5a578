from tests.client.conftest import client, directory

__all__ = ["client", "directory"]
