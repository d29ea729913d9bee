"""A Git repository of a test's own, written by the git program with a configuration of its own; and one served over HTTP."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from http_thread import on_thread

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed: apt-get install git")
_WHO = (
    "-c",
    "user.name=A. Writer",
    "-c",
    "user.email=writer@example.net",
    "-c",
    "init.defaultBranch=main",
    "-c",
    "core.hooksPath=",
)


class GitRepository:
    """A repository with a working tree at `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True)
        self.git("init", "--quiet")

    @property
    def place(self) -> str:
        """As a source."""
        return f"git+file://{self.path}"

    def git(self, *arguments: str, given: bytes | None = None) -> str:
        """What git says."""
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.path), "GIT_CONFIG_NOSYSTEM": "1", "LC_ALL": "C"}
        done = subprocess.run(
            ["git", *_WHO, *arguments], cwd=self.path, env=environment, input=given, capture_output=True, check=True
        )
        return done.stdout.decode().strip()

    def commit(self, **files: str | None) -> str:
        """Commit what is in the working tree, and these files, by path; `None` removes one. Returns the commit."""
        for name, text in files.items():
            if text is None:
                (self.path / name).unlink()
            else:
                (self.path / name).parent.mkdir(parents=True, exist_ok=True)
                (self.path / name).write_text(text)
        self.git("add", "--all", "--force")
        self.git("commit", "--quiet", "--allow-empty", "--message", "a change")
        return self.git("rev-parse", "HEAD")

    def commit_tree(self, *entries: tuple[str, str, str, str]) -> str:
        """Commit a tree of these entries (mode, type, hash, path) as it is, whatever git itself would refuse to add."""
        raw = b"".join(f"{mode.lstrip('0')} {path}\0".encode() + bytes.fromhex(oid) for mode, _, oid, path in entries)
        tree = self.git("hash-object", "-t", "tree", "--literally", "-w", "--stdin", given=raw)
        return self.commit_of(tree)

    def commit_of(self, tree: str) -> str:
        """Commit a tree that is there."""
        made = self.git("commit-tree", "-m", "a change", tree)
        self.git("update-ref", "refs/heads/main", made)
        return made

    def blob(self, data: bytes) -> str:
        """The hash of bytes that were written to it."""
        return self.git("hash-object", "-w", "--stdin", given=data)


class GitServer(ThreadingHTTPServer):
    """Serves the repositories below `root` by git's own http-backend; `authorization` must be that header's value, if it is set.

    `moved` is where it says that all of them are, if that is set. `asked` are the paths that were asked for.
    """

    daemon_threads = True

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.root = root
        self.authorization = self.moved = ""
        self.asked: list[str] = []

    def place(self, name: str) -> str:
        """A repository as a source."""
        return f"git+http://127.0.0.1:{self.server_port}/{name}"


class _Handler(BaseHTTPRequestHandler):
    server: GitServer

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        if self.server.moved:
            self.send_response(302)
            self.send_header("Location", self.server.moved + self.path)
            self.end_headers()
        elif self.server.authorization not in ("", self.headers.get("Authorization")):
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="git"')
            self.end_headers()
        else:
            self._backend()

    do_POST = do_GET

    def _backend(self) -> None:
        path, _, query = self.path.partition("?")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        environment = {
            "PATH": os.environ["PATH"],
            "GIT_PROJECT_ROOT": str(self.server.root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "REQUEST_METHOD": self.command,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),
        }
        done = subprocess.run(["git", "http-backend"], env=environment, input=body, capture_output=True, check=False)
        head, _, said = done.stdout.partition(b"\r\n\r\n")
        fields = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
        self.send_response(int(fields.pop("Status", "200").split()[0]))
        for name, value in fields.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def git_server(root: Path) -> Iterator[GitServer]:
    """Serve the repositories below a folder."""
    with on_thread(GitServer(root)) as server:
        yield server
