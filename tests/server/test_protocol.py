"""What a connection does with bytes that are no tidy request."""

import json
import socket
from collections.abc import Iterator

import pytest
from harness import tensor

LIVE = b"GET /v2/health/live HTTP/1.1\r\nhost: here\r\n\r\n"


@pytest.fixture
def connection(server) -> Iterator[socket.socket]:
    with socket.create_connection((server.host, server.port), timeout=60) as connection:
        yield connection


def read(connection: socket.socket, responses: int = 1) -> list[tuple[int, bytes]]:
    """Status and body of the next responses."""
    stream = connection.makefile("rb")
    found = []
    for _ in range(responses):
        status = int(stream.readline().split()[1])
        length = 0
        while (line := stream.readline().strip()) != b"":
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        found.append((status, stream.read(length)))
    stream.close()
    return found


def infer(value: float) -> bytes:
    body = tensor(value)
    return b"POST /v2/models/gate/infer HTTP/1.1\r\ncontent-length: %d\r\n\r\n%b" % (
        len(body),
        body,
    )


def result(body: bytes) -> float:
    return json.loads(body)["outputs"][0]["data"][0]


def error(body: bytes) -> str:
    return json.loads(body)["error"]


def is_closed(connection: socket.socket) -> bool:
    return connection.recv(1) == b""


@pytest.mark.parametrize(
    "head",
    [
        b"GET /" + b"a" * 5000 + b" HTTP/1.1\r\n\r\n",
        b"GET /v2 HTTP/1.1\r\nname: " + b"a" * 5000 + b"\r\n\r\n",
        b"GET /v2 HTTP/1.1\r\n" + b"name: value\r\n" * 500 + b"\r\n",
    ],
)
def test_a_head_over_the_limit_is_refused(connection, head):
    connection.sendall(head)
    ((status, body),) = read(connection)
    assert status == 431
    assert "4096 bytes" in error(body)
    assert is_closed(connection)


def test_a_head_without_end_is_refused_before_it_fills_the_memory(connection):
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.sendall(b"GET /v2 HTTP/1.1\r\nname: ")
    connection.settimeout(0.001)
    while True:  # until the answer comes
        try:
            connection.sendall(b"a" * 1000)
            answer = connection.recv(4096)
            break
        except TimeoutError:
            continue
    assert answer.startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize(
    "junk", [b"\x16\x03\x01\x02\0\1\0\1\xfc\x03\x03", b"GET\r\n\r\n", b"GET /\xff HTTP/1.1\r\n\r\n"]
)
def test_what_is_not_http_gets_an_error_in_json(connection, junk):
    connection.sendall(junk)
    ((status, body),) = read(connection)
    assert status == 400
    assert error(body)
    assert is_closed(connection)


def test_requests_may_follow_each_other_without_waiting(connection):
    connection.sendall(infer(1) + LIVE + infer(3) + infer(4))
    answers = read(connection, responses=4)
    assert [status for status, _ in answers] == [200] * 4
    assert [result(answers[i][1]) for i in (0, 2, 3)] == [2, 6, 8]


def test_a_request_may_come_in_single_bytes(connection):
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for byte in infer(5):
        connection.sendall(bytes([byte]))
    ((status, body),) = read(connection)
    assert status == 200
    assert result(body) == 10


