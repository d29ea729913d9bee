"""The language of source code, by a file's name, its suffix, or the interpreter on its first line."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

_LANGUAGES = {
    "ada": "adb ads",
    "apex": "trigger",
    "asm": "asm s",
    "awk": "awk",
    "bash": "sh bash zsh ksh fish",
    "batch": "bat cmd",
    "c": "c h",
    "clojure": "clj cljs cljc edn",
    "cmake": "cmake",
    "cobol": "cob cbl",
    "cpp": "cc cpp cxx hh hpp hxx ipp inl",
    "csharp": "cs csx",
    "css": "css scss sass less",
    "cuda": "cu cuh",
    "cython": "pyx pxd",
    "d": "d",
    "dart": "dart",
    "diff": "diff patch",
    "dockerfile": "dockerfile",
    "elixir": "ex exs",
    "elm": "elm",
    "erlang": "erl hrl",
    "fortran": "f f77 f90 f95 f03 f08 for",
    "fsharp": "fs fsx fsi",
    "glsl": "glsl vert frag",
    "go": "go",
    "graphql": "graphql gql",
    "groovy": "groovy gradle",
    "haskell": "hs lhs",
    "hcl": "tf hcl tfvars",
    "ini": "ini cfg conf properties env",
    "java": "java",
    "javascript": "js mjs cjs jsx",
    "json": "json jsonl json5 geojson",
    "julia": "jl",
    "kotlin": "kt kts",
    "lisp": "lisp cl el scm rkt",
    "lua": "lua",
    "makefile": "mk mak",
    "matlab": "m",
    "nim": "nim",
    "nix": "nix",
    "objectivec": "mm",
    "ocaml": "ml mli",
    "pascal": "pas pp",
    "perl": "pl pm",
    "php": "php phtml",
    "powershell": "ps1 psm1",
    "prolog": "pro",
    "protobuf": "proto",
    "python": "py pyi pyw",
    "r": "r",
    "ruby": "rb rake gemspec",
    "rust": "rs",
    "scala": "scala sc sbt",
    "solidity": "sol",
    "sql": "sql ddl",
    "svelte": "svelte",
    "swift": "swift",
    "tcl": "tcl",
    "terraform": "tfstate",
    "tex": "tex sty cls bib",
    "thrift": "thrift",
    "toml": "toml",
    "typescript": "ts tsx mts cts",
    "verilog": "v sv svh",
    "vhdl": "vhd vhdl",
    "vim": "vim",
    "vue": "vue",
    "xml": "xml xsd xsl xslt svg wsdl plist",
    "yaml": "yaml yml",
    "zig": "zig",
}
_LANGUAGE_OF = {f".{suffix}": name for name, suffixes in _LANGUAGES.items() for suffix in suffixes.split()}
_NAMED = {"makefile": "makefile", "dockerfile": "dockerfile", "cmakelists.txt": "cmake", "jenkinsfile": "groovy"}
_NAMED |= {"rakefile": "ruby", "gemfile": "ruby", "vagrantfile": "ruby"}
_SHEBANG = re.compile(
    rb"^(?:\xef\xbb\xbf)?#![^\r\n]{0,200}?\b(python|bash|zsh|ksh|sh|perl|ruby|node|php|lua|awk|Rscript|tclsh)[\d.]*\b"
)
_INTERPRETERS = {"zsh": "bash", "ksh": "bash", "sh": "bash", "node": "javascript", "rscript": "r", "tclsh": "tcl"}


def language_of(name: str, data: bytes) -> str:
    """The language of a file's source code, or "" where neither name nor first line shows one."""
    path = PurePosixPath(name.lower())
    if language := _NAMED.get(path.name) or _LANGUAGE_OF.get(path.suffix, ""):
        return language
    if match := _SHEBANG.match(data[:256]):
        interpreter = match[1].decode().lower()
        return _INTERPRETERS.get(interpreter, interpreter)
    return "php" if data[:64].lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<?php") else ""
