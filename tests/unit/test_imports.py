"""Importing libraries without some of their modules: what is left out, and what is as before for everybody else."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from headrace.imports import replaced, when_used, without


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], None]]:
    """Makes modules that can be imported, and forgets them at the end."""
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)

    def make(name: str, text: str) -> None:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))

    yield make
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_what_is_left_out_is_as_if_not_installed_and_can_be_imported_afterwards(library: Callable[[str, str], None]) -> None:
    library("lib_a/__init__.py", "try:\n    from . import extra\nexcept ImportError:\n    extra = None\n")
    library("lib_a/extra.py", "")
    with without("lib_a.extra"):
        import lib_a  # type: ignore[import-not-found]
    assert lib_a.extra is None
    import lib_a.extra  # type: ignore[import-not-found]

    with without("lib_a.extra"):  # it is there already
        import lib_a.extra  # type: ignore[import-not-found]


def test_a_module_is_imported_once_it_is_used(library: Callable[[str, str], None]) -> None:
    library(
        "lib_b/__init__.py",
        "import lib_b.grammar as grammar\nimport heavy_b\ndef run():\n    return grammar.word, heavy_b.load()\n",
    )
    library("lib_b/grammar.py", "word = 'w'\n")
    library("heavy_b.py", "def load():\n    return 7\n")
    with when_used("heavy_b"):
        import lib_b as first  # type: ignore[import-not-found]
    assert "heavy_b" not in sys.modules
    assert first.run() == ("w", 7)
    assert isinstance(sys.modules["heavy_b"], ModuleType)
    import heavy_b  # type: ignore[import-not-found]

    assert heavy_b.load() == 7
    with when_used("heavy_b"):  # it is there already
        assert sys.modules["heavy_b"] is heavy_b


def test_a_module_of_a_package_is_imported_once_it_is_used(library: Callable[[str, str], None]) -> None:
    library("lib_c/__init__.py", "")
    library("lib_c/grammar/__init__.py", "")
    library("lib_c/grammar/parser.py", "import heavy_c\ndef parse():\n    return heavy_c.__name__\n")
    library("lib_c/table.py", "import lib_c.grammar.parser as parser\ndef run():\n    return parser.parse()\n")
    library("heavy_c.py", "")
    with when_used("lib_c.grammar.parser"):
        from lib_c import table  # type: ignore[import-not-found]
    assert not {"lib_c.grammar.parser", "heavy_c"} & set(sys.modules)
    assert table.run() == "heavy_c"


def test_a_use_within_the_block_imports_it_and_what_is_no_name_of_it_is_an_error(library: Callable[[str, str], None]) -> None:
    library("heavy_d.py", "one = 1\n")
    with when_used("heavy_d"):
        import heavy_d  # type: ignore[import-not-found]
        from heavy_d import one  # type: ignore[import-not-found]

        assert (one, heavy_d.one) == (1, 1)
    with pytest.raises(AttributeError):
        _ = heavy_d.two
    with when_used("missing_d"):
        import missing_d  # type: ignore[import-not-found]
    with pytest.raises(ModuleNotFoundError):
        _ = missing_d.one


def test_threads_that_use_it_at_once_get_the_same(library: Callable[[str, str], None]) -> None:
    library("heavy_e.py", "import time\ntime.sleep(0.05)\nthing = object()\n")
    with when_used("heavy_e"):
        import heavy_e  # type: ignore[import-not-found]
    found: list[object] = []
    threads = [threading.Thread(target=lambda: found.append(heavy_e.thing)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(map(id, found))) == 1


def test_a_replacement_is_gone_afterwards(library: Callable[[str, str], None]) -> None:
    library("real_f.py", "name = 'real'\n")
    other = ModuleType("real_f")
    vars(other)["name"] = "other"
    with replaced(real_f=other):
        from real_f import name  # type: ignore[import-not-found]
    assert name == "other"
    import real_f  # type: ignore[import-not-found]

    assert real_f.name == "real"


def test_libraries_are_imported_without_what_no_command_needs() -> None:
    program = """
        import sys
        import headrace.storage.vectors.lance, headrace.storage.tables.iceberg.table, headrace.models.client
        print(*sorted({"overrides", "strictyaml", "pyparsing", "click", "pygments", "httpx._main", "psutil"} & set(sys.modules)))
        from headrace.storage.tables.predicate import parsed
        from pyiceberg.table import _parse_row_filter
        where = "a = 'x' and b > 3"
        assert parsed(where) == _parse_row_filter(where)
        from pyiceberg.utils.config import Config
        print(Config().config)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=False)
    assert (done.stdout.splitlines()[:1], done.stderr) == ([""], "")


def test_the_settings_file_of_pyiceberg_is_read(tmp_path: Path) -> None:
    (tmp_path / ".pyiceberg.yaml").write_text("max-workers: 3\n")
    program = "import headrace.storage.tables; from pyiceberg.utils.config import Config; print(Config().get_int('max-workers'))"
    env = {"PYICEBERG_HOME": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, env=env)
    assert (done.stdout, done.stderr) == ("3\n", "")


def test_lancedb_is_imported_beside_other_imports() -> None:
    """Another thread that imports meanwhile goes through the same list of finders."""
    program = """
        import sys
        finders = sys.meta_path
        import headrace.storage.vectors.lance as lance
        assert finders is not sys.meta_path, "the list was changed in place"
        assert not any(type(finder).__module__ == lance.__name__ for finder in [*finders, *sys.meta_path])
        assert lance.lancedb.db.DBConnection.table_names
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