def test_a_client_may_ask_whether_to_go_on(connection):
    head, _, body = infer(6).partition(b"\r\n\r\n")
    connection.sendall(head + b"\r\nexpect: 100-continue\r\n\r\n")
    assert connection.recv(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
    connection.sendall(body)
    assert result(read(connection)[0][1]) == 12


def test_head_has_no_body_and_keeps_the_connection(connection):
    connection.sendall(LIVE.replace(b"GET", b"HEAD") + LIVE)
    stream = connection.makefile("rb")
    while stream.readline() != b"\r\n":
        pass
    assert stream.readline() == b"HTTP/1.1 200 OK\r\n"
    stream.close()


def test_a_connection_is_closed_where_the_client_asks_for_it(connection):
    connection.sendall(infer(7).replace(b"\r\n", b"\r\nconnection: close\r\n", 1))
    ((status, body),) = read(connection)
    assert (status, result(body)) == (200, 14)
    assert is_closed(connection)


def test_an_inference_is_the_last_where_the_client_asks_for_that(connection):
    last = infer(2.0).replace(b"HTTP/1.1\r\n", b"HTTP/1.1\r\nconnection: close\r\n")
    connection.sendall(infer(1.0) + last)
    stream = connection.makefile("rb")
    answers = stream.read()  # to the end, which the server makes
    assert answers.count(b"HTTP/1.1 200") == 2
    assert answers.count(b"connection: close") == 1
    assert result(answers.partition(b"\r\n\r\n")[2].partition(b"HTTP")[0]) == 2.0
    assert result(answers.rpartition(b"\r\n\r\n")[2]) == 4.0
    stream.close()


def test_a_client_that_half_closes_is_gone(connection, gate, runtime):
    gate.shut()
    connection.sendall(infer(1))
    gate.wait_entered()
    connection.shutdown(socket.SHUT_WR)
    assert is_closed(connection)
    gate.open()
    assert runtime.run_until_idle()


CHUNKED = b"POST /v2/models/gate/infer HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n"


def chunked(value: float, trailers: bytes = b"") -> bytes:
    body = tensor(value)
    return CHUNKED + b"%x\r\n%b\r\n0\r\n%b\r\n" % (len(body), body, trailers)


def test_trailers_are_read_and_are_no_headers(connection):
    connection.sendall(chunked(2, b"content-encoding: br\r\n") + chunked(3))
    assert [result(body) for _, body in read(connection, responses=2)] == [4, 6]


def test_trailers_over_the_limit_are_refused(connection):
    connection.sendall(chunked(1, b"name: value\r\n" * 500))
    ((status, body),) = read(connection)
    assert status == 431
    assert "trailers are longer than the limit of 4096 bytes" in error(body)
    assert is_closed(connection)


def test_nothing_is_read_behind_trailers_that_are_refused(connection):
    connection.sendall(chunked(1, b"name: value\r\n" * 500) + LIVE + infer(2))
    assert [status for status, _ in read(connection)] == [431]
    assert is_closed(connection)


@pytest.mark.parametrize("target", [b"http://x", b"http://a:70000/v2"])
def test_a_target_without_a_path_is_refused_and_what_came_before_it_answered(
    connection, gate, target
):
    gate.shut()
    connection.sendall(infer(1) + infer(2))
    gate.wait_entered()
    connection.sendall(b"GET %b HTTP/1.1\r\n\r\n" % target)
    with socket.create_connection(connection.getpeername(), timeout=60) as other:
        other.sendall(LIVE)  # by the time it is answered, the target has been read
        assert read(other)[0][0] == 200
    gate.open()
    answers = read(connection, responses=3)
    assert [status for status, _ in answers] == [200, 200, 400]
    assert [result(body) for _, body in answers[:2]] == [2, 4]
    assert is_closed(connection)


@pytest.mark.parametrize("piece", [b"a" * 1000, b"a: b\r\n" * 100])
def test_trailers_without_end_are_refused_before_they_fill_the_memory(connection, piece):
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.sendall(chunked(1)[:-2])
    connection.settimeout(0.001)
    answer, sent = b"", 0
    while not answer:
        assert sent < 10**7, "nobody stopped it"
        try:
            connection.sendall(piece)
            sent += len(piece)
            answer = connection.recv(4096)
        except TimeoutError:
            continue
    assert answer.startswith(b"HTTP/1.1 431 ")


def test_a_body_may_come_in_more_chunks_than_a_head_has_bytes(connection):
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.sendall(CHUNKED)
    for _ in range(1500):  # of which each brings some bytes of its own
        connection.sendall(b"1\r\n")
        connection.sendall(b" \r\n")
    connection.sendall(chunked(4).removeprefix(CHUNKED))
    assert result(read(connection)[0][1]) == 8


@pytest.mark.parametrize(
    ("junk", "statuses"),
    [
        (b"junk\r\n\r\n", [200, 400]),
        (infer(2) + b"junk\r\n\r\n", [200, 200, 400]),
        (infer(2) + CHUNKED + b"junk\r\n", [200, 200, 400]),
        (b"GET /" + b"a" * 5000 + b" HTTP/1.1\r\n\r\n", [200, 431]),
        (b"CONNECT here:443 HTTP/1.1\r\n\r\n", [200, 501]),
    ],
)
def test_what_is_refused_does_not_overtake_what_came_before_it(connection, gate, junk, statuses):
    gate.shut()
    connection.sendall(infer(1))
    gate.wait_entered()
    connection.sendall(junk)
    with socket.create_connection(connection.getpeername(), timeout=60) as other:
        other.sendall(LIVE)  # by the time it is answered, the junk has been read
        assert read(other)[0][0] == 200
    gate.open()
    answers = read(connection, responses=len(statuses))
    assert [status for status, _ in answers] == statuses
    assert result(answers[0][1]) == 2
    assert is_closed(connection)


def test_nothing_is_said_behind_an_answer_that_came_before_its_body(connection):
    connection.sendall(CHUNKED.replace(b"POST", b"GET") + b"1\r\n{\r\n")
    assert read(connection)[0][0] == 405
    connection.sendall(b"junk\r\n")
    assert is_closed(connection)


@pytest.mark.parametrize("upgrade", [b"h2c", b"websocket", b"other/1"])
def test_an_upgrade_is_ignored(connection, upgrade):
    asked = b"HTTP/1.1\r\nconnection: upgrade, http2-settings\r\nupgrade: %b\r\n" % upgrade
    upgraded = infer(1).replace(b"HTTP/1.1\r\n", asked)
    connection.sendall(upgraded[:30])
    connection.sendall(upgraded[30:] + infer(2) + upgraded * 2 + LIVE)
    answers = read(connection, responses=5)
    assert [status for status, _ in answers] == [200] * 5
    assert [result(body) for _, body in answers[:4]] == [2, 4, 2, 2]


def test_methods_that_no_route_has(connection):
    bodies = b" * HTTP/1.1\r\ncontent-length: 2\r\n\r\n{}"
    connection.sendall(b"OPTIONS" + bodies + LIVE.replace(b"GET", b"DELETE") + infer(1))
    answers = read(connection, responses=3)
    assert [status for status, _ in answers] == [404, 405, 200]
    assert all(error(body) for _, body in answers[:2])


def test_a_body_on_get_is_left_out(connection):
    connection.sendall(LIVE.replace(b"\r\n\r\n", b"\r\ncontent-length: 4\r\n\r\nGET ") + infer(1))
    assert [status for status, _ in read(connection, responses=2)] == [200, 200]


@pytest.mark.parametrize(
    "lengths",
    [
        b"content-length: 3\r\ncontent-length: 4\r\n",
        b"content-length: 3, 3\r\n",
        b"content-length: -3\r\n",
        b"content-length: 3\r\ntransfer-encoding: chunked\r\n",
        b"transfer-encoding: chunked, identity\r\n",
    ],
)
def test_lengths_that_contradict_each_other_are_refused(connection, lengths):
    connection.sendall(b"POST /v2/models/gate/infer HTTP/1.1\r\n" + lengths + b"\r\nabc" + LIVE)
    ((status, body),) = read(connection)
    assert status == 400
    assert error(body)
    assert is_closed(connection)
