"""The proxy can do to a connection what a network can."""

import socket
import threading
from collections.abc import Iterator
from contextlib import closing

import pytest

from .proxy import Network, Proxy, network

PATIENCE_SECONDS = 10
SILENCE_SECONDS = 0.1


class Echo:
    """A server that says its name, and then what it hears; `heard` is set when a connection has ended in good order."""

    def __init__(self, name: bytes) -> None:
        self.name, self.heard, self.ended = name, b"", threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _serve(self) -> None:
        try:
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._answer, args=(connection,), daemon=True).start()
        except OSError:
            return

    def _answer(self, connection: socket.socket) -> None:
        with connection:
            try:
                connection.sendall(self.name)
                while data := connection.recv(100):
                    self.heard += data
                    connection.sendall(data)
            except OSError:
                return
            finally:
                self.ended.set()


@pytest.fixture
def echo() -> Iterator[Echo]:
    with closing(Echo(b"one ")) as made:
        yield made


@pytest.fixture
def wires() -> Iterator[Network]:
    with network() as made:
        yield made


@pytest.fixture
def proxy(wires: Network, echo: Echo) -> Proxy:
    return wires.proxy(echo.port)


def connect(proxy: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), PATIENCE_SECONDS)


def said(connection: socket.socket, length: int) -> bytes:
    return connection.recv(length, socket.MSG_WAITALL)


def check_silent(connection: socket.socket) -> None:
    connection.settimeout(SILENCE_SECONDS)
    with pytest.raises(TimeoutError):
        connection.recv(1)
    connection.settimeout(PATIENCE_SECONDS)


def test_what_is_said_is_passed_on_both_ways(proxy: Proxy, echo: Echo) -> None:
    with connect(proxy) as connection:
        assert said(connection, 4) == b"one "
        connection.sendall(b"hello")
        assert said(connection, 5) == b"hello"
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(1) == b""
    assert echo.ended.wait(PATIENCE_SECONDS)


def test_where_it_is_cut_nothing_gets_through_and_nobody_is_told(wires: Network, proxy: Proxy, echo: Echo) -> None:
    """Old connections and new ones; when it has healed, everything comes."""
    with connect(proxy) as old:
        assert said(old, 4) == b"one "
        wires.do(proxy.cut())
        with connect(proxy) as new:
            old.sendall(b"hello")
            check_silent(old)
            check_silent(new)
            assert echo.heard == b""
            wires.do(proxy.heal())
            assert (said(old, 5), said(new, 4)) == (b"hello", b"one ")


def test_what_was_under_way_arrives_though_its_sender_has_gone(wires: Network, proxy: Proxy, echo: Echo) -> None:
    with connect(proxy) as connection:
        assert said(connection, 4) == b"one "
        wires.do(proxy.cut())
        connection.sendall(b"last words")
    assert not echo.ended.wait(SILENCE_SECONDS)
    wires.do(proxy.heal())
    assert echo.ended.wait(PATIENCE_SECONDS)
    assert echo.heard == b"last words"


def test_reset_connections_break_at_once(wires: Network, proxy: Proxy, echo: Echo) -> None:
    with connect(proxy) as connection:
        assert said(connection, 4) == b"one "
        wires.do(proxy.reset())
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
    assert echo.ended.wait(PATIENCE_SECONDS)


def test_it_refuses_and_listens_again_on_the_same_port(wires: Network, proxy: Proxy) -> None:
    with connect(proxy) as old:
        assert said(old, 4) == b"one "
        wires.do(proxy.refuse())
        with pytest.raises(ConnectionRefusedError):
            connect(proxy)
        old.sendall(b"still")
        assert said(old, 5) == b"still"
    wires.do(proxy.listen())
    with connect(proxy) as new:
        assert said(new, 4) == b"one "


def test_it_leads_new_connections_elsewhere(wires: Network, proxy: Proxy) -> None:
    with closing(Echo(b"two ")) as other, connect(proxy) as old:
        assert said(old, 4) == b"one "
        wires.do(proxy.lead_to(other.port))
        with connect(proxy) as new:
            assert said(new, 4) == b"two "
        old.sendall(b"still")
        assert said(old, 5) == b"still"


def test_where_nobody_listens_behind_it_the_connection_ends(wires: Network) -> None:
    with closing(Echo(b"")) as gone:
        proxy = wires.proxy(gone.port)
    with pytest.raises(ConnectionResetError), connect(proxy) as connection:
        connection.recv(1)
