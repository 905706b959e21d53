"""Builds, once, what makes compilers cheap: the C++ header compiled ahead, the classes of the Java server.

    prepare(folder) --> zq_all.hpp, zq_all.hpp.gch, bits/stdc++.h   C++
                        *.class of JavaServer, jdk-lib (a link)     Java
                        ts_server.js                                TypeScript

The folder is read-only for programs. The C++ header leaves out what makes loading it slow (regex, filesystem, future,
thread, ...): a program that names any of these gets the whole of <bits/stdc++.h> besides (drivers.cpp_headers).
"""

from __future__ import annotations

import shutil
import subprocess
from importlib import resources
from pathlib import Path

from evaluator.sandbox.languages import JAVA_EXPORTS, LANGUAGES, PATH

_CPP_HEADERS = """
    algorithm array bitset cassert cctype cfenv chrono cinttypes climits cmath complex cstdarg cstddef cstdint cstdio
    cstdlib cstring ctime deque exception forward_list fstream functional initializer_list iomanip iostream iterator
    limits list map memory new numeric optional queue random ratio set sstream stack stdexcept string string_view
    tuple type_traits typeinfo unordered_map unordered_set utility variant vector
"""

# Takes the place of the library's own: its headers are all there already.
SHADOW = "#ifdef ZQ_WHOLE_LIBRARY\n#include_next <bits/stdc++.h>\n#endif\n"


class ToolchainError(RuntimeError):
    """A compiler could not build what it should; the text is what it said."""


def prepare(folder: Path, languages: set[str]) -> None:
    """Build for `languages` (those whose tools are there) into `folder`, which exists. ToolchainError on failure."""
    compilers = resources.files("evaluator.sandbox") / "compilers"
    if "cpp" in languages:
        header = folder / "zq_all.hpp"
        header.write_text("".join(f"#include <{name}>\n" for name in _CPP_HEADERS.split()))
        (folder / "bits").mkdir(exist_ok=True)
        (folder / "bits" / "stdc++.h").write_text(SHADOW)
        flags = [word for word in LANGUAGES["cpp"].compile or () if word.startswith(("-std", "-O"))]
        _build(["g++", *flags, "-w", "-x", "c++-header", str(header), "-o", f"{header}.gch"])
    if "java" in languages:
        java = shutil.which("java", path=PATH)
        if java is None:
            raise ToolchainError(f"no java on {PATH}")
        # Where the JVM's libraries are; it looks at /proc/self/exe for that, which programs do not have.
        link = folder / "jdk-lib"
        link.unlink(missing_ok=True)
        link.symlink_to(Path(java).resolve().parents[1] / "lib")
        with resources.as_file(compilers / "JavaServer.java") as source:
            _build(["javac", *JAVA_EXPORTS, "-nowarn", "-d", str(folder), str(source)])
    if "typescript" in languages:
        with resources.as_file(compilers / "ts_server.js") as source:
            shutil.copyfile(source, folder / "ts_server.js")


def _build(argv: list[str]) -> None:
    done = subprocess.run(argv, env={"PATH": PATH, "LANG": "C.UTF-8"}, capture_output=True, text=True, timeout=300)
    if done.returncode:
        raise ToolchainError(f"'{' '.join(argv)}' exited {done.returncode}: {done.stderr.strip()[-2000:]}")
