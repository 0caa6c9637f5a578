"""Which server a command talks to: the options that every command has."""

from typing import TYPE_CHECKING, Annotated

from attrs import frozen
from cyclopts import Parameter

from task_orchestrator.display import refuse_usage

if TYPE_CHECKING:
    from task_orchestrator.client import Client

Flag = Annotated[bool, Parameter(negative=(), show_default=False)]


@Parameter(name="*")
@frozen
class Connection:
    """Options beat the environment.

    Parameters
    ----------
    url
        The server's address; http://127.0.0.1:8080 if nothing is said.
    api_key
        The key, where the server asks for one. Better in the environment: other users see options.
    ca_file
        Certificates in PEM, one of which must have signed that of an https server; without it those that the system
        trusts.
    """

    url: Annotated[str | None, Parameter(env_var="TASK_ORCHESTRATOR_URL")] = None
    api_key: Annotated[str | None, Parameter(env_var="TASK_ORCHESTRATOR_API_KEY")] = None
    ca_file: Annotated[str | None, Parameter(env_var="TASK_ORCHESTRATOR_CA_FILE")] = None

    def open(self, connections_max: int | None = None) -> "Client":
        """The client; ends the process with a usage error if the address or the key cannot be one."""
        from task_orchestrator.client import Client
        from task_orchestrator.session import CONNECTIONS_MAX, DEFAULT_URL

        try:
            connections_max = connections_max or CONNECTIONS_MAX
            url = self.url or DEFAULT_URL
            return Client(url, self.api_key, ca_file=self.ca_file, connections_max=connections_max)
        except ValueError as error:
            refuse_usage(str(error))
