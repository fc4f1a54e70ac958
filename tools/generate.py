"""Generate the code of the contract: `generate.py [--check] [LANGUAGE ...]`, all languages unless some are named.

With `--check` nothing is written; the exit code is 1 when what is committed differs from what `proto/` gives. A
language whose generators are not installed is left out, with a loud word about it.
"""

from __future__ import annotations

import argparse
import filecmp
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata, resources
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = Path("lightning_store")
ERRORS = ("google/rpc/status.proto", "google/rpc/error_details.proto")
NODE_PLUGIN = ROOT / "clients/typescript/node_modules/.bin/protoc-gen-es"
GO_PLUGINS = {"protoc-gen-go": "v1.28.1", "protoc-gen-go-grpc": "1.0"}
"""Those of Debian 12, in whose name the generated code is committed."""
GO_PACKAGE = "agentlightning/lightningstore"


@dataclass(frozen=True)
class Language:
    """How the code of one language comes about."""

    folder: Path
    """Where it is committed; nothing else lies there."""
    generate: Callable[[Path], None]
    """Writes it below a folder."""
    missing: Callable[[], str | None] = lambda: None
    """Returns what this machine lacks for it."""


def compile_protos(*options: str, also: tuple[str, ...] = ()) -> None:
    """Run protoc on the contract, and on further files that Python packages bring."""
    search = [ROOT / "proto", resources.files("grpc_tools") / "_proto"]
    if also:
        search.append(Path(str(metadata.distribution("googleapis-common-protos").locate_file(""))))
    paths = [f"--proto_path={folder}" for folder in search]
    code = protoc.main(["protoc", *paths, *options, *protos(), *also])
    if code:
        sys.exit(code)


def protos() -> list[str]:
    """Return the files of the contract, relative to `proto/`."""
    return sorted(str(path.relative_to(ROOT / "proto")) for path in (ROOT / "proto").rglob("*.proto"))


def python(output: Path) -> None:
    """Write the modules and type stubs of every `.proto` file."""
    scripts = str(Path(sys.executable).parent)
    image = output / "image.binpb"
    compile_protos(
        f"--plugin=protoc-gen-mypy={shutil.which('protoc-gen-mypy', path=scripts)}",
        f"--plugin=protoc-gen-mypy_grpc={shutil.which('protoc-gen-mypy_grpc', path=scripts)}",
        f"--python_out={output}",
        f"--grpc_python_out={output}",
        f"--mypy_out=quiet:{output}",
        f"--mypy_grpc_out=quiet:{output}",
        f"--descriptor_set_out={image}",
    )
    for path in sorted((output / PACKAGE).rglob("*_pb2_grpc.py")):
        if "_service" not in path.name:
            path.unlink()
            path.with_suffix(".pyi").unlink(missing_ok=True)
    (output / PACKAGE / "__init__.py").touch()
    (output / PACKAGE / "py.typed").touch()
    (output / PACKAGE / "v1" / "__init__.py").write_text(index(FileDescriptorSet.FromString(image.read_bytes())))
    image.unlink()


def index(image: FileDescriptorSet) -> str:
    """Return the text of a module that holds every message and enum, for `from lightning_store import v1`."""
    lines = []
    for file in image.file:
        module = file.name.removesuffix(".proto").replace("/", ".") + "_pb2"
        names = [message.name for message in file.message_type]
        for enum in file.enum_type:
            names += [enum.name, *(value.name for value in enum.value)]
        lines += [f"from {module} import {name} as {name}" for name in sorted(names)]
    return '"""Every message and enum of the contract; the services are in the modules `*_service_pb2_grpc`."""\n\n' + (
        "\n".join(lines) + "\n"
    )


def typescript(output: Path) -> None:
    """Write the messages and services of every `.proto` file, and those of errors."""
    compile_protos(
        f"--plugin=protoc-gen-es={NODE_PLUGIN}",
        f"--es_out={output}",
        "--es_opt=target=ts,import_extension=js",
        also=ERRORS,
    )


def missing_for_typescript() -> str | None:
    """Return what is missing to generate TypeScript."""
    if shutil.which("node") is None:
        return "there is no node"
    return None if NODE_PLUGIN.exists() else "run `npm ci` in clients/typescript first"


def go(output: Path) -> None:
    """Write one package with the messages and the gRPC stubs."""
    # The contract names no package of any one language.
    packages = [f"M{name}={GO_PACKAGE}" for name in protos()]
    options = ",".join([*packages, f"module={GO_PACKAGE}"])
    compile_protos(f"--go_out={options}:{output}", f"--go-grpc_out={options}:{output}")


def missing_for_go() -> str | None:
    """Return what is missing to generate Go."""
    for plugin, wanted in GO_PLUGINS.items():
        if shutil.which(plugin) is None:
            return f"there is no {plugin}"
        version = subprocess.run([plugin, "--version"], capture_output=True, text=True, check=True).stdout.split()[-1]
        if version != wanted:
            return f"{plugin} is {version}, not {wanted}"
    return None


LANGUAGES = {
    "python": Language(ROOT / "gen/python" / PACKAGE, python),
    "typescript": Language(ROOT / "clients/typescript/src/gen", typescript, missing_for_typescript),
    "go": Language(ROOT / "clients/go/lightningstore", go, missing_for_go),
}


def files(root: Path) -> set[str]:
    """Return the paths of the files below `root`, relative to it."""
    return {
        str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() and "__pycache__" not in path.parts
    }


def differing(fresh: Path, committed: Path) -> set[str]:
    """Return the paths of files that are not the same on both sides."""
    here, there = files(fresh), files(committed)
    return (here ^ there) | {
        name for name in here & there if not filecmp.cmp(fresh / name, committed / name, shallow=False)
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("languages", nargs="*", metavar="LANGUAGE", help=", ".join(LANGUAGES))
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    faults = []
    for name in options.languages or LANGUAGES:
        language = LANGUAGES[name]
        if lack := language.missing():
            outcome = "CHECKED" if options.check else "GENERATED"
            print(f"*** NOT {outcome}: the code of the contract in {name}: {lack} ***", file=sys.stderr)
            continue
        with tempfile.TemporaryDirectory() as folder:
            language.generate(Path(folder))
            fresh = Path(folder) / PACKAGE if name == "python" else Path(folder)
            if options.check:
                where = language.folder.relative_to(ROOT)
                faults += [f"{where}/{path}" for path in sorted(differing(fresh, language.folder))]
            else:
                shutil.rmtree(language.folder, ignore_errors=True)
                shutil.copytree(fresh, language.folder)
    if faults:
        sys.exit("generated code differs from proto/; run `make gen`:\n  " + "\n  ".join(faults))


if __name__ == "__main__":
    main()
