"""Generate the Python code of the contract: `generate.py [--check] OUTPUT`.

With `--check` nothing is written; the exit code is 1 when OUTPUT differs from what `proto/` gives.
"""

from __future__ import annotations

import argparse
import filecmp
import shutil
import sys
import tempfile
from importlib import resources
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = Path("lightning_store")


def generate(output: Path) -> None:
    """Write the modules and type stubs of every `.proto` file below `output`."""
    protos = sorted(str(path.relative_to(ROOT / "proto")) for path in (ROOT / "proto").rglob("*.proto"))
    well_known = resources.files("grpc_tools") / "_proto"
    plugin = shutil.which("protoc-gen-mypy", path=str(Path(sys.executable).parent))
    image = output / "image.binpb"
    grpc_plugin = shutil.which("protoc-gen-mypy_grpc", path=str(Path(sys.executable).parent))
    code = protoc.main(
        [
            "protoc",
            f"--proto_path={ROOT / 'proto'}",
            f"--proto_path={well_known}",
            f"--plugin=protoc-gen-mypy={plugin}",
            f"--plugin=protoc-gen-mypy_grpc={grpc_plugin}",
            f"--python_out={output}",
            f"--grpc_python_out={output}",
            f"--mypy_out=quiet:{output}",
            f"--mypy_grpc_out=quiet:{output}",
            f"--descriptor_set_out={image}",
            *protos,
        ]
    )
    if code:
        sys.exit(code)
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


def files(root: Path) -> set[str]:
    """Return the paths of the generated files below `root`, relative to it."""
    found = (root / PACKAGE).rglob("*")
    return {str(path.relative_to(root)) for path in found if path.is_file() and "__pycache__" not in path.parts}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder)
        generate(fresh)
        if not options.check:
            shutil.rmtree(options.output / PACKAGE, ignore_errors=True)
            shutil.copytree(fresh / PACKAGE, options.output / PACKAGE)
            return
        differing = files(fresh) ^ files(options.output)
        differing |= {
            name
            for name in files(fresh) & files(options.output)
            if not filecmp.cmp(fresh / name, options.output / name, shallow=False)
        }
    if differing:
        sys.exit("gen/ differs from proto/; run `make gen`:\n  " + "\n  ".join(sorted(differing)))


if __name__ == "__main__":
    main()
