"""A Kafka broker that can delete records: a proxy in front of Tansu, which cannot, that answers DeleteRecords itself.

Every other request goes through. Formats: https://kafka.apache.org/protocol (DeleteRecords v2).
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from pathlib import Path

from headrace.platform.address import HEAD
from headrace.platform.child import Child
from headrace.platform.tansu import broker_binary

_DELETE_RECORDS = 21
Asked = list[tuple[str, int, int]]


class DeletingBroker:
    """`bootstrap` answers as Tansu over the object store of `servers`; `asked` collects (topic, partition, before)."""

    def __init__(self, servers: object, log: Path) -> None:
        endpoints, keys = servers.endpoints, servers._keys  # type: ignore[attr-defined]
        self.asked: Asked = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.bootstrap = f"127.0.0.1:{self._listener.getsockname()[1]}"
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        env = {
            "PATH": "",
            "AWS_ENDPOINT": endpoints.s3_endpoint,
            "AWS_ACCESS_KEY_ID": endpoints.s3_access_key,
            "AWS_SECRET_ACCESS_KEY": endpoints.s3_secret_key,
            "AWS_DEFAULT_REGION": endpoints.s3_region,
            "AWS_ALLOW_HTTP": "true",
        }
        words = [broker_binary(), "broker", "--cluster-id", keys.cluster_id, "--storage-engine", f"s3://{HEAD}/"]
        words += ["--listener-url", f"tcp://127.0.0.1:{self._port}", "--advertised-listener-url", f"tcp://{self.bootstrap}"]
        self._child = Child("Tansu", words, env=env, cwd=log.parent, log=log)
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """End both."""
        self._child.process.kill()
        self._child.process.wait()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._connection, args=(client,), daemon=True).start()

    def _connection(self, client: socket.socket) -> None:
        server = None
        for _ in range(100):
            with contextlib.suppress(OSError):
                server = socket.create_connection(("127.0.0.1", self._port))
                break
            threading.Event().wait(0.05)
        assert server is not None

        def back() -> None:
            with contextlib.suppress(OSError):
                while data := server.recv(65536):
                    client.sendall(data)

        threading.Thread(target=back, daemon=True).start()
        with contextlib.suppress(OSError, struct.error):
            while frame := _frame(client):
                if struct.unpack_from(">h", frame)[0] == _DELETE_RECORDS:
                    client.sendall(self._delete(frame))
                else:
                    server.sendall(struct.pack(">i", len(frame)) + frame)
        for one in (client, server):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _delete(self, frame: bytes) -> bytes:
        _, version, correlation, client = struct.unpack_from(">hhih", frame)
        assert version == 2, "the one this client sends"
        at = 10 + max(client, 0) + 1  # no tags; lengths below are one more than they are, and small
        topics = frame[at] - 1
        at += 1
        answer = struct.pack(">ibib", correlation, 0, 0, topics + 1)
        for _ in range(topics):
            length = frame[at] - 1
            name = frame[at + 1 : at + 1 + length]
            at += 1 + length
            count = frame[at] - 1
            at += 1
            answer += bytes([length + 1]) + name + bytes([count + 1])
            for _ in range(count):
                partition, before = struct.unpack_from(">iq", frame, at)
                at += 13
                self.asked.append((name.decode(), partition, before))
                answer += struct.pack(">iqhb", partition, before, 0, 0)
            at += 1
            answer += b"\0"
        answer += b"\0"
        return struct.pack(">i", len(answer)) + answer


def _frame(connection: socket.socket) -> bytes:
    head = _exactly(connection, 4)
    return _exactly(connection, struct.unpack(">i", head)[0]) if head else b""


def _exactly(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = connection.recv(size - len(data))
        if not piece:
            return b""
        data += piece
    return data
